"""Runs of site.yml are killed at random moments, with the host or the network under them: the next run converges.

Five kills in a round on one bare host; GPUFLEET_TEST_KILLS=30 makes as many, on a host that is bare again after each
five. GPUFLEET_TEST_SEED repeats a run, whose seed is printed.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

SITE, UNINSTALL = "../../site.yml", "../../playbooks/uninstall.yml"
SEED = int(os.environ.get("GPUFLEET_TEST_SEED") or secrets.randbelow(10**6))
KILLS = int(os.environ.get("GPUFLEET_TEST_KILLS", "5"))
A_ROUND = 5
NETWORK = "gpufleet-test" + os.environ.get("GPUFLEET_TEST_SUFFIX", "")
# A first converge takes this long at least, so that a kill meets it somewhere.
LONGEST_S = 40.0


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


def kill_playbook(run: subprocess.Popen[bytes], host: str) -> None:
    os.killpg(run.pid, signal.SIGKILL)


def kill_host(run: subprocess.Popen[bytes], host: str) -> None:
    """The host stops as by a power cut, and starts again."""
    docker("kill", host)
    os.killpg(run.pid, signal.SIGKILL)
    docker("start", host)
    subprocess.run(
        ["docker", "exec", host, "systemctl", "is-system-running", "--wait"], check=False, capture_output=True
    )


def cut_network(run: subprocess.Popen[bytes], host: str) -> None:
    """The network goes away and does not come back in this run, which may end by itself."""
    docker("network", "disconnect", NETWORK, host)
    try:
        run.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
    docker("network", "connect", NETWORK, host)


WAYS: list[Callable[[subprocess.Popen[bytes], str], None]] = [
    kill_playbook,
    kill_playbook,
    kill_host,
    kill_playbook,
    cut_network,
]


def is_whole(host: Any) -> None:
    """Nothing half written, half configured, held or forgotten."""
    assert host.check_output("dpkg --audit") == ""
    held = "import fcntl; fcntl.lockf(open('/var/lib/dpkg/lock-frontend', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert host.run("python3 -c %s", held).rc == 0
    places = "/etc /opt /usr/local /srv /var/lib/gpufleet /home"
    assert host.check_output(f"find {places} -xdev -name '.*.gpufleet-*' -o -xdev -name '*.unfinished'") == ""
    assert host.run("ls /var/lib/gpufleet/pending").stdout == ""
    assert not host.file("/run/gpufleet-run.json").exists
    assert host.check_output("systemctl list-units --failed --no-legend --plain") == ""
    assert "gpufleet" not in host.check_output("systemctl list-unit-files --state=masked --no-legend --plain")
    assert "OK" in host.check_output("/opt/uv/venv/bin/python -c 'print(\"OK\")'")


@pytest.mark.parametrize("turn", range((KILLS + A_ROUND - 1) // A_ROUND))
def test_the_next_run_converges(
    host: Any, again: Callable[..., Any], started: Callable[..., Any], turn: int, capsys: Any
) -> None:
    chance = random.Random(SEED + turn)  # noqa: S311 - a printed seed, and no secret
    name = host.backend.name
    said = [f"seed {SEED}, round {turn}"]
    for way in chance.sample(WAYS, k=min(A_ROUND, KILLS - turn * A_ROUND)):
        moment = chance.uniform(2, LONGEST_S)
        run = started(playbook=SITE)
        time.sleep(moment)
        said.append(f"{way.__name__} after {moment:.1f} s{' (it had ended)' if run.poll() is not None else ''}")
        if run.poll() is None:
            way(run, name)
        run.wait()
    with capsys.disabled():
        print("\n" + "; ".join(said))
    converged = again(playbook=SITE)
    assert converged.ok, (said, converged.sentence)
    assert again(playbook=SITE).changes == set(), said
    is_whole(host)
    if (turn + 1) * A_ROUND < KILLS:
        bare = again(playbook=UNINSTALL, uninstall_consent=True, ml_cache_remove_data=True)
        assert bare.ok, bare.sentence
