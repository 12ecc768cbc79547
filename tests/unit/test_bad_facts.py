"""Facts that lie: missing, of a wrong type, negative, unknown. The plan refuses or warns, and never raises."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils._fact_shapes import FACTS, OTHERS, sound_facts
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import HOST, make_plan
from host_facts import H100, V100, gpu, host, place
from hypothesis import given, settings
from hypothesis import strategies as st
from wicked import MORE, VALUES, faults

PROCESS = {"pid": 7, "name": "python", "uid": 1000, "user": "alice", "container": None}
WHOLE = [
    host(),
    host(H100, H100, gpu_processes=[PROCESS], reboot={"required": True, "reasons": ["the kernel was removed"]}),
    host(V100, driver=None, held="nouveau", secure_boot=True, units={"a.service": {"enabled": None, "active": None}}),
    host(gpus=[gpu(H100)], addresses={"index_url": {"status": 404, "error": None}}, paths={"/srv/ml": place()}),
]
Path = tuple[Any, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the way to every fact in it."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def damaged(facts: dict[str, Any], path: Path, value: Any, gone: bool = False) -> dict[str, Any]:
    found = copy.deepcopy(facts)
    inner: Any = found
    for key in path[:-1]:
        inner = inner[key]
    if gone:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return found


def check(facts: Any) -> dict[str, Any]:
    plan: dict[str, Any] = make_plan(facts, {})
    for sentence in plan["refusals"] + plan["warnings"]:
        assert faults(sentence) == [], sentence
    assert all(line.isprintable() for line in plan["summary"])
    return plan


CASES = [(index, path) for index, facts in enumerate(WHOLE) for path in places(facts)]
IDS = [f"{index}-{'.'.join(map(str, path))}" for index, path in CASES]


@pytest.mark.parametrize("index", range(len(WHOLE)))
def test_whole_facts_are_left_as_they_are(index: int) -> None:
    assert sound_facts(WHOLE[index]) == (WHOLE[index], [])


@pytest.mark.parametrize(("index", "path"), CASES, ids=IDS)
def test_each_fact_missing_null_negative_or_of_another_type(index: int, path: Path) -> None:
    check(damaged(WHOLE[index], path, None, gone=True))
    for value in (None, -1, "", "x", [], {}, [None], {"a": None}, True, float("nan"), 10**30):
        check(damaged(WHOLE[index], path, value))


@settings(max_examples=400 * MORE)
@given(case=st.sampled_from(CASES), other=st.sampled_from(CASES), value=VALUES)
def test_facts_by_chance(case: tuple[int, Path], other: tuple[int, Path], value: Any) -> None:
    facts = damaged(WHOLE[case[0]], case[1], value)
    if other[0] == case[0] and other[1][: len(case[1])] != case[1] and case[1][: len(other[1])] != other[1]:
        facts = damaged(facts, other[1], value)
    check(facts)


@settings(max_examples=100 * MORE)
@given(facts=VALUES)
def test_facts_that_are_none(facts: Any) -> None:
    assert make_plan(facts, {})["refusals_of"][HOST]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cpu", "vcpus"), -4),
        (("cpu", "quota_cpus"), float("nan")),
        (("memory_bytes",), "much"),
        (("gpus",), None),
        (("gpus",), {"0": {}}),
        (("gpus", 0, "device_id"), 0x2330),
        (("gpu_processes",), None),
        (("driver", "loaded"), 580.1),
        (("driver", "on_disk"), ["6.12"]),
        (("paths", "/srv/ml", "free_bytes"), -1),
        (("system",), "Debian"),
    ],
)
def test_a_lie_is_named_and_stops_every_role(path: Path, value: Any) -> None:
    plan = check(damaged(host(H100), path, value))
    (sentence,) = [sentence for sentence in plan["refusals_of"][HOST] if "cannot be true" in sentence]
    assert str(path[0]) in sentence


def test_the_hosts_text_gives_the_terminal_no_orders() -> None:
    plan = check(host(system__pretty_name="Debian\x1b[2J\x1b[31m\nPLAY RECAP ok"))
    assert plan["refusals"] == []


def test_hundreds_of_hosts_of_which_one_lies() -> None:
    plans = [make_plan(host(H100) if number != 77 else {"gpus": "all"}, {}) for number in range(300)]
    assert [number for number, plan in enumerate(plans) if plan["refusals"]] == [77]


def test_every_fact_that_the_plan_is_given_by_the_tables_is_known() -> None:
    known = {key.lstrip("?~") for key in FACTS}
    assert OTHERS not in known
    assert set(host()) - known == {"schema", "toolkit"}
