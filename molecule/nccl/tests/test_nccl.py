"""Two hosts that sum one tensor, by gloo on their CPUs: NCCL needs GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Again = Callable[..., Any]


@pytest.fixture
def summed(host: Any, again: Again) -> Again:
    """Run the playbook with small numbers."""
    wishes = {
        "torch_probe_python": f"/opt/uv/cache/{host.backend.name}/bin/python",
        "nccl_backend": "gloo",
        "nccl_megabytes": 4,
    }

    def run(*arguments: str, **more: Any) -> Any:
        return again(*arguments, playbook="../../playbooks/nccl.yml", **{**wishes, **more})

    return run


def test_the_sum_over_both_hosts_is_right(summed: Again) -> None:
    ran = summed()
    assert ran.ok, ran.sentence
    assert ran.changed == 0
    assert "2 processes on 2 hosts by gloo: " in json.dumps(ran.result)
    assert "0 wrong numbers" in json.dumps(ran.result)


def test_less_than_what_is_wished_is_a_failure(summed: Again) -> None:
    ran = summed(nccl_least_gb_s=100_000, nccl_processes=3)
    assert not ran.ok
    assert "6 processes on 2 hosts by gloo" in ran.sentence
    assert "0 wrong numbers" in ran.sentence
    assert "at least 100000 GB/s" in ran.sentence


def test_a_host_without_torch_is_said(summed: Again) -> None:
    ran = summed(torch_probe_python="/opt/uv/venv/bin/python", nccl_timeout=10)
    assert not ran.ok
    assert "No module named 'torch'" in ran.sentence


def test_more_hosts_than_forks_are_refused(summed: Again) -> None:
    ran = summed("--forks", "1")
    assert not ran.ok
    assert "Found 1 forks for 2 hosts" in ran.sentence
