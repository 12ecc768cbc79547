"""The release archives of uv and of a relocatable CPython 3.12, made from what is on this machine.

uv verifies an archive against its built-in list of checksums, so that only genuine archives pass; an own
`downloads.json` with own checksums takes that list's place.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hosts.common import HostsError, run, step

MINOR = "3.12"
STANDALONE = "astral-sh/python-build-standalone/releases/download"
_LEAVE_OUT = {"__pycache__", "test", "tests", "idle_test", "site-packages", "dist-packages", "ensurepip"}
_ASK = """
import json, sys, sysconfig
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:2])), "executable": sys.executable,
    "stdlib": sysconfig.get_path("stdlib"), "include": sysconfig.get_path("include"),
    "library": sysconfig.get_config_var("LIBDIR"), "soname": sysconfig.get_config_var("INSTSONAME"),
    "shared": bool(sysconfig.get_config_var("Py_ENABLE_SHARED")),
}))
"""


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def target() -> str:
    """Return the platform's name in the archives of uv and python-build-standalone."""
    return f"{platform.machine()}-unknown-linux-gnu"


def _tool(name: str) -> Path:
    """Return a program that requirements/dev.txt brings."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        raise HostsError(f"{name} is missing beside {sys.executable}: install requirements/dev.txt there.")
    return found


def pack(tree: Path, top: str, archive: Path) -> None:
    """Write a tree as `<top>/...` in a tar.gz whose bytes depend on the content alone."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"{archive.name}.partial")
    with (
        partial.open("wb") as raw,
        gzip.GzipFile("", "wb", 3, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add(tree, top, filter=plain)
    partial.rename(archive)


@dataclass(frozen=True)
class Uv:
    """uv's release archive."""

    version: str
    archive: Path
    checksum: str

    @property
    def path(self) -> str:
        """Its path on github.com."""
        return f"astral-sh/uv/releases/download/{self.version}/{self.archive.name}"


def uv(folder: Path) -> Uv:
    """Make the release archive of the uv in this environment."""
    binary = _tool("uv")
    version = run([binary, "--version"]).split()[1]
    name = f"uv-{target()}"
    archive = folder / version / f"{name}.tar.gz"
    if not archive.exists():
        with step(f"packing uv {version}"), tempfile.TemporaryDirectory() as scratch:
            for program in ("uv", "uvx"):
                shutil.copy(_tool(program), Path(scratch) / program)
            Path(scratch).chmod(0o755)
            pack(Path(scratch), name, archive)
    return Uv(version, archive, sha256(archive))


@dataclass(frozen=True)
class CPython:
    """The archive of a CPython that uv installs as a managed one."""

    version: str
    tag: str
    archive: Path
    checksum: str

    def downloads(self, checksum: str | None = None) -> dict[str, object]:
        """Return uv's list of downloads with this one alone in it."""
        major, minor, patch = (int(part) for part in self.version.split("."))
        key = f"cpython-{self.version}-linux-{platform.machine()}-gnu"
        entry = {
            "name": "cpython",
            "arch": {"family": platform.machine(), "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": major,
            "minor": minor,
            "patch": patch,
            "prerelease": "",
            # With a mirror, uv wants the github.com prefix here, and replaces it.
            "url": f"https://github.com/{STANDALONE}/{self.tag}/{self.archive.name.replace('+', '%2B')}",
            "sha256": checksum or self.checksum,
            "variant": None,
            "build": self.tag,
        }
        return {key: entry}


def parse_newest(listing: str) -> tuple[str, str, str]:
    """Return (version, tag, file name) of the newest download in uv's own list.

    Raises:
        HostsError: the list has none.
    """
    for entry in json.loads(listing):
        found = re.search(r"/download/(\d+)/([^/]+)$", entry["url"] or "")
        if found and entry["implementation"] == "cpython" and entry["variant"] == "default":
            return entry["version"], found[1], found[2].replace("%2B", "+")
    raise HostsError(f"uv knows no CPython {MINOR} to download for this machine.")


def cpython(folder: Path) -> CPython:
    """Make an archive in python-build-standalone's layout from a CPython 3.12 of this machine.

    It gets the name of the build that uv would choose; uv does not compare the two versions.
    """
    options = ["--only-downloads", "--all-versions", "--no-config", "--output-format", "json"]
    listing = run([_tool("uv"), "python", "list", MINOR, *options])
    version, tag, name = parse_newest(listing)
    archive = folder / tag / name
    if not archive.exists():
        with step(f"making a relocatable CPython {MINOR}"):
            _make_cpython(_find_cpython(), archive)
    return CPython(version, tag, archive, sha256(archive))


def _candidates() -> Iterable[str]:
    """Return programs that may be a CPython 3.12, the likeliest first."""
    yield str(Path(sys.base_prefix) / "bin" / f"python{MINOR}")
    for folder in os.environ.get("PATH", "").split(":"):
        yield str(Path(folder) / f"python{MINOR}")
    for found in sorted(Path.home().glob(f".pyenv/versions/{MINOR}*/bin/python{MINOR}")):
        yield str(found)


def _find_cpython() -> dict[str, str]:
    """Return where the parts of a CPython 3.12 that starts are: a shim on the PATH need not start.

    Raises:
        HostsError: there is none.
    """
    for candidate in dict.fromkeys(_candidates()):
        if not Path(candidate).exists():
            continue
        done = subprocess.run([candidate, "-Ic", _ASK], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            answer: dict[str, str] = json.loads(done.stdout)
            if answer["version"] == MINOR:
                return answer
    raise HostsError(f"no CPython {MINOR} starts on this machine: make one with `uv python install {MINOR}`.")


def _make_cpython(source: dict[str, str], archive: Path) -> None:
    patchelf = _tool("patchelf")
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "python"
        (tree / "bin").mkdir(parents=True)
        binary = tree / "bin" / f"python{MINOR}"
        shutil.copy(Path(source["executable"]).resolve(), binary)
        for name in ("python3", "python"):
            (tree / "bin" / name).symlink_to(binary.name)
        stdlib = tree / "lib" / f"python{MINOR}"
        shutil.copytree(source["stdlib"], stdlib, symlinks=True, ignore=_ignore)
        (stdlib / "site-packages").mkdir(exist_ok=True)
        if Path(source["include"]).is_dir():
            shutil.copytree(source["include"], tree / "include" / f"python{MINOR}")
        if source["shared"]:
            _add_library(source, tree, patchelf, binary)
        for extension in stdlib.glob("lib-dynload/*.so"):
            run([patchelf, "--set-rpath", "$ORIGIN/../..", extension])
        # It must start from another place, and without the libraries of the place it came from.
        run(["env", "-i", binary, "-Ic", "import ctypes, sqlite3, ssl, zlib"])
        for cached in tree.rglob("__pycache__"):
            shutil.rmtree(cached)
        pack(tree, "python", archive)


def _ignore(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEAVE_OUT or name.startswith("config-") or name.endswith(".a")}


def _add_library(source: dict[str, str], tree: Path, patchelf: Path, binary: Path) -> None:
    """Copy libpython and let the program find it beside itself."""
    library = tree / "lib" / source["soname"]
    shutil.copy(Path(source["library"]) / source["soname"], library)
    (tree / "lib" / f"libpython{MINOR}.so").symlink_to(library.name)
    run([patchelf, "--set-rpath", "$ORIGIN/../lib", binary])
    if shutil.which("strip"):
        run(["strip", "--strip-unneeded", library])
