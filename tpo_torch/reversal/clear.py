"""The clear twin of the sequence runs: one seed, the whole sequence through the model for each token and candidate.

No cache, no shared prompt, no merging, no stack of seeds, no folding: what the fast engine must equal, and the measure
of what it saves. Candidates stand side by side in a batch, as anyone would write it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from tpo_torch.muon import Muon
from tpo_torch.reversal.settings import ReversalSettings
from tpo_torch.reversal.table import GROUP, SINGLE, TABLE, TOKEN, own_name
from tpo_torch.shared.transformer import RULES, CausalTransformer

if TYPE_CHECKING:
    from tpo_torch.reversal.engine import Draws

HEADS = 2
NORM_EPSILON = 1e-6
# GRPO's guard against a deviation of 0, and the limit of its log-ratio (deviations D30, D31).
EPSILON_STD = 1e-8
LOG_RATIO_LIMIT = 20.0


def clear_policy(net: CausalTransformer, tokens: Tensor) -> Tensor:
    """Log-probabilities of the token that follows each prefix of some sequences, by the net's first seed.

    Paper: Sec. 5 (its transformer)

    x ← x + Attention(LN(x)), x ← x + FFN(LN(x)) in each layer, causally; log softmax(LN(x) W + b).

    Args: tokens (N, T). Returns: (N, T, V).

    >>> net = CausalTransformer([torch.Generator().manual_seed(0)], vocab=3, places=4)
    >>> clear_policy(net, torch.zeros(5, 2, dtype=torch.int64)).shape
    torch.Size([5, 2, 3])
    """
    p = {name: parameter[0] for name, parameter in net.named_parameters()}
    x = p["embedding"][tokens] + p["positions"][: tokens.shape[1]]
    for i in range(len(p["attention_in_weight"])):
        x = x + _attention(_norm(x, p["attention_norm_scale"][i], p["attention_norm_shift"][i]), p, i)
        h = _norm(x, p["ffn_norm_scale"][i], p["ffn_norm_shift"][i])
        h = functional.gelu(h @ p["ffn_in_weight"][i] + p["ffn_in_bias"][i], approximate="tanh")
        x = x + h @ p["ffn_out_weight"][i] + p["ffn_out_bias"][i]
    x = _norm(x, p["final_norm_scale"], p["final_norm_shift"])
    return functional.log_softmax(x @ p["head_weight"] + p["head_bias"], -1)


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return functional.layer_norm(x, scale.shape, scale, shift, NORM_EPSILON)


def _attention(x: Tensor, p: dict[str, Tensor], i: int) -> Tensor:
    qkv = x @ p["attention_in_weight"][i] + p["attention_in_bias"][i].flatten()
    query, key, value = (part.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return read.transpose(1, 2).flatten(2) @ p["attention_out_weight"][i] + p["attention_out_bias"][i]


@torch.no_grad()
def clear_generate(net: CausalTransformer, draws: Draws) -> tuple[Tensor, Tensor]:
    """Answers to the first seed's prompts, and further tokens beside those of each prompt's first answer.

    Every token: the whole sequence so far of each of the B·K answers, and the policy after its last token.

    Returns: answers (B, K, H), others (B, H, C).
    """
    prompts, uniforms, more = draws.prompts[0], draws.uniforms[0], draws.more[0]
    return _generate(net, prompts, uniforms, more)


def _generate(net: CausalTransformer, prompts: Tensor, uniforms: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    batch, answers, horizon = uniforms.shape
    sequences, others = prompts.repeat_interleave(answers, 0), []
    for t in range(horizon):
        policy = clear_policy(net, sequences)[:, -1]
        tokens = _sample(policy, uniforms[:, :, t].reshape(-1, 1))
        others.append(_sample(policy[::answers], more[:, t]))
        sequences = torch.cat([sequences, tokens], 1)
    return sequences[:, horizon:].view(batch, answers, horizon), torch.stack(others, 1)


def _sample(policy: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (N, C) by inverse CDF: of policies (N, V), in logarithms, at uniforms (N, C)."""
    bounds = policy.exp().cumsum(-1)[:, :-1].contiguous()
    return torch.searchsorted(bounds, uniforms.to(bounds.dtype).contiguous(), right=True)


def clear_logp(net: CausalTransformer, prompts: Tensor, answers: Tensor) -> Tensor:
    """Log-probabilities of the tokens of answers, each answer a sequence of its own behind its own copy of the prompt.

    Args: prompts (B, H), answers (B, K, H). Returns: (B, K, H).
    """
    horizon = prompts.shape[1]
    sequences = torch.cat([prompts.unsqueeze(1).expand_as(answers), answers], -1).flatten(0, 1)
    # The prediction after the last token is left out.
    policy = clear_policy(net, sequences[:, :-1])[:, horizon - 1 :]
    return policy.gather(-1, answers.flatten(0, 1).unsqueeze(-1)).view(answers.shape)


def clear_candidate_logp(net: CausalTransformer, prompts: Tensor, answers: Tensor, others: Tensor) -> Tensor:
    """Log-probabilities of the candidates for each token of one answer, its own token first; each prefix is a new pass.

    Args: prompts, answers (B, H), others (B, H, C). Returns: (B, H, 1 + C).
    """
    candidates = torch.cat([answers.unsqueeze(-1), others], -1)
    rows = []
    for t in range(prompts.shape[1]):
        prefix = torch.cat([prompts, answers[:, :t]], 1)
        rows.append(clear_policy(net, prefix)[:, -1].gather(-1, candidates[:, t]))
    return torch.stack(rows, 1)


class ClearTraining:
    """A run of one method for one seed, as `engine.training.ReversalTraining` without a device.

    Raises: ValueError for an unknown method, or the terminal reward with a token-level one.
    """

    def __init__(self, method: str, settings: ReversalSettings, seed: int) -> None:
        self.method = own_name(method)
        self.sampling = TABLE[self.method]
        if self.sampling.samples == TOKEN and settings.reward == "terminal":
            raise ValueError(f"{method}: got reward 'terminal', expected 'bag' or 'sequential'")
        self.settings = settings
        self.generator = torch.Generator().manual_seed(seed)
        dtype = torch.float64 if settings.precision == "float64" else torch.float32
        self.net = CausalTransformer([self.generator], settings.vocab, 2 * settings.horizon).to(dtype)
        self.batch = settings.batch * (settings.group if self.sampling.wide else 1)
        rate = settings.learning_rate * (math.sqrt(settings.group) if self.sampling.wide else 1)
        self.optimizer = Muon(self.net.named_parameters(), RULES, rate)

    def episode(self) -> float:
        """Sample, score, and take the method's gradient steps; the error of the batch that was sampled."""
        s = self.settings
        prompts, answers, others = self.sample()
        right = clear_targets(prompts, s)
        rewards = clear_rewards(answers == right.unsqueeze(1), s.reward).to(self.net.embedding.dtype)
        scores = self.scores(right, answers, others, rewards)
        old = None
        for _ in range(s.epochs or self.sampling.epochs):
            if self.sampling.samples == TOKEN:
                logp = clear_candidate_logp(self.net, prompts, answers[:, 0], others)
            else:
                logp = clear_logp(self.net, prompts, answers)
                logp = logp[:, 0] if self.sampling.samples == SINGLE else logp.sum(-1)
            old = logp.detach() if old is None else old
            self.optimizer.zero_grad()
            loss = clear_loss(self.method, logp, old, scores, s)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return 1 - float(rewards.mean())

    def sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts (B, H), answers (B, K, H) and others (B, H, C) of the next episode."""
        s, g = self.settings, self.generator
        answers = s.group if self.sampling.samples == GROUP else 1
        others = s.group - 1 if self.sampling.samples == TOKEN else 0
        prompts = torch.randint(s.vocab, (self.batch, s.horizon), generator=g)
        uniforms = torch.rand((self.batch, answers, s.horizon), generator=g)
        more = torch.rand((self.batch, s.horizon, others), generator=g)
        with torch.no_grad():
            return prompts, *_generate(self.net, prompts, uniforms, more)

    def scores(self, right: Tensor, answers: Tensor, others: Tensor, rewards: Tensor) -> Tensor:
        """What the method compares: (B, K) answers, (B, H) tokens, or (B, H, K) candidates for each token."""
        if self.sampling.samples == GROUP:
            return rewards.mean(-1)
        if self.sampling.samples == SINGLE:
            return rewards[:, 0]
        columns = []
        for c in range(-1, others.shape[-1]):
            # The answer with its tokens replaced, one at a time, and what the replaced one then earns.
            changed = answers[:, 0] if c < 0 else others[:, :, c]
            earned = []
            for t in range(right.shape[1]):
                tried = torch.cat([answers[:, 0, :t], changed[:, t : t + 1]], 1)
                earned.append(clear_rewards(tried == right[:, : t + 1], self.settings.reward)[:, t])
            columns.append(torch.stack(earned, -1))
        return torch.stack(columns, -1).to(rewards.dtype)


def clear_targets(prompts: Tensor, settings: ReversalSettings) -> Tensor:
    """The right answers (B, H) to prompts (B, H)."""
    right = prompts.flip(1) if settings.target.startswith("reverse") else prompts
    return settings.vocab - 1 - right if settings.target.endswith("flip") else right


def clear_rewards(correct: Tensor, reward: str) -> Tensor:
    """What each token of answers (…, H) earns, as float64."""
    earned = correct.double()
    if reward == "sequential":
        earned = earned.cumprod(-1)
    elif reward == "terminal":
        earned = earned.amin(-1, keepdim=True).expand_as(earned)
    return earned


def clear_loss(method: str, logp: Tensor, old: Tensor, scores: Tensor, s: ReversalSettings) -> Tensor:
    """The mean loss over groups, whose members stand on the last axis of logp, old and scores; written out here."""
    x = logp - old
    above = scores - scores.mean(0)
    spread = scores.std(-1, keepdim=True, correction=0)
    told = scores.amax(-1, keepdim=True) > scores.amin(-1, keepdim=True)
    u = torch.where(told, (scores - scores.mean(-1, keepdim=True)) / spread, 0.0)
    match method.removesuffix("_wide"):
        case "tpo" | "tpo_token":
            losses = _cross_entropy(torch.softmax(torch.log_softmax(old, -1) + u / s.eta, -1), logp)
        case "tpo_ratio" | "tpo_token_ratio":
            losses = _cross_entropy(torch.softmax(u / s.eta, -1), x)
        case "tpo_no_anchor":
            losses = _cross_entropy(torch.softmax(u / s.eta, -1), logp)
        case "group_pg" | "group_pg_once":
            losses = -(u / s.eta * logp).sum(-1)
        case "grpo" | "grpo_token" | "grpo_no_kl" | "grpo_masked":
            x = x.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
            advantages = torch.where(told, (scores - scores.mean(-1, keepdim=True)) / (spread + EPSILON_STD), 0.0)
            penalty = (-x).exp() + x - 1
            beta = 0.0 if method == "grpo_no_kl" else s.beta
            losses = (_clipped(x.exp(), advantages, s.epsilon) + beta * penalty).sum(-1)
            if method == "grpo_masked":
                return losses[told[..., 0]].sum() / told.sum().clamp(min=1)
        case "ppo":
            losses = _clipped(x.exp(), above, s.epsilon).sum(-1)
        case "dg":
            gate = torch.sigmoid(-above * logp.detach() / s.dg_eta)
            losses = -(gate * above * logp).sum(-1)
        case "pg":
            losses = -(above * logp).sum(-1)
        case _:
            raise ValueError(f"{method}: the clear twin has no formula for it")
    return losses.mean()


def _cross_entropy(q: Tensor, logits: Tensor) -> Tensor:
    return -(q.detach() * torch.log_softmax(logits, -1)).sum(-1)


def _clipped(ratio: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
