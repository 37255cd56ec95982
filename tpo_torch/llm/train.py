"""`accelerate launch -m tpo_torch.llm.train ...`: the same as `tpo train ...`, as a module that launchers can start."""

from __future__ import annotations

import sys

from tpo_ref.study.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
