"""A container engine that answers: the user's own, or Debian's docker.io started here."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from pathlib import Path

from hosts.common import HostsError, cache, need, run, step, suffix

NETWORK = f"gpufleet-test{suffix()}"
_START_SECONDS = 60
_PID_FILE = "/var/run/docker.pid"


def _answers(cli: str) -> bool:
    done = subprocess.run([cli, "version", "-f", "{{.Server.Version}}"], capture_output=True, check=False)
    return done.returncode == 0


def _clients() -> list[str]:
    """Return every docker client on the PATH: the first one need not be one that works."""
    found = (shutil.which("docker", path=folder) for folder in os.environ.get("PATH", "/usr/bin").split(":"))
    return list(dict.fromkeys(client for client in found if client))


@functools.cache
def client() -> str:
    """Return the docker client that reaches an engine.

    Raises:
        HostsError: none does.
    """
    for candidate in _clients():
        if _answers(candidate):
            return candidate
    raise HostsError("no container engine answers: run `python tests/hosts up`.")


def docker(*words: str | Path) -> str:
    """Run one docker command and return its output."""
    return run([client(), *words])


def try_docker(*words: str | Path) -> str | None:
    """Run one docker command that may fail, such as a look; None when it fails."""
    try:
        return docker(*words).strip()
    except HostsError:
        return None


def up() -> None:
    """Make sure that an engine answers.

    Raises:
        HostsError: none answers and none can be started from here.
    """
    if any(_answers(candidate) for candidate in _clients()):
        return
    if os.environ.get("DOCKER_HOST"):
        raise HostsError("DOCKER_HOST is set, but no engine answers there: start that engine, or unset DOCKER_HOST.")
    if os.geteuid() != 0:
        raise HostsError(
            "no container engine answers: install Docker Engine and start it, and be in the group docker "
            "(Debian: `sudo apt-get install docker.io`), or set DOCKER_HOST to an engine that you may use."
        )
    need("dockerd")
    need("docker")
    with step("starting the container engine"):
        _start()


def _start() -> None:
    if Path("/run/systemd/system").is_dir():
        run(["systemctl", "start", "docker"])
        return
    _clear_leftovers()
    if not any(path.is_dir() for path in Path("/sys/fs/cgroup").glob("*")):
        need("cgroupfs-mount")
        run(["cgroupfs-mount"])
    log = cache() / "dockerd.log"
    daemon = None if Path(_PID_FILE).exists() else _spawn(log)
    for _ in range(_START_SECONDS * 2):
        if any(_answers(candidate) for candidate in _clients()):
            return
        if daemon and daemon.poll() is not None:
            break
        time.sleep(0.5)
    last = " | ".join(log.read_text().strip().splitlines()[-3:]) if log.exists() else "nothing"
    raise HostsError(f"dockerd does not answer; its log {log} ends: {last}")


def _spawn(log: Path) -> subprocess.Popen[bytes]:
    """Start dockerd so that it outlives us."""
    log.parent.mkdir(parents=True, exist_ok=True)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    with log.open("w") as out:
        return subprocess.Popen(
            [shutil.which("dockerd", path=path) or "dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )


def _clear_leftovers() -> None:
    """Remove the process files of an engine that died: with them dockerd refuses to start.

    One of a living dockerd stays: somebody has just started it.
    """
    for name, program in ((_PID_FILE, "dockerd"), ("/var/run/docker/containerd/containerd.pid", "containerd")):
        pid_file = Path(name)
        if not pid_file.exists():
            continue
        # The command line of a zombie is empty; where PID 1 reaps nobody, a killed engine stays one.
        command = Path("/proc") / pid_file.read_text().strip() / "cmdline"
        words = command.read_bytes().split(b"\0") if command.exists() else [b""]
        if Path(os.fsdecode(words[0])).name != program:
            pid_file.unlink()


def network() -> None:
    """Make sure that the network is there on which the mirror answers for real host names."""
    if try_docker("network", "inspect", "-f", "{{.Id}}", NETWORK) is None:
        docker("network", "create", "--label", "gpufleet-test=network", NETWORK)
