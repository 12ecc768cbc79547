#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["torch", "numpy", "nvidia-ml-py"]
# ///
"""The entry of the probe: `uv run files/torch_probe.py`. The program is the package `torch_probe` beside this file.

A package wins over a module of the same name in one directory, so `import torch_probe` is never this file.
"""

import sys
from pathlib import Path

# `python -I` and PYTHONSAFEPATH leave the script's own directory out of the search path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from torch_probe.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
