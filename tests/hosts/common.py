"""What every part needs: saying, running, failing, and the place of the cache."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


class HostsError(Exception):
    """A reason, in one sentence, why the test hosts cannot be had, and what to do."""


def cache() -> Path:
    """Return the directory of everything that may be deleted and made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gpufleet-test"


def suffix() -> str:
    """Return what keeps the containers of two checkouts apart: each may want other stand-ins in its mirror."""
    return os.environ.get("GPUFLEET_TEST_SUFFIX", "")


def say(text: str) -> None:
    """Tell the user what happens; at once, because the next thing may take a minute."""
    print(f"hosts: {text}", flush=True)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is being done, and afterwards how long it took."""
    say(f"{text} ...")
    start = time.monotonic()
    yield
    say(f"{text}: {time.monotonic() - start:.1f} s")


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run a command and return its output.

    Raises:
        HostsError: the command is missing or fails; with the last lines it said.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostsError(f"{words[0]} is not installed.") from error
    if done.returncode:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise HostsError(f"`{' '.join(words[:6])}` failed ({done.returncode}): {said}")
    return done.stdout


DEBIAN_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Which Debian package brings which command or file.
TOOLS = {
    DEBIAN_KEYS: "debian-archive-keyring",
    "apt-ftparchive": "apt-utils",
    "cgroupfs-mount": "cgroupfs-mount",
    "chromium": "chromium",
    "docker": "docker-cli",  # from Debian 13 on not in docker.io any more
    "dockerd": "docker.io",
    "dpkg-deb": "dpkg",
    "gpg": "gnupg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


def need(*tools: str) -> None:
    """Make sure that commands and files are there, by apt as root on Debian and its kin.

    Raises:
        HostsError: one is missing and cannot be installed from here.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in tools if not Path(tool).exists() and not shutil.which(tool, path=path)]
    if not missing:
        return
    packages = sorted({TOOLS[tool] for tool in missing})
    install = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise HostsError(f"{', '.join(missing)} is not installed: run `sudo {install}` and try again.")
    with step(f"installing {', '.join(packages)} by apt"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        run(["dpkg", "--configure", "-a"])  # what an interrupted installation left
        try:
            run([*apt, "install", "-y", "--no-install-recommends", *packages])
        except HostsError:  # the package lists are old or missing
            run([*apt, "update"])
            run([*apt, "install", "-y", "--no-install-recommends", *packages])


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the lock that lets only one `up` or `down` work at a time."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step("waiting for another `hosts` command"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fail(error: HostsError) -> int:
    """Report an error and return the exit status for it."""
    print(f"hosts: error: {error}", file=sys.stderr, flush=True)
    return 1
