"""Whatever stands in a variable, the plan says in one sentence what is wrong, and never raises."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import WISHES, make_plan
from host_facts import H100, RTX_4090, V100, host
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wicked import MORE, TEXTS, VALUES, faults, options

HOSTS = {
    "no gpu": host(),
    "8 x h100": host(*[H100] * 8, nvswitches=[{"pci_address": "0000:05:00.0", "device_id": "0x22a3"}]),
    "bare": host(RTX_4090, driver=None, held="nouveau", secure_boot=True),
    "ubuntu": host(V100, driver=None, system__distribution="ubuntu", system__version_id="24.04"),
    "rhel": host(H100, driver=None, system__distribution="rhel", system__version_id="9.4", system__os_family="RedHat"),
}
OPTIONS = options()
WORDS = re.compile(
    r"\b(gpufleet|nvidia_driver|uv_python|ml_cache|env_profile|ca_trust|docker_engine|container_toolkit|dev_container)_\w+"
)


def variable_of(wish: str) -> str:
    """Return the role's own variable, also where the plan names the collection's."""
    name = WISHES[wish][0]
    own = [option for option in OPTIONS if option.endswith(name.removeprefix("gpufleet"))]
    return name if name in OPTIONS or not own else own[0]


def check(wishes: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Plan, and return the refusals."""
    plan = make_plan(facts, wishes)
    for sentence in plan["refusals"] + plan["warnings"]:
        assert faults(sentence) == [], sentence
    for sentence in plan["refusals"]:
        assert WORDS.search(sentence), sentence
    assert all(line.isprintable() for line in plan["summary"])
    for item in [*plan["driver"]["packages"], *plan["driver"]["conflicts"], *plan["driver"]["kernels"]]:
        assert re.fullmatch(r"[\w.+:~=*-]+", item), item
    refusals: list[str] = plan["refusals"]
    return refusals


@pytest.mark.parametrize("wish", WISHES)
@settings(max_examples=40 * MORE)
@given(value=st.one_of(VALUES, st.sampled_from(TEXTS)), kind=st.sampled_from(sorted(HOSTS)))
def test_one_bad_wish(wish: str, value: Any, kind: str) -> None:
    check({wish: value}, HOSTS[kind])


@settings(max_examples=200 * MORE)
@given(
    wishes=st.dictionaries(st.sampled_from(sorted(WISHES)), VALUES, max_size=12), kind=st.sampled_from(sorted(HOSTS))
)
@example(wishes=dict.fromkeys(WISHES, None), kind="bare")
@example(wishes={name: {"a": [None]} for name in WISHES}, kind="ubuntu")
def test_many_bad_wishes(wishes: dict[str, Any], kind: str) -> None:
    check(wishes, HOSTS[kind])


# A value of each type that no conversion of Ansible's makes into another one.
WRONG = {"str": {}, "path": {}, "bool": "perhaps", "list": {"a": 1}, "dict": [1], "int": "many", "raw": {"a": 1}}


@pytest.mark.parametrize("wish", WISHES)
def test_a_wrong_type_is_refused_by_the_variables_name(wish: str) -> None:
    variable = variable_of(wish)
    kind = OPTIONS[variable]["type"] if variable in OPTIONS else "bool"
    wishes = {"containers": True, wish: WRONG[kind]}  # without that one, nothing of containers is told
    sentences = [sentence for sentence in check(wishes, HOSTS["bare"]) if WISHES[wish][0] in sentence]
    assert sentences, f"{WISHES[wish][0]} = {WRONG[kind]!r} is accepted"


@pytest.mark.parametrize("wish", WISHES)
def test_what_is_no_choice_is_refused(wish: str) -> None:
    option = OPTIONS.get(variable_of(wish), {})
    if "choices" not in option:
        pytest.skip("every value is possible")
    value = ["nonsense"] if option["type"] == "list" else "nonsense"
    wishes = {"containers": True, wish: value}
    assert [sentence for sentence in check(wishes, HOSTS["bare"]) if WISHES[wish][0] in sentence]


@pytest.mark.parametrize("value", ["false", "no", "off", "0", 0, False, "False"])
@pytest.mark.parametrize("wish", ["allow_insecure_endpoints", "allow_unknown_platform"])
def test_false_as_text_is_false(wish: str, value: Any) -> None:
    facts = host(system__distribution="slackware", system__version_id="15")
    wishes = {wish: value, "index_url": "http://mirror.example/simple"}
    plan = make_plan(facts, wishes)
    assert len(plan["refusals_of"]["uv_python"]) == 1
    assert any("slackware" in sentence or "Debian" in sentence for sentence in plan["refusals_of"]["host"])
    assert plan["allow_insecure_endpoints"] is False


@pytest.mark.parametrize("value", ["true", "yes", "on", "1", 1, True])
def test_true_as_text_is_true(value: Any) -> None:
    assert make_plan(host(), {"allow_insecure_endpoints": value})["allow_insecure_endpoints"] is True


@pytest.mark.parametrize("value", ["false", False, "no"])
def test_trust_in_a_group_is_not_given_by_the_word_false(value: Any) -> None:
    refusals = make_plan(host(), {"cache_uv_mode": "shared", "cache_uv_trust_group": value})["refusals"]
    assert [sentence for sentence in refusals if "ml_cache_uv_trust_group" in sentence]


@pytest.mark.parametrize(
    "value",
    [
        "hf_canary",
        {"content": "hf_canary"},
        ["hf_canary"],
        [{"user": "alice", "name": "hf_token", "content": ["hf_canary"]}],
        [{"user": "alice", "name": "odd", "content": "hf_canary"}],
        [{"user": "nobody", "name": "hf_token", "content": "hf_canary"}],
    ],
)
def test_a_key_in_a_wrong_place_is_in_no_sentence(value: Any) -> None:
    assert "hf_canary" not in str(make_plan(host(), {"cache_secrets": value}))
