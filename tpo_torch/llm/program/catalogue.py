"""What language models add to `tpo verify` and `tpo figure`: the exactness check, and the folders of runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tpo_ref.study.estimates import Estimate
from tpo_ref.study.protocol import Case, Catalogue, Check, Drawing, FolderKind
from tpo_ref.study.styles import DARK_PURPLE, DOTTED, GREEN, LONG, ONE_DOT, PURPLE, SKY, Style
from tpo_torch.llm import check_installed
from tpo_torch.llm.program.places import RECORD

SEED_SUFFIX = r"-seed\d+$"


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a language-model run."""
    return (folder / RECORD).is_file()


def draw(names: Sequence[str], out: Path, suffix: str) -> Drawing:
    """Draw the curves of run folders together into OUT/figures."""
    check_installed()
    from tpo_torch.llm.program import curves

    # Seeds of one run share a curve, and the name of the file.
    stems = dict.fromkeys(re.sub(SEED_SUFFIX, "", Path(name).resolve().name) for name in names)
    path = out / "figures" / f"{'-'.join(stems)}.{suffix}"
    folders = [Path(name) for name in names]
    summary = curves.summary(folders)
    header = ["", "seeds", "training reward, all steps", "last tenth of the steps", "accuracy at the end"]
    rows = [
        [f["name"], str(f["seeds"]), *(_estimate(f[key]) for key in ("reward", "last", "accuracy"))] for f in summary
    ]
    return Drawing(curves.figure(folders, path), "means over seeds ± standard errors", [header, *rows])


def exactness_cases() -> Sequence[Case]:
    """Every layout of the exactness check, on one process and on several."""
    check_installed()
    from tpo_torch.llm.program.exactness import check as exactness

    return exactness.verify(together=True)


CATALOGUE = Catalogue(
    checks=(
        Check(
            "llm-exactness",
            "gradient of the trainer against whole groups, in double precision",
            ("layout", "processes x micro-batches x rows", "steps", "largest entry", "relative difference", "verdict"),
            exactness_cases,
        ),
    ),
    folders=(FolderKind("language-model run", holds_run, draw),),
    styles={
        # The default, anchor "ratio", is called TPO in pictures of language models; here is the paper's own form.
        "tpo_policy": Style("TPO, the paper's anchor", SKY, (0, (6, 2))),
        "tpo_reverse": Style("TPO, reverse divergence", GREEN, LONG),
        "lpo": Style("LPO", PURPLE, DOTTED),
        "lpo_reverse": Style("LPO, reverse divergence", DARK_PURPLE, ONE_DOT),
    },
)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "—"
    return f"{estimate.value:.3f}" + (f" ± {estimate.error:.3f}" if estimate.n > 1 else "")
