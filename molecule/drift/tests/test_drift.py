"""A converged host is damaged in many ways: check mode finds each, the run mends each, and only that.

All at once in a few rounds, since a run takes ten seconds; GPUFLEET_TEST_EACH=1 takes one damage at a time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible_runner
import pytest
from damage import Damage, found_and_mended, path

SITE = "../../site.yml"
VENV = "/opt/uv/venv"
BY_HAND = f"{VENV}/lib/python3.12/site-packages/mine-1.0.dist-info"
# What a measurement writes on each run, and what differs from one installation to the next.
MEASURED = ("/var/lib/gpufleet/", "/opt/uv/venv/lib", "/opt/uv/venv/bin")
UV = "uv_python: Say in check mode that uv, Python or packages would be installed"


ROUNDS: dict[str, dict[str, Damage]] = {
    "files": {
        "a mode": path("ml_cache", "/srv/ml/data/torch_starter", "chmod 0777 %"),
        "an owner": path("ml_cache", "/srv/ml/cache", "chown alice %"),
        "a default ACL": path(
            "ml_cache",
            "/srv/ml/cache/huggingface/hub",
            'python3 -c \'import os; os.removexattr("%", "system.posix_acl_default")\'',
        ),
        "a directory that is gone": path("ml_cache", "/srv/ml/cache/huggingface/xet", "rm -r %"),
        "a user's own directory opened": path("ml_cache", "/srv/ml/users/alice", "chmod 0755 %"),
        "a key changed": path("ml_cache", "/home/alice/.cache/huggingface/token", "echo mine >%"),
        "a key opened to others": path("ml_cache", "/home/bob/.config/gpufleet/env", "chmod 0644 %"),
        "a unit edited": path("ml_cache", "/etc/systemd/system/gpufleet-cache-clean.service", "echo '# mine' >>%"),
        "a program edited": path("ml_cache", "/usr/local/lib/gpufleet/clean_cache.py", "echo 'import os' >>%"),
        "an edited profile": path("env_profile", "/etc/profile.d/gpufleet.sh", "echo 'export A=1' >>%"),
        "a missing file": path("env_profile", "/etc/gpufleet/env.json", "rm %"),
        "a file opened for writing": path("env_profile", "/etc/gpufleet/container.env", "chmod 0666 %"),
        "a line changed": path("env_profile", "/etc/gpufleet/unit.env", "sed -i 's/=2/=64/' %"),
        "a limit gone": path("env_profile", "/etc/security/limits.d/60-gpufleet.conf", "rm %"),
        "a program that cannot run": path("env_profile", "/usr/local/bin/gpufleet-env", "chmod 0644 %"),
        "a link in a file's place": path(
            "env_profile", "/etc/systemd/user-environment-generators/20-gpufleet", "chmod 0755 % && chown alice %"
        ),
        "a probe that says yes": path("torch_probe", "/opt/gpufleet/torch_probe.py", "printf '#!/bin/true\\n' >%"),
        "a timer's link gone": path(
            "torch_probe", "/etc/systemd/system/timers.target.wants/gpufleet-probe.timer", "rm %"
        ),
        "a timer rescheduled": path(
            "torch_probe", "/etc/systemd/system/gpufleet-probe.timer", "sed -i 's/daily/yearly/' %"
        ),
        "a foreign index": path("uv_python", "/etc/uv/uv.toml", "echo '[[index]]' >>%"),
        # The environment may follow another lock, so uv is asked too.
        "a lock edited": Damage(
            "sed -i 1d /opt/uv/environment/core.txt", "uv_python: /opt/uv/environment/core.txt", (UV,)
        ),
        "an authority gone": path("ca_trust", "/usr/local/share/ca-certificates/gpufleet-*.crt", "rm %"),
    },
    "state": {
        "a member taken out": Damage("gpasswd -d bob ml", "ml_cache: Have the users in the group"),
        "a stopped timer": Damage(
            "systemctl stop gpufleet-probe.timer", "torch_probe: Start the timer that somebody stopped"
        ),
        "a timer disabled": path(
            "ml_cache",
            "/etc/systemd/system/timers.target.wants/gpufleet-cache-clean.timer",
            "systemctl disable --now gpufleet-cache-clean.timer",
        ),
        "a package removed": Damage(f"rm -r {VENV}/lib/python3*/site-packages/*.dist-info", UV),
    },
    "another uv": {"a uv of another version": Damage("printf '#!/bin/sh\necho uv 0.1.0\n' >/usr/local/bin/uv", UV)},
    "no uv": {"uv removed": Damage("rm /usr/local/bin/uv", UV)},
    "a venv file": {"a deleted venv file": Damage(f"rm {VENV}/lib/python3*/site-packages/*/__init__.py", UV)},
    "a package by hand": {
        "a package by hand": Damage(
            f"mkdir {BY_HAND} && printf 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n' >{BY_HAND}/METADATA"
            f" && printf 'mine-1.0.dist-info/METADATA,,\\nmine-1.0.dist-info/RECORD,,\\n' >{BY_HAND}/RECORD",
            UV,
        )
    },
    "no Python": {"Python removed": Damage("rm -r /opt/uv/python", UV, ("uv_python: /opt/uv/python",))},
    "no venv": {"the environment removed": Damage(f"rm -r {VENV}", UV)},
}
if os.environ.get("GPUFLEET_TEST_EACH"):
    ROUNDS = {name: {name: damage} for ways in ROUNDS.values() for name, damage in ways.items()}


@pytest.mark.parametrize("name", ROUNDS)
def test_each_damage_is_found_and_mended_and_nothing_else(host: Any, again: Callable[..., Any], name: str) -> None:
    found_and_mended(host, again, ROUNDS[name], left_out=MEASURED, whole=[UV], playbook=SITE)


def test_ansible_runner_converges_the_host(host: Any, tmp_path: Path) -> None:
    """As AWX and ansible-navigator run it: changes, and the summary, are in its events."""
    assert host.run("rm /etc/gpufleet/env.json").rc == 0
    for changed in (1, 0):
        ran = ansible_runner.run(
            private_data_dir=str(tmp_path),
            playbook=str(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], SITE).resolve()),
            inventory=os.environ["MOLECULE_INVENTORY_FILE"],
            envvars={
                "ANSIBLE_CONFIG": str(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "ansible.cfg")),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            quiet=True,
        )
        assert (ran.status, ran.rc) == ("successful", 0), ran.stdout.read()
        assert ran.stats["changed"].get(host.backend.name, 0) == changed
        artifacts = Path(ran.config.artifact_dir, "job_events")
        events = [json.loads(path.read_text()) for path in artifacts.glob("*.json")]
        done = [event["event_data"] for event in events if event["event"] == "runner_on_ok"]
        named = [each["res"]["changes"][0]["path"] for each in done if each["res"].get("changed")]
        assert named == ["/etc/gpufleet/env.json"] * changed
