"""Start a workspace's environment from the host's own: a copy, so that nothing is downloaded twice.

Usage: make_venv.py FROM TO. TO is a fresh environment of the same Python; uv makes it exactly what the locks say
afterwards. Runs as the workspace's user, who can read FROM and not write it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# What belongs to an environment itself: uv has made these already.
_OWN = {"pyvenv.cfg", ".lock", ".gitignore", "CACHEDIR.TAG"}
_SMALL = 1024 * 1024


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree by `cp`, which shares blocks where the file system can."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["cp", "-R", "--reflink=auto", "--preserve=mode,timestamps", f"{source}/.", f"{target}/"], check=True
    )


def copy_programs(source: Path, target: Path, old: str, new: str) -> None:
    """Copy what is in bin and not there yet; scripts name their environment in the first line, here the new one."""
    for program in sorted(source.iterdir()):
        place = target / program.name
        if place.exists() or place.is_symlink() or program.name.startswith("activate"):
            continue
        if program.is_symlink():
            place.symlink_to(program.readlink())
            continue
        data = program.read_bytes() if program.stat().st_size < _SMALL else b""
        if data.startswith(b"#!"):
            place.write_bytes(data.replace(old.encode(), new.encode()))
            shutil.copymode(program, place)
        else:
            shutil.copy2(program, place)


def main(source: Path, target: Path) -> None:
    """Copy everything but what belongs to the environment itself."""
    for part in sorted(source.iterdir()):
        if part.name in _OWN or part.is_symlink():
            continue
        if part.name == "bin":
            copy_programs(part, target / "bin", str(source), str(target))
        elif part.is_dir():
            copy_tree(part, target / part.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
