"""site.yml with a wrong type in one variable a host: one sentence before any role but preflight starts, no traceback.

One run of ansible-playbook over as many hosts as there are variables; one more is unreachable, one is right.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import WISHES
from wicked import MORE, ROOT, faults, options

WRONG: dict[str, Any] = {
    "str": [{}],
    "path": {"a": 1},
    "bool": "perhaps",
    "list": {"a": 1},
    "dict": [1],
    "int": "many",
    "raw": None,
}
ALL = {name: option for name, option in options().items() if "rollback" not in name}
# One of each kind, as a host costs a second; all of them with GPUFLEET_TEST_EXAMPLES. What the plan knows and what not.
PLANNED = {variable for variable, _default in WISHES.values()}
KINDS = {(name in PLANNED, option["type"], "choices" in option): name for name, option in ALL.items()}
OPTIONS = ALL if MORE > 1 else {name: ALL[name] for name in KINDS.values()}
CANARY = "hf_canary"


def wrong(option: dict[str, Any]) -> Any:
    return "nonsense" if "choices" in option and option["type"] != "list" else WRONG[option["type"]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return each host's results that say something."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts: dict[str, Any] = {name: {**here, name: wrong(option)} for name, option in OPTIONS.items()}
    hosts["a_key"] = {**here, "ml_cache_secrets": {"content": CANARY}}
    hosts["no_variable"] = {**here, "uv_python_index_url": "{{ nowhere_to_be_found }}"}
    inventory = tmp_path_factory.mktemp("bad") / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "-i",
            str(inventory),
            "--forks",
            "4",
            "--check",
            "site.yml",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        },
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert CANARY not in done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for play in json.loads(done.stdout[done.stdout.index("{") :])["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                found.setdefault(host, []).append({"task": task["task"]["name"], **result})
    return found


@pytest.mark.parametrize("name", [*OPTIONS, "a_key", "no_variable"])
def test_one_sentence_and_nothing_done(name: str, results: dict[str, list[dict[str, Any]]]) -> None:
    failed = [result for result in results[name] if result.get("failed")]
    assert len(failed) == 1
    assert [result["task"] for result in results[name] if result.get("changed")] == []
    assert {result["task"].rpartition(" : ")[0].rpartition(".")[2] for result in results[name]} == {"preflight"}
    if name.startswith("preflight_"):  # Ansible's own words, as preflight is the first role
        assert name in str(failed[0]["msg"]) + str(failed[0].get("argument_errors"))
        return
    said = {"a_key": "ml_cache_secrets", "no_variable": "uv_python_index_url"}.get(name, name)
    variable = {"ml_cache_users": "gpufleet_users", "ml_cache_group": "gpufleet_group"}.get(said, said)
    sentences = failed[0]["msg"].splitlines()
    assert [fault for sentence in sentences for fault in faults(sentence)] == []
    # This machine is no host for the site, so it may be refused for its own sake as well.
    assert [sentence for sentence in sentences if variable in sentence]
