"""The bench's own arithmetic; what it measures is of the machine and is asserted nowhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bench import fleet
from bench.fleet import Cost
from hosts.common import HostsError

RECAP = """
PLAY RECAP *****
a-1                        : ok=12   changed=2    unreachable=0    failed=0    skipped=3
b.example                  : ok=12   changed=0    unreachable=0    failed=0    skipped=3
"""


def cost(wall: float, changed: int = 0) -> Cost:
    return Cost(wall=wall, cpu=wall / 2, memory=100, changed=changed, modules=9)


def test_changes_are_summed_over_hosts() -> None:
    assert fleet.changes(RECAP) == 2


@pytest.mark.parametrize("bad", ["unreachable=1", "failed=1"])
def test_a_host_that_did_not_end_well_is_no_measurement(bad: str) -> None:
    with pytest.raises(HostsError, match="failed on a-1"):
        fleet.changes(RECAP.replace(bad[:-1] + "0", bad, 1))


def test_a_run_without_a_recap_is_no_measurement() -> None:
    with pytest.raises(HostsError, match="failed on all hosts"):
        fleet.changes("ERROR! no such playbook")


def test_the_work_is_done_in_turns() -> None:
    done: list[str] = []

    def run(name: str, wall: float) -> Cost:
        done.append(name)
        return cost(wall)

    costs = fleet.in_turns(2, lambda: run("a", 1), lambda: run("b", 2))
    assert done == ["a", "b", "a", "b"]
    assert [[each.wall for each in one] for one in costs] == [[1, 1], [2, 2]]


def test_a_run_that_changes_something_is_not_compared() -> None:
    with pytest.raises(HostsError, match="changed 3 on a converged host"):
        fleet.in_turns(1, lambda: cost(1, changed=3))


def test_the_comparison_is_of_medians() -> None:
    text = fleet.compared(["ours", "theirs"], [[cost(2), cost(3), cost(50)], [cost(6), cost(6), cost(6)]])
    assert "| ours | 9 | 3.0 (2.0 to 50.0) |" in text
    assert "wall 0.50, CPU 0.50" in text


def test_memory_counts_the_processes_below() -> None:
    """A child that holds 64 MiB of its own is in what its parent costs."""
    hold = "import sys; x = bytearray(b'1' * (64 << 20)); print('there', flush=True); sys.stdin.read()"
    before = fleet.memory(os.getpid())
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        grown = fleet.memory(os.getpid()) - before
        assert child.stdin is not None
        child.stdin.close()
    assert 60 < grown < 120
