"""Write all that a host is into one JSON file: files with their rights, packages, units."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

# The kernel's, what changes by itself, and what every run of apt and Ansible leaves.
LEFT_OUT = (
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/systemd",
    "/var/lib/dpkg",
    "/root/.ansible",
    "/opt/uv/cache",  # a mount of the test host's, in which uv does as it likes
)


def describe(path: str) -> list[Any]:
    """Return kind, rights and content of one file."""
    status = os.lstat(path)
    found: list[Any] = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
    if stat.S_ISLNK(status.st_mode):
        return [*found, str(Path(path).readlink())]
    found += [
        [name, os.getxattr(path, name, follow_symlinks=False).hex()]
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    ]
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            found.append(hashlib.sha256(file.read()).hexdigest())
    return found


def is_by_product(path: str) -> bool:
    """Whether a file is a copy that a tool keeps of its own work, or bytecode."""
    return path.endswith(("/ld.so.cache", "-")) or "/__pycache__" in path


def files() -> dict[str, Any]:
    """Return every file below the root by its path."""
    found = {}
    for folder, names, others in os.walk("/"):
        names[:] = [name for name in names if str(Path(folder, name)) not in LEFT_OUT]
        for name in names + others:
            path = str(Path(folder, name))
            if not is_by_product(path):
                found[path] = describe(path)
    return found


def lines(*command: str) -> list[str]:
    """Return what a command prints."""
    return sorted(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def main(target: str) -> None:
    """Write the snapshot."""
    found = {
        "files": files(),
        "packages": lines("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${db:Status-Abbrev}\n"),
        "unit files": lines("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--plain"),
        "active": [
            line
            for line in lines("systemctl", "list-units", "--no-legend", "--no-pager", "--plain", "--state=active")
            if line.split()[0].endswith((".service", ".timer")) and not line.startswith("user")  # who has logged in
        ],
    }
    with open(target, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
