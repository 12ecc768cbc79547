"""Make a workspace's own locks of what `uv export` wrote, and tell Compose of them in .env.

Usage: lock_files.py WORKSPACE EXPORTS PROJECT [GROUP...]. EXPORTS holds core.txt, and a file for each group with the
core in it. Called by `./dev.sh lock-update`, with the workspace's Python.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

HEADER = "# Made by ./dev.sh lock-update from pyproject.toml.\n"
# The closure of torch, gigabytes that change once a month: a layer of their own in the image.
HEAVY = re.compile(r"(torch|torchvision|torchaudio|triton|nvidia-(?!ml-py\b)[\w.-]+|cuda-[\w.-]+)(\[[^]]*\])?==")


def blocks(text: str) -> list[str]:
    """The requirements of a lock, each with its hashes, which stand on lines that begin with a blank."""
    found: list[str] = []
    for line in text.splitlines():
        if line[:1].isspace() and found:
            found[-1] += line + "\n"
        elif line.strip() and not line.startswith("#"):
            found.append(line + "\n")
    return found


def split(exports: Mapping[str, str]) -> dict[str, str]:
    """The locks by name. A group's holds what it adds to the core; torch's is a part of the core's."""
    core = blocks(exports["core"])
    locks = {"core": core, "torch": [block for block in core if HEAVY.match(block)]}
    for name, text in exports.items():
        if name != "core":
            locks[name] = [block for block in blocks(text) if block not in core]
    return {name: HEADER + "".join(lock) for name, lock in locks.items()}


def pins(locks: Mapping[str, str]) -> dict[str, str]:
    """Name and version of everything."""
    every = [
        re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", block) for text in locks.values() for block in blocks(text)
    ]
    return {match[1]: match[2] for match in every if match}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A line for each package that is not as it was."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            lines.append(f"  {name} {old or 'new:'} {'-> ' if old else ''}{new or 'gone'}")
    return lines


def merged(text: str, values: Mapping[str, str]) -> str:
    """The text of .env with these values; every other line stays as and where it is."""
    left = dict(values)
    lines = []
    for line in text.splitlines(keepends=True):
        match = re.match(r"\s*(?:export\s+)?(\w+)\s*=", line)
        if match is None or match[1] not in values:
            lines.append(line)
        elif match[1] in left:
            lines.append(f"{match[1]}={left.pop(match[1])}\n")
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(lines) + "".join(f"{name}={value}\n" for name, value in left.items())


def write(path: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all. Mode stays, and so does a link."""
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.replace(path)


def main(workspace: Path, exports: Path, project: str, groups: list[str]) -> None:
    """Write the locks, then .env, which makes them count."""
    locks = split({name: (exports / f"{name}.txt").read_text(encoding="utf-8") for name in ["core", *groups]})
    directory, requirements = workspace / "locks", workspace / "requirements"
    old = {
        path.stem: path.read_text(encoding="utf-8")
        for path in (directory if directory.is_dir() else requirements).glob("*.txt")
    }
    directory.mkdir(exist_ok=True)
    for name, text in locks.items():
        write(directory / f"{name}.txt", text)
    digest = hashlib.sha256("\0".join(f"{name}\0{text}" for name, text in sorted(locks.items())).encode()).hexdigest()
    env = workspace / ".env"
    values = {"DEV_LOCKS": "locks", "DEV_IMAGE": f"{project}:locks-{digest[:12]}"}
    write(env, merged(env.read_text(encoding="utf-8") if env.exists() else "", values))
    changes = differences(pins(old), pins(locks))
    print("\n".join([f"{len(changes)} packages differ from before{':' if changes else '.'}", *changes]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
