"""What a stand-in package is: the name, version and relations of a real one, with small files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

_DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def debian_arch() -> str:
    """Return Debian's name of this machine's architecture."""
    return _DEBIAN_ARCH[platform.machine()]


def library_folder() -> str:
    """Return the name of the folder in which Debian has this machine's libraries."""
    return f"{platform.machine()}-linux-gnu"


@dataclass(frozen=True)
class File:
    """A file that a package brings."""

    content: str
    mode: int = 0o644


@dataclass(frozen=True)
class Package:
    """A stand-in package; an empty architecture means this machine's."""

    name: str
    version: str
    depends: str = ""
    architecture: str = ""
    files: Mapping[str, File] = field(default_factory=dict)
    conflicts: str = ""
    provides: str = ""
    scripts: Mapping[str, str] = field(default_factory=dict)  # maintainer scripts, by name
    wraps: str = ""  # a real package of Debian 13, whose programs this one brings

    def control(self) -> str:
        """Return the control file."""
        lines = [
            f"Package: {self.name}",
            f"Version: {self.version}",
            f"Architecture: {self.architecture or debian_arch()}",
            "Maintainer: gpufleet tests <tests@gpufleet.test>",
            "Section: utils",
            "Priority: optional",
        ]
        related = {"Depends": self.depends, "Conflicts": self.conflicts, "Provides": self.provides}
        lines += [f"{word}: {names}" for word, names in related.items() if names]
        return "\n".join([*lines, f"Description: stand-in for {self.name} in tests", ""])
