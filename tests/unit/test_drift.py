"""What differs, as a table: the pure part, and the callback in a real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.plugin_utils.drift import Drift, objects_of

ROOT = Path(__file__).resolve().parents[2]
RECORD = {"time": "2026-11-24T03:00:00Z", "collection": "0.2.0"}


def test_the_table_says_host_role_object_and_since_when() -> None:
    drift = Drift()
    drift.looked("gpu01", RECORD)
    drift.looked("gpu02", RECORD)
    drift.differs("gpu02", "ml_cache", ["/srv/ml (mode)", "/srv/ml/data (created)"])
    drift.differs("gpu02", "env_profile", ["/etc/profile.d/gpufleet.sh (content)"])
    drift.looked("gpu03", None)
    drift.planned("gpu03", {"changes": ["Install torch 2.14.1"], "driver": {"changes": []}})
    assert drift.lines(["gpu04"]) == [
        "DRIFT: 4 hosts looked at, 2 differ, 1 host not to the end",
        "host   what differs                                       since",
        "gpu02  ml_cache: /srv/ml (mode)                           the record of 2026-11-24T03:00:00Z",
        "       ml_cache: /srv/ml/data (created)",
        "       env_profile: /etc/profile.d/gpufleet.sh (content)",
        "gpu03  plan: install torch 2.14.1                         no record yet",
        "gpu04  not looked at to the end: no reason given",
    ]


def test_a_fleet_as_wished_is_one_line() -> None:
    drift = Drift()
    for number in range(3):
        drift.looked(f"gpu{number}", RECORD)
    assert drift.lines() == ["DRIFT: 3 hosts looked at, none differs"]
    assert Drift().lines() == []


def test_a_host_with_much_is_cut_and_counted() -> None:
    drift = Drift()
    drift.looked("new", None)
    drift.differs("new", "tree", [f"/x/{number} (created)" for number in range(40)])
    drift.differs("new", "tree", ["/x/0 (created)"])  # twice is once
    lines = drift.lines()
    assert len(lines) == 14
    assert lines[-1].strip() == "and 29 more"


def test_the_drivers_part_of_the_plan_is_the_drivers() -> None:
    drift = Drift()
    drift.planned("a", {"changes": ["NVIDIA x", "Other"], "driver": {"changes": ["NVIDIA x"]}})
    assert [line[1:].strip() for line in drift.lines()[2:]] == ["nvidia_driver: NVIDIA x", "plan: other"]
    drift.planned("a", None)
    drift.planned("a", {"changes": [None, 5], "driver": 7})


@pytest.mark.parametrize(
    ("result", "objects"),
    [
        ({"changes": [{"path": "/a", "change": "content"}, {"path": "/a", "change": "mode"}]}, ["/a (content, mode)"]),
        ({"changes": [{"path": "", "change": "added"}]}, ["/ (added)"]),
        ({"diff": {"before_header": "/b", "after_header": "/b"}}, ["/b"]),
        ({"diff": [{"after_header": "/c"}, {"after_header": "/c"}, {}]}, ["/c"]),
        ({"diff": {"prepared": "x"}}, ["Install the packages"]),
        ({"results": [{"changed": True, "changes": [{"path": "/d", "change": "created"}]}, {"changed": False}]},
         ["/d (created)"]),
        ({"results": [{"changed": True}]}, ["Install the packages"]),
        ({}, ["Install the packages"]),
        (None, ["Install the packages"]),
        ({"changes": "odd", "diff": "odd"}, ["Install the packages"]),
        ({"changes": [{"path": "/e\x1b[31m\nf", "change": None}]}, ["/e\ufffd[31m f (changed)"]),
    ],
)  # fmt: skip
def test_an_object_is_a_path_or_what_the_task_is_called(result: Any, objects: list[str]) -> None:
    assert objects_of("Install the packages", result) == objects


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - gpufleet.host.gpu_facts:
        state_path: "{{ state }}"
    - name: Keep a file
      gpufleet.host.tree:
        entries: [{path: "{{ state }}/wished", state: file, content: "x"}]
      notify: Follow
    - name: Run a command
      ansible.builtin.command: "true"
      when: inventory_hostname == 'b'
    - block:
        - ansible.builtin.fail: {msg: not this}
      rescue:
        - ansible.builtin.debug: {msg: rescued}
    - name: Refuse
      ansible.builtin.fail: {msg: "c is refused: https://user:c4nary@index.example"}
      when: inventory_hostname == 'c'
  handlers:
    - name: Follow
      ansible.builtin.command: "true"
"""


def play(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    hosts = {}
    for name in ("a", "b", "c"):
        state = tmp_path / name
        state.mkdir(exist_ok=True)
        (state / "record.json").write_text(json.dumps(RECORD))
        hosts[name] = {"state": str(state)}
    (tmp_path / "a/wished").write_text("x")
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"hosts": hosts, "vars": shared, "children": {"gone": {"hosts": {"d": None}}}}}
    inventory["all"]["children"]["gone"]["hosts"]["d"] = {  # type: ignore[index]
        "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9, "state": "/nowhere"}  # fmt: skip
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts.json"), *arguments]
    return subprocess.run(
        [*command, str(tmp_path / "play.yml")], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
    )  # fmt: skip


def test_a_run_in_check_mode_ends_with_the_table(tmp_path: Path) -> None:
    said = play(tmp_path, "--check", "--diff").stdout
    table = said[said.index("DRIFT: ") :].splitlines()
    assert table[0] == "DRIFT: 4 hosts looked at, 2 differ, 2 hosts not to the end"
    rows = [line for line in table[2:] if line]
    text = "\n".join(rows)
    assert f"play: {tmp_path}/b/wished (created)" in text
    assert "the record of 2026-11-24T03:00:00Z" in text
    assert not any(row.startswith("a ") for row in rows)  # rescued, and as wished
    assert "Follow" not in text  # a handler follows from what is named
    assert any(row.startswith("c ") for row in rows)
    assert "not looked at to the end: c is refused" in text
    assert "c4nary" not in text
    assert any(row.startswith("d ") for row in rows)
    assert "127.0.0.1" in text
    assert not [line for line in table if "PLAY" in line]  # it is the end


def test_a_run_that_changes_things_has_no_table(tmp_path: Path) -> None:
    assert "DRIFT" not in play(tmp_path).stdout
