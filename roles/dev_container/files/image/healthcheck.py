"""Whether this container can work: its Python starts, its packages are those that were installed, its GPUs answer.

Importing torch would say more and cost seconds each time; `./dev.sh verify-setup` does that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

NOTE = Path("/opt/venv/.gpufleet.json")
CONTROL = Path("/dev/nvidiactl")


def packages(site: Path) -> list[str]:
    """Return what is installed, by the names of its metadata directories."""
    return sorted(path.name for path in site.glob("*.dist-info"))


def trouble(note: Path = NOTE, control: Path = CONTROL) -> str | None:
    """Return one sentence about what is broken, or None."""
    try:
        noted = json.loads(note.read_text())
        expected, site = noted["packages"], Path(noted["site"])
    except (OSError, ValueError, KeyError) as error:
        return f"{note} cannot be read: {error}"
    found = packages(site)
    if found != expected:
        differs = sorted(set(found) ^ set(expected))
        return f"{len(differs)} packages of {site} are not those that the image came with: {', '.join(differs[:3])}"
    if control.exists():
        try:
            subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, timeout=15)
        except (OSError, subprocess.SubprocessError) as error:
            return f"a GPU was given to this container and does not answer: {error}"
    return None


if __name__ == "__main__":
    found = trouble()
    print(found or "healthy")
    sys.exit(1 if found else 0)
