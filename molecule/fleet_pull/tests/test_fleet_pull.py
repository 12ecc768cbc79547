"""A host that converges itself: its service does the whole site, and nobody else does anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

Again = Callable[..., Any]
PREFIX = "/opt/gpufleet-pull"
RECORD = "/var/lib/gpufleet/pull.json"
TIMER = "gpufleet-pull.timer"


def pull(host: Any) -> Any:
    """Start the service by hand, as the timer does, and wait for its end."""
    return host.run("systemctl start gpufleet-pull")


def journal(host: Any) -> str:
    return str(host.run("journalctl -u gpufleet-pull --no-pager -o cat").stdout)


def test_the_timer_waits_at_a_time_of_the_hosts_own(host: Any) -> None:
    shown = host.check_output(f"systemctl show {TIMER} -p ActiveState,UnitFileState,FixedRandomDelay,TimersCalendar")
    assert {"ActiveState=active", "UnitFileState=enabled", "FixedRandomDelay=yes"} <= set(shown.splitlines())
    assert re.search(r"next_elapse=\w{3} \d{4}", shown), shown


def test_it_may_look_who_uses_a_gpu(host: Any) -> None:
    """Test hosts lack the right themselves, so the unit is asked."""
    assert "cap_sys_ptrace" in host.run("systemctl show --value --property CapabilityBoundingSet gpufleet-pull").stdout


def test_the_units_are_what_systemd_understands(host: Any) -> None:
    done = host.run("systemd-analyze verify gpufleet-pull.service gpufleet-pull.timer")
    assert (done.rc, "gpufleet-pull" in done.stderr) == (0, False), done.stderr


def test_the_wishes_are_for_root_alone(host: Any) -> None:
    assert host.file(f"{PREFIX}/hosts.json").mode == 0o600
    assert host.file(f"{PREFIX}/hosts.json").user == "root"


def test_the_host_converges_itself(host: Any, again: Again) -> None:
    """Users and their wishes come by the role; what they lead to, by the host's own run, which the timer starts."""
    host.check_output("useradd --create-home alice")
    assert not host.file("/srv/ml").exists
    wishes = {
        "gpufleet_ca_certificates": ["/srv/ca.crt"],
        "gpufleet_users": ["alice"],
        "uv_python_locks_path": "/srv/locks",
        "uv_python_groups": ["dev"],
        "torch_probe_fail_on": "never",  # the small packages have no torch
    }
    # Three times a minute, and not at some time of the night.
    ran = again(fleet_pull_variables=wishes, fleet_pull_schedule="*:*:0/20", fleet_pull_random_delay=0)
    assert ran.ok, ran.sentence
    waited = host.run(f"timeout 400 sh -c 'until test -s {RECORD}; do sleep 2; done'")
    assert waited.rc == 0, journal(host)
    host.check_output(f"systemctl stop {TIMER}")

    ended = json.loads(host.file(RECORD).content_string)
    assert (ended["schema"], ended["result"], ended["status"]) == (1, "success", "0"), journal(host)
    assert host.file("/srv/ml").is_directory
    assert host.file("/etc/gpufleet/env.json").exists
    assert "alice" in host.group("ml").members
    record = json.loads(host.file("/var/lib/gpufleet/record.json").content_string)
    assert (
        record["collection"]
        == json.loads(host.check_output("tar -xOf /srv/collection.tar.gz MANIFEST.json"))["collection_info"]["version"]
    )
    # The next run finds nothing to do, and nothing of a run is left.
    assert pull(host).rc == 0, journal(host)
    recap = re.findall(r"^\S+\s+: ok=.*", journal(host), re.MULTILINE)
    assert "changed=0 " in recap[-1], recap
    assert "changed=0 " not in recap[0], recap
    assert not host.file("/run/gpufleet-pull").exists


def test_what_drifts_is_mended_by_the_host(host: Any) -> None:
    host.check_output("chmod 0700 /srv/ml && rm /etc/gpufleet/env.json")
    assert pull(host).rc == 0, journal(host)
    assert host.file("/etc/gpufleet/env.json").exists
    assert host.file("/srv/ml").mode != 0o700


def test_a_tarball_that_is_another_does_not_run(host: Any) -> None:
    host.check_output(f"cp {PREFIX}/collection.tar.gz /srv/kept && echo x >> {PREFIX}/collection.tar.gz")
    assert pull(host).rc != 0
    ended = json.loads(host.file(RECORD).content_string)
    assert ended["result"] == "exit-code"
    assert "FAILED" in journal(host)
    host.check_output(f"mv /srv/kept {PREFIX}/collection.tar.gz")


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"fleet_pull_collection_checksum": "0" * 64}, "did not match"),
        (
            {"fleet_pull_collection_url": "file:///nowhere.tar.gz", "fleet_pull_collection_checksum": "1" * 64},
            "cannot be",
        ),
        ({"fleet_pull_collection_url": ""}, "Found fleet_pull_collection_url=''"),
        ({"fleet_pull_collection_checksum": "sha256"}, "its SHA-256: make one by `./run build`"),
    ],
)
def test_a_collection_that_is_not_the_pinned_one_is_refused(again: Again, wishes: dict[str, str], words: str) -> None:
    ran = again(**wishes)
    assert not ran.ok
    assert words in ran.sentence


def test_a_stopped_timer_is_started_and_an_environment_mended(host: Any, again: Again) -> None:
    assert again().ok
    host.check_output(f"systemctl stop {TIMER} && rm -r {PREFIX}/venv/lib/python3.*/site-packages/jinja2*")
    ran = again()
    assert ran.ok, ran.sentence
    assert host.check_output(f"systemctl is-active {TIMER}") == "active"
    assert host.run(f"{PREFIX}/venv/bin/ansible-playbook --version").rc == 0
    assert again().changed == 0


def test_absent_takes_all_of_it_away(host: Any, again: Again) -> None:
    checked = again("--check", fleet_pull_state="absent")
    ran = again(fleet_pull_state="absent")
    assert ran.ok, ran.sentence
    # What check mode cannot follow are the handlers.
    handlers = {"fleet_pull: Stop the timer of the pull", "fleet_pull: Forget that the timer has to be followed"}
    assert ran.changes - checked.changes == handlers
    assert checked.changes < ran.changes
    left = host.run(f"ls -d {PREFIX} /etc/systemd/system/gpufleet-pull* /etc/systemd/system/*/gpufleet-pull* {RECORD}")
    assert left.stdout == ""
    assert host.check_output(f"systemctl show {TIMER} -p LoadState,ActiveState").split() == [
        "LoadState=not-found",
        "ActiveState=inactive",
    ]
    assert again(fleet_pull_state="absent").changed == 0
