"""`python -m benchmarks.gpu`: token reversal on one accelerator; `python -m benchmarks.gpu.llm` is its sister."""

import sys

from benchmarks.gpu.reversal import main

if __name__ == "__main__":
    sys.exit(main())
