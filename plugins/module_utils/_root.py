"""Reading a host's files below a root directory, where an unreadable file is None and never an exception."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

# More than any file that is read whole here (dpkg's status file is the largest); odd input must not eat the memory.
_MAX_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024
_COMMAND_TIMEOUT_S = 10


class Root:
    """A host's file tree: ``/`` for the host itself, any other directory for a copy or a test's tree."""

    def __init__(self, prefix: str = "/") -> None:
        self.prefix = os.path.normpath(prefix)

    @property
    def is_live(self) -> bool:
        """True for the running host, the only one whose commands and name services may be asked."""
        return self.prefix == "/"

    def real(self, path: str) -> str:
        """Return the path to open for a path of the host."""
        return path if self.is_live else self.prefix + "/" + path.lstrip("/")

    def data(self, path: str, limit: int = _MAX_BYTES) -> bytes | None:
        """Return the file's first ``limit`` bytes."""
        blocks: list[bytes] = []
        try:
            with open(self.real(path), "rb") as file:
                # In small blocks: the kernel refuses one large read of a file below /proc/sys (ENOMEM).
                while limit > 0 and (block := file.read(min(limit, _BLOCK_BYTES))):
                    blocks.append(block)
                    limit -= len(block)
        except (OSError, ValueError):
            return None
        return b"".join(blocks)

    def text(self, path: str) -> str | None:
        """Return the file's text without surrounding white space; an empty file is None, as there is nothing known."""
        data = self.data(path)
        if data is None:
            return None
        return data.decode("utf-8", "replace").strip().strip("\0") or None

    def lines(self, path: str) -> list[str]:
        """Return the file's lines, none when it cannot be read."""
        return (self.text(path) or "").splitlines()

    def number(self, path: str) -> int | None:
        """Return the file's content as an integer."""
        return to_int(self.text(path))

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a directory, none when it cannot be read."""
        try:
            return sorted(entry.name for entry in Path(self.real(path)).iterdir())
        except (OSError, ValueError):
            return []

    def exists(self, path: str) -> bool:
        """Whether something is there, links followed."""
        try:
            return Path(self.real(path)).exists()
        except (OSError, ValueError):
            return False

    def is_directory(self, path: str) -> bool:
        """Whether a directory is there, links followed."""
        try:
            return Path(self.real(path)).is_dir()
        except (OSError, ValueError):
            return False

    def link(self, path: str) -> str | None:
        """Return a symbolic link's target as it is written."""
        try:
            return str(Path(self.real(path)).readlink())
        except (OSError, ValueError):
            return None

    def command(self, *argv: str) -> str | None:
        """Return what a read-only command of the live host prints, None on failure, time-out or in a tree."""
        if not self.is_live:
            return None
        environment = {**os.environ, "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"}
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_COMMAND_TIMEOUT_S,
                check=False,
                env=environment,
            )
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def to_int(text: str | None) -> int | None:
    """Return the integer that the text spells, or None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def version_key(text: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key for versions and kernel names: 6.12 comes after 6.9, and 6.12-rc1 before 6.12."""
    parts = re.findall(r"\d+|[a-z]+", text.lower())
    return (*((int(part), "") if part.isdigit() else (-1, part) for part in parts), (0, ""))
