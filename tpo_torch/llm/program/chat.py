"""Whether a model's chat template takes the prompts of a task: asked before a step is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tpo_torch.llm.tasks import Task


def check(tokenizer: Any, task: Task, options: Mapping[str, Any] | None = None) -> None:
    """ValueError for a template that is not there, or refuses a role, or an order of roles, among the prompts.

    Args: tokenizer; task; options of the template, such as enable_thinking.
    """
    for prompt in _kinds(row["prompt"] for rows in (task.train, task.evaluation) for row in rows):
        try:
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **(options or {}))
        except Exception as error:  # whatever a template raises
            roles = ", ".join(str(message["role"]) for message in prompt)
            if getattr(tokenizer, "chat_template", None) is None:
                what, remedy = "has no chat template", "choose a model that was made for chats"
            else:
                what = f"refuses messages of the roles {roles} ({' '.join(str(error).split())})"
                remedy = "leave that role out (task_options.system=null in tasks of ours)"
            raise ValueError(
                f"task: the tokenizer of the model {what}, and {task.name} asks in chats; {remedy}, or give a copy of "
                "the model another chat_template.jinja"
            ) from error


def _kinds(prompts: Iterable[Any]) -> list[list[dict[str, Any]]]:
    """One chat for each order of roles; prompts that are plain text need no template."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for prompt in prompts:
        if not isinstance(prompt, str):
            found.setdefault(tuple(str(message["role"]) for message in prompt), prompt)
    return list(found.values())
