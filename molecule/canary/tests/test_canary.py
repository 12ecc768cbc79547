"""Twenty hosts, of which one in the second batch goes wrong: who is touched, and what the report says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
from hosts import copies

OLD, NEW = "580.159.03", "595.91.07"
COUNT = 20
# upgrade.yml goes to one host, then to a quarter of them, then to the rest.
CANARY, SECOND, REST = range(1), range(1, 6), range(6, COUNT)
BROKEN = 3


@pytest.fixture(scope="module")
def fleet(host: Any) -> Iterator[list[str]]:
    """Twenty copies of the converged host, by name; the fourth will compute wrong with the new driver."""
    source = host.backend.name
    image = f"{source}:converged"
    names = [f"{source}-{number:02d}" for number in range(COUNT)]
    pci = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "molecule/nvidia_driver/pci"
    copies.room(COUNT)
    copies.keep(source, image)
    try:
        for name in names:
            copies.start(image, name, ["--volume", f"{pci}:/sys/bus/pci/devices:ro"])
        assert testinfra.get_host(f"docker://{names[BROKEN]}").run("touch /etc/broken").rc == 0
        yield names
    finally:
        copies.remove(names, image)


@pytest.fixture(scope="module")
def rollout(fleet: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The inventory of the twenty; what the scenario's own host wishes is theirs too."""
    path = tmp_path_factory.mktemp("inventory") / "rollout.json"
    hosts = {name: {"ansible_connection": "community.docker.docker"} for name in fleet}
    path.write_text(json.dumps({"rollout": {"hosts": hosts}}))
    return str(path)


def driver(name: str) -> str:
    """The version of the library that programs load."""
    found = testinfra.get_host(f"docker://{name}").run("basename /usr/lib/x86_64-linux-gnu/libcuda.so.*.*")
    return str(found.stdout).strip().removeprefix("libcuda.so.")


def test_the_rollout_ends_with_the_batch_of_the_host_that_fails(
    fleet: list[str], rollout: str, again: Callable[..., Any], tmp_path: Path
) -> None:
    assert {driver(name) for name in fleet} == {OLD}
    ran = again(
        "--inventory", rollout, playbook="../upgrade/upgrade.yml", gpufleet_hosts="rollout", nvidia_driver_version=NEW
    )
    assert not ran.ok
    assert f"{fleet[BROKEN]}: matmul.bf16.correct: a wrong product" in ran.sentence
    assert ran.sentence.count("the rollout ends here") == 1

    upgraded = [*CANARY, *(number for number in SECOND if number != BROKEN)]
    assert {number: driver(name) for number, name in enumerate(fleet)} == {
        number: NEW if number in upgraded else OLD for number in range(COUNT)
    }

    # Who reads only the report learns it too.
    report = again(
        "--inventory",
        rollout,
        playbook="../../playbooks/report.yml",
        gpufleet_hosts="rollout",
        report_path=str(tmp_path),
    )
    assert report.ok, report.sentence
    rows = json.loads((tmp_path / "fleet.json").read_text())["hosts"]
    upgrades = [row["upgrade"]["status"] for row in rows]
    assert [row["name"] for row in rows] == fleet
    assert {number: status for number, status in enumerate(upgrades) if status == "done"} == dict.fromkeys(
        upgraded, "done"
    )
    assert [number for number, status in enumerate(upgrades) if status == "rolled_back"] == [BROKEN]
    assert {rows[number]["state"] for number in REST} == {"no_record"}
    (note,) = (note for note in rows[BROKEN]["notes"] if note["kind"] == "upgrade")
    assert note["text"].startswith(f"the last upgrade failed and was rolled back, driver {OLD} is back: matmul.bf16")
    assert "rolled back" in (tmp_path / "fleet.html").read_text()
