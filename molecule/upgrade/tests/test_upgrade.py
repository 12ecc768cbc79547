"""A rollout over three hosts, of which the second goes wrong: what each of them has afterwards."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import testinfra

Again = Callable[..., Any]
OLD, NEW = "580.159.03", "595.91.07"
SEED = int(os.environ.get("GPUFLEET_TEST_SEED") or secrets.randbelow(10**6))
KILLS = int(os.environ.get("GPUFLEET_TEST_KILLS", "0")) // 5  # each takes minutes: in `--full` only
RECORD = "/var/lib/gpufleet/upgrade.json"


@pytest.fixture
def hosts(host: Any) -> dict[str, Any]:
    """The three hosts by their letter."""
    name = host.backend.name
    return {
        letter: testinfra.get_host(f"docker://{name.replace('-upgrade-a', f'-upgrade-{letter}')}") for letter in "abc"
    }


def drivers(hosts: dict[str, Any]) -> dict[str, str]:
    """Return the version of the library that programs load, and of the module that the newest kernel would."""
    found = {}
    for letter, host in hosts.items():
        library = host.run("basename /usr/lib/x86_64-linux-gnu/libcuda.so.*").stdout.strip().removeprefix("libcuda.so.")
        module = host.run("modinfo -F version /lib/modules/*/updates/dkms/nvidia.ko").stdout.strip()
        found[letter] = library if library == module else f"library {library}, module {module}"
    return found


def record(host: Any) -> Any:
    return json.loads(host.file(RECORD).content_string)


def test_check_mode_upgrades_nobody(hosts: dict[str, Any], again: Again) -> None:
    assert drivers(hosts) == {"a": OLD, "b": OLD, "c": OLD}
    ran = again("--check", playbook="upgrade.yml", nvidia_driver_version=NEW)
    assert ran.ok, ran.sentence
    assert ran.changed >= 3
    assert drivers(hosts) == {"a": OLD, "b": OLD, "c": OLD}
    assert not hosts["a"].file(RECORD).exists


def test_failing_host_goes_back_and_ends_the_rollout(hosts: dict[str, Any], again: Again) -> None:
    # The mirror has lost the old version, as archives do: it comes back from what the host has kept.
    pruned = "https://mirror.gpufleet.test/pruned/debian12/"
    assert hosts["b"].run("touch /etc/broken").rc == 0
    ran = again(playbook="upgrade.yml", nvidia_driver_version=NEW, nvidia_driver_repository_url=pruned)
    assert not ran.ok
    assert "matmul.bf16.correct: a wrong product" in ran.sentence
    assert f"driver {OLD} is back" in ran.sentence
    assert drivers(hosts) == {"a": NEW, "b": OLD, "c": OLD}
    assert record(hosts["a"])["status"] == "done"
    assert record(hosts["b"])["status"] == "rolled_back"
    assert record(hosts["b"])["before"]["user_space"] == OLD
    assert not hosts["c"].file(RECORD).exists
    # What came back stays: apt has no wish to take it away again, and nothing is half configured.
    stays = hosts["b"].run("apt-get -s -qq full-upgrade | grep -c nvidia; dpkg --audit")
    assert stays.stdout.strip() == "0", stays.stdout


def test_mended_host_lets_the_rollout_go_on(hosts: dict[str, Any], again: Again) -> None:
    assert hosts["b"].run("rm /etc/broken").rc == 0
    ran = again(playbook="upgrade.yml", nvidia_driver_version=NEW)
    assert ran.ok, ran.sentence
    assert drivers(hosts) == {"a": NEW, "b": NEW, "c": NEW}
    assert again(playbook="upgrade.yml", nvidia_driver_version=NEW).changed == 0


@pytest.mark.skipif(KILLS == 0, reason="GPUFLEET_TEST_KILLS is not set")
def test_the_next_run_finishes_a_killed_upgrade(
    hosts: dict[str, Any], again: Again, started: Callable[..., Any], capsys: Any
) -> None:
    """Up and down again, all hosts at once, each time killed at a random moment."""
    chance = random.Random(SEED)  # noqa: S311 - a printed seed, and no secret
    for turn in range(KILLS):
        wishes = {"nvidia_driver_version": (OLD, NEW)[turn % 2], "upgrade_serial": "100%"}
        run = started(playbook="upgrade.yml", **wishes)
        moment = chance.uniform(3, 45)
        time.sleep(moment)
        ended = run.poll() is not None
        if not ended:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        with capsys.disabled():
            print(f"\nseed {SEED}, upgrade killed after {moment:.1f} s{' (it had ended)' if ended else ''}")
        finished = again(playbook="upgrade.yml", **wishes)
        assert finished.ok, finished.sentence
        assert set(drivers(hosts).values()) == {wishes["nvidia_driver_version"]}
        assert again(playbook="upgrade.yml", **wishes).changed == 0
        for host in hosts.values():
            assert host.check_output("dpkg --audit") == ""
            assert host.run("ls /var/lib/gpufleet/pending").stdout == ""
            assert record(host)["status"] == "done"
