"""The example inventories are read as users read them, by ansible-inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SEEN = {"gpu01.example.com": ["hopper"], "gpu02.example.com": ["ada", "hopper"], "desk01.example.com": []}


def run(program: str, *arguments: str, cache: Path) -> str:
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(cache),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [str(BIN / program), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def groups(cache: Path, inventory: str = "inventories/example") -> dict[str, Any]:
    found = json.loads(run("ansible-inventory", "-i", str(ROOT / inventory), "--list", cache=cache))
    return {name: sorted(group.get("hosts", [])) for name, group in found.items() if name.startswith("gpu_")}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The facts that three runs of preflight have left, written by ansible itself."""
    playbook = tmp_path / "seen.yml"
    task = {
        "ansible.builtin.set_fact": {"preflight_gpu_generations": "{{ seen[inventory_hostname] }}", "cacheable": True}
    }
    playbook.write_text(
        yaml.safe_dump([{"hosts": "all", "gather_facts": False, "vars": {"seen": SEEN}, "tasks": [task]}])
    )
    place = tmp_path / "facts"
    run("ansible-playbook", "-i", str(ROOT / "inventories/example"), str(playbook), cache=place)
    return place


def test_hosts_are_grouped_by_the_generation_of_their_gpus(cache: Path) -> None:
    found = groups(cache)
    assert found["gpu_hopper"] == ["gpu01.example.com", "gpu02.example.com"]
    assert found["gpu_ada"] == ["gpu02.example.com"]
    assert found["gpu_none"] == ["desk01.example.com"]
    graph = run("ansible-inventory", "-i", str(ROOT / "inventories/example"), "--graph", "gpu_ada", cache=cache)
    assert "|--gpu02.example.com" in graph


def test_hosts_that_nobody_has_seen_are_in_no_such_group(tmp_path: Path) -> None:
    assert set(groups(tmp_path)) == {"gpu_servers"}


def test_a_plan_leaves_what_the_groups_are_made_by(tmp_path: Path) -> None:
    """On this machine, whatever is in it."""
    run(
        "ansible-playbook",
        *("-i", "localhost,", "-c", "local", "-e", f"ansible_become=false ansible_python_interpreter={sys.executable}"),
        str(ROOT / "playbooks/plan.yml"),
        cache=tmp_path,
    )
    (kept,) = [json.loads(json.loads(path.read_text())["__payload__"]) for path in tmp_path.iterdir()]
    assert set(kept) == {"preflight_gpu_generations"}
