"""A workspace as the role dev_container makes it, and programs that stand in for the machine's own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
FILES = ROOT / "roles/dev_container/files"
BIN = ROOT / ".venv/bin" if (ROOT / ".venv/bin").is_dir() else Path(sys.executable).parent

# What dev.sh may count on. Nothing else is in PATH, so that a docker of this machine is not found by chance.
TOOLS = (
    "bash cat chmod cp cut date dirname env find git grep head id mkdir mktemp printenv readlink rm sed sh sort stat"
    " tail touch tr uname wc xargs"
)

# Writes down what it was called with, then does what the test wants of it.
STAND_IN = """#!/bin/sh
{ printf '%s' "${0##*/}"; for word; do printf '\\037%s' "$word"; done; printf '\\n'; } >>"$STAND_IN_RECORD"
if [ -f "$0.does" ]; then . "$0.does"; fi
"""

CACHES = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


@dataclass
class Workspace:
    """A person's workspace in a directory with a blank in its name, and a PATH of stand-ins."""

    base: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.base / "a place" / "torch_starter"
        self.bin, self.record = self.base / "bin", self.base / "record"
        self.container = self.base / "opt/venv"
        self.bin.mkdir(parents=True)
        self.record.touch()
        (self.base / "home").mkdir()
        for name in TOOLS.split():
            found = shutil.which(name, path="/usr/bin:/bin")
            assert found, f"this machine has no {name}"
            (self.bin / name).symlink_to(found)
        self.env = {
            "PATH": str(self.bin),
            "HOME": str(self.base / "home"),
            "STAND_IN_RECORD": str(self.record),
            "LC_ALL": "C.UTF-8",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        self._files()
        self.venv(self.path / ".venv")

    def _files(self) -> None:
        self.write(
            ".devcontainer/workspace.json",
            json.dumps(
                {
                    "schema": 1,
                    "name": "torch_starter",
                    "project": "torch-starter",
                    "image": "torch-starter:cu13-0123456789ab",
                    "channel": "cu13",
                    "groups": ["dev"],
                    "service": "dev",
                    "venv": {"host": str(self.path / ".venv"), "container": str(self.container)},
                    "gpu": False,
                    "probe": str(self.base / "probe.py"),
                    "jupyter_port": 8888,
                    "shared_caches": [str(self.base / "shared")],
                }
            ),
        )
        self.write("pyproject.toml", '[project]\nname = "torch-starter"\nversion = "0.1.0"\n')
        self.write("compose.yaml", "services: {dev: {image: x}}\n")
        self.write(".env", "# mine\nHF_TOKEN=secret\n")
        self.write("src/torch_starter/__init__.py", "")
        self.write("tests/test_smoke.py", '"""One."""\n\n\ndef test_one() -> None:\n    assert True\n')
        self.write("train.py", '"""A script."""\n')
        self.write("requirements/core.txt", "")
        self.write("requirements/dev.txt", "")
        (self.base / "shared/data").mkdir(parents=True)
        (self.path / "data").symlink_to(self.base / "shared/data")
        for name in ("verify_setup.py", "lock_files.py", "changed_tests.py"):
            shutil.copy(FILES / name, self.path / ".devcontainer" / name)
        shutil.copy(FILES / "dev.sh", self.path / "dev.sh")

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def settings(self, **changes: object) -> None:
        path = self.path / ".devcontainer/workspace.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    def venv(self, path: Path) -> None:
        """An environment with nothing in it but Python, as `uv venv` would make it."""
        (path / "bin").mkdir(parents=True)
        (path / "lib/python3.12/site-packages").mkdir(parents=True)
        python = Path(sys.base_prefix) / "bin/python3.12"
        (path / "pyvenv.cfg").write_text(f"home = {python.parent}\nversion_info = 3.12\n", encoding="utf-8")
        for name in ("python", "python3"):
            (path / "bin" / name).symlink_to(python)

    def enter_container(self) -> None:
        """From now on this is the container."""
        self.venv(self.container)
        (self.container / ".gpufleet.json").touch()

    def package(self, name: str, version: str, code: str = "", venv: Path | None = None) -> None:
        """A package of one module in an environment."""
        site = (venv or self.path / ".venv") / "lib/python3.12/site-packages"
        module = {"scikit-learn": "sklearn"}.get(name, name.replace("-", "_"))
        (site / f"{module}.py").write_text(code, encoding="utf-8")
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")

    def stand_in(self, *names: str, does: str = "", venv: bool = False) -> None:
        """Programs that only write down how they were called; `does` is what they do then, in sh."""
        for name in names:
            path = (self.path / ".venv/bin" if venv else self.bin) / name
            path.unlink(missing_ok=True)
            path.write_text(STAND_IN, encoding="utf-8")
            path.chmod(0o755)
            Path(f"{path}.does").write_text(does, encoding="utf-8")

    def real(self, *names: str) -> None:
        """The checkout's own tools in the environment; uv is the machine's."""
        for name in names:
            ((self.bin if name == "uv" else self.path / ".venv/bin") / name).symlink_to(BIN / name)

    def dev(self, *words: str, cwd: str | Path = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Call dev.sh."""
        return subprocess.run(
            [str(self.path / "dev.sh"), *words],
            cwd=cwd or self.base,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        """How the stand-ins were called, in order."""
        lines = self.record.read_text(encoding="utf-8").splitlines()
        return [line.split("\037") for line in lines]

    def files(self) -> dict[str, tuple[str, str]]:
        """Each file of the project with its mode and its content's hash; caches and the environment are none of it."""
        found = {}
        for directory, names, files in os.walk(self.path):
            names[:] = [name for name in names if name not in CACHES and name not in (".venv", ".git", ".profile")]
            for name in [*files, *(name for name in names if Path(directory, name).is_symlink())]:
                path = Path(directory, name)
                content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
                mode = oct(path.lstat().st_mode)
                found[str(path.relative_to(self.path))] = (mode, hashlib.sha256(content).hexdigest())
        return found


def wheel(name: str, version: str, requires: str = "") -> bytes:
    """A package of one empty module."""
    data = BytesIO()
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with ZipFile(data, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return data.getvalue()


@contextmanager
def package_index(wheels: Mapping[str, bytes]) -> Iterator[str]:
    """A package index on this machine that has these wheels, by file name. Gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "files" and name in wheels:
                body = wheels[name]
            else:
                hashes = {file: hashlib.sha256(data).hexdigest() for file, data in wheels.items()}
                links = [
                    f'<a href="/files/{file}#sha256={digest}">{file}</a>'
                    for file, digest in hashes.items()
                    if file.split("-")[0] == name
                ]
                body = "\n".join(links).encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if kind == "simple" else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  the name is http.server's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()
