"""Two hosts that sum one tensor, by gloo on their CPUs: NCCL needs GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import testinfra

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


# What one host gets back from the others has one wrong number in it, as by a bad card or cable.
WRONG = """
import torch.distributed as dist
right = dist.all_reduce
def all_reduce(tensor, *rest, **more):
    done = right(tensor, *rest, **more)
    if tensor.numel() > 2:
        tensor[7] += 1
    return done
dist.all_reduce = all_reduce
"""
WRAPPER = '#!/bin/sh\nPYTHONPATH=/var/tmp/wrong exec %s "$@"\n'


def test_a_wrong_number_on_one_host_is_a_failure(host: Any, summed: Again) -> None:
    other = testinfra.get_host(f"docker://{host.backend.name.replace('-nccl-a', '-nccl-b')}")
    for one in (host, other):
        script = WRAPPER % f"/opt/uv/cache/{host.backend.name}/bin/python"
        one.check_output(
            "mkdir -p /var/tmp/wrong && printf %%s %s >/var/tmp/python && chmod 755 /var/tmp/python", script
        )
    other.check_output("printf %%s %s >/var/tmp/wrong/sitecustomize.py", WRONG)
    ran = summed(torch_probe_python="/var/tmp/python")
    assert not ran.ok
    assert ", 22 wrong numbers; wished are no wrong numbers" in ran.sentence
    other.check_output("rm /var/tmp/wrong/sitecustomize.py")
    assert summed(torch_probe_python="/var/tmp/python").ok


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
