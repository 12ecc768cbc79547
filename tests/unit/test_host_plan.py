"""The host plan as one table: hosts times wishes, with the channel or the sentence that must come out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.filter.host_plan import host_plan as filter_host_plan
from ansible_collections.gpufleet.host.plugins.filter.python_trouble import python_trouble
from ansible_collections.gpufleet.host.plugins.module_utils import _torch_channels
from ansible_collections.gpufleet.host.plugins.module_utils._platforms import PLATFORMS, support_of
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import HOST, PROFILES, WISHES, make_plan
from host_facts import (
    A100,
    B200,
    GB,
    GB10,
    GTX_1080,
    H100,
    K80,
    RTX_4090,
    RTX_5090,
    T4,
    TITAN_X,
    UNKNOWN,
    V100,
    gpu,
    host,
    place,
)

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = {"channel": "cpu", "cpu_index_url": "https://mirror/cpu", "locks_path": "/my/locks"}
MARK = {"/opt/uv/venv.unfinished": {"kind": "file"}}


def at(path: str, **fields: Any) -> dict[str, Any]:
    """Return the paths fact with one place that differs."""
    paths: dict[str, Any] = host()["paths"]
    return {**paths, path: place(**fields)}


def everywhere(**fields: Any) -> dict[str, Any]:
    return {path: place(**fields) for path in host()["paths"]}


# host, wishes, channel expected, pieces of the one refusal (none: there must be no refusal)
CHANNEL_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[str]]] = {
    "no gpu": (host(), {}, "cu13", []),
    "rtx 4090": (host(RTX_4090), {}, "cu13", []),
    "h100 x8": (host(*[H100] * 8), {}, "cu13", []),
    "b200": (host(B200), {}, "cu13", []),
    "t4": (host(T4), {}, "cu13", []),
    "v100": (host(V100), {}, "cu128", []),
    "gtx 1080": (host(GTX_1080), {}, "seed", []),
    "titan x": (host(TITAN_X), {}, "seed", []),
    "k80": (host(K80, driver="470.256.02"), {}, "cu13", ["kepler GPU 0x102d", "no single torch channel"]),
    "rtx 4090, driver 570": (host(RTX_4090, driver="570.211.01"), {}, "cu128", []),
    "rtx 4090, driver 550": (host(RTX_4090, driver="550.163.01"), {}, "cu128", []),
    "rtx 4090, driver 525": (host(RTX_4090, driver="525.60.13"), {}, "cu128", []),
    "rtx 4090, driver 470": (host(RTX_4090, driver="470.256.02"), {}, "cu13", ["470.256.02", "525", "driver 580"]),
    "rtx 5090, driver 570": (host(RTX_5090, driver="570.211.01"), {}, "cu128", []),
    "rtx 5090, driver 565": (host(RTX_5090, driver="565.57.01"), {}, "cu13", ["565.57.01", "570", "0x2b85"]),
    "gtx 1080, driver 470": (host(GTX_1080, driver="470.256.02"), {}, "cu13", ["470.256.02", "525"]),
    "v100 and a100": (host(V100, A100), {}, "cu128", []),
    "gtx 1080 and rtx 4090": (host(GTX_1080, RTX_4090), {}, "seed", []),
    "v100 and rtx 5090": (host(V100, RTX_5090), {}, "cu128", []),
    "gtx 1080 and rtx 5090": (host(GTX_1080, RTX_5090), {}, "cu13", ["0x1b80", "0x2b85", "vfio-pci"]),
    "no driver, v100": (host(V100, driver=None, held=None), {}, "cu128", []),
    "no driver, gtx 1080": (host(GTX_1080, driver=None, held="nouveau"), {}, "seed", []),
    "vfio only": (host(GTX_1080, held="vfio-pci"), {}, "cu13", []),
    "vfio beside": (host(gpus=[gpu(GTX_1080, 1, "vfio-pci"), gpu(RTX_5090, 2)]), {}, "cu13", []),
    "unknown gpu": (host(UNKNOWN), {}, "cu13", []),
    "unknown gpu and v100": (host(UNKNOWN, V100), {}, "cu128", []),
    "gb10": (host(GB10, system__architecture="aarch64"), {}, "cu13", []),
    "gb10, driver 570": (host(GB10, driver="570.1", system__architecture="aarch64"), {}, "cu13", ["570.1", "580"]),
    "v100 on arm": (host(V100, system__architecture="aarch64"), {}, "cu13", ["no single torch channel on aarch64"]),
    "arm without gpu": (host(system__architecture="aarch64"), {}, "cu13", []),
    "arm without gpu, seed": (host(system__architecture="aarch64"), {"channel": "seed"}, "seed", []),
    "arm with gpu, seed": (
        host(GB10, system__architecture="aarch64"),
        {"channel": "seed"},
        "seed",
        ["aarch64", "cu13"],
    ),
    "arm with gpu, cu128": (host(H100, system__architecture="aarch64"), {"channel": "cu128"}, "cu128", ["aarch64"]),
    "asked seed": (host(RTX_4090), {"channel": "seed"}, "seed", []),
    "asked seed on blackwell": (host(RTX_5090), {"channel": "seed"}, "seed", ["0x2b85", "no kernels", "seed", "auto"]),
    "asked cu128 on pascal": (host(GTX_1080), {"channel": "cu128"}, "cu128", ["0x1b80", "no kernels"]),
    "asked cu13 on volta": (host(*[V100] * 4), {"channel": "cu13"}, "cu13", ["4 times volta", "no kernels"]),
    "asked cu13, driver 570": (host(A100, driver="570.1"), {"channel": "cu13"}, "cu13", ["570.1", "580"]),
    "asked cu13, no driver": (host(A100, driver=None), {"channel": "cu13"}, "cu13", []),
    "asked cu128, no gpu": (host(), {"channel": "cu128"}, "cu128", []),
    "asked cpu": (host(), CPU, "cpu", []),
    "asked cpu without index": (host(), {**CPU, "cpu_index_url": ""}, "cpu", ["uv_python_cpu_index_url", "auto"]),
    "asked cpu without locks": (host(), {**CPU, "locks_path": ""}, "cpu", ["uv_python_locks_path", "cpu/core.txt"]),
    "asked cpu on mixed": (
        host(GTX_1080, RTX_5090),
        CPU,
        "cpu",
        [],
    ),
    "driver of odd name": (host(A100, driver="weird"), {}, "cu13", []),
}


@pytest.mark.parametrize("case", CHANNEL_CASES)
def test_channel(case: str) -> None:
    facts, wishes, channel, pieces = CHANNEL_CASES[case]
    plan = make_plan(facts, wishes)
    assert plan["torch"]["channel"] == channel
    if not pieces:
        assert plan["refusals"] == []
    else:
        (sentence,) = plan["refusals"]
        assert [piece for piece in pieces if piece not in sentence] == []


# host, wishes, variable and pieces of the one refusal
REFUSAL_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "unknown channel": (host(), {"channel": "cu999"}, ["uv_python_torch_channel=cu999", "cu13"]),
    "unknown profile": (host(), {"profiles": ["turbo"]}, ["env_profile_profiles", "'turbo'", "training"]),
    "unknown group": (host(), {"groups": ["dev", "extra"]}, ["uv_python_groups", "'extra'", "datascience"]),
    "group as text": (host(), {"groups": "dev"}, ["uv_python_groups=dev", "list"]),
    "profiles as a mapping": (host(), {"profiles": {"a": 1}}, ["env_profile_profiles", "list"]),
    "users as numbers": (host(), {"users": [1000]}, ["gpufleet_users", "list of names"]),
    "python 3.13": (host(), {"python_version": "3.13"}, ["uv_python_version=3.13", "3.12"]),
    "python as a number": (host(), {"python_version": 3.1}, ["uv_python_version=3.1", '"3.12"']),
    "no such user": (host(), {"users": ["alice", "carol"]}, ["gpufleet_users", "'carol'", "useradd"]),
    "cache is a file": (host(paths=at("/srv/ml", kind="file")), {}, ["ml_cache_root=/srv/ml", "a file at /srv/ml"]),
    "venv is a file": (
        host(paths=at("/opt/uv/venv", kind="file")),
        {},
        ["uv_python_venv_path=", "directory belongs", "set gpufleet_venv_path"],
    ),
    "prefix is a broken link": (host(paths=at("/opt/uv", kind="other")), {}, ["uv_python_prefix", "broken link"]),
    "uv is a directory": (
        host(paths=at("/usr/local/bin/uv", kind="directory")),
        {},
        ["uv_python_uv_path", "a directory at /usr/local/bin/uv", "a file belongs"],
    ),
    "a file in the way": (
        host(paths=at("/srv/ml", ancestor="/srv", ancestor_kind="file")),
        {},
        ["a file at /srv, in the way of /srv/ml", "ml_cache_root"],
    ),
    "relative path": (host(), {"cache_root": "srv/ml"}, ["ml_cache_root=srv/ml", "absolute"]),
    "empty path": (host(), {"venv_path": ""}, ["uv_python_venv_path=", "absolute"]),
    "read-only": (host(paths=at("/srv/ml", read_only=True, mount="/srv")), {}, ["/srv, which is mounted read-only"]),
    "noexec": (host(paths=at("/opt/uv/venv", noexec=True)), {}, ["noexec", "uv_python_venv_path"]),
    "no acl": (
        host(paths=at("/srv/ml", acl=False, mount="/srv", filesystem="nfs4")),
        {"users": ["alice"]},
        ["no POSIX ACLs on /srv (nfs4)", "set gpufleet_cache_root", "gpufleet_users"],
    ),
    "disk too small": (
        host(paths=everywhere(free_bytes=6 * GB)),
        {"link_mode": "copy"},
        ["6.0 GB free on /", "11.8 GB", "gpufleet_venv_path", "uv_python_cache_path", "free 5.8 GB"],
    ),
    "disk too small, cache and environment sharing blocks": (
        host(paths=everywhere(free_bytes=5 * GB)),
        {},
        ["5.0 GB free on /", "6.0 GB are needed", "uv_python_prefix or gpufleet_venv_path", "free 1.0 GB"],
    ),
    "disk too small for the venv alone": (
        host(paths=at("/opt/uv/venv", mount="/opt/uv/venv", free_bytes=5 * GB)),
        {},
        ["5.0 GB free on /opt/uv/venv", "uv_python_venv_path"],
    ),
    "disk too small for another channel": (
        host(venv__python="3.12.16", venv__torch="2.6.0", uv__version="0.13.0", paths=everywhere(free_bytes=1 * GB)),
        {},
        ["1.0 GB free", "uv_python_venv_path"],
    ),
    "a uv without checksum": (host(), {"uv_file": "/home/me/uv"}, ["uv_python_uv_file=", "uv_python_uv_file_checksum"]),
    "index without tls": (
        host(),
        {"index_url": "http://mirror/simple"},
        ["uv_python_index_url=http:", "https"],
    ),
    "mirror by ftp": (
        host(),
        {"install_mirror": "ftp://m", "allow_insecure_endpoints": True},
        ["uv_python_install_mirror=ftp://m"],
    ),
    "unknown platform": (
        host(system__distribution="gentoo", system__version_id=None, system__pretty_name="Gentoo"),
        {},
        ["Gentoo", "debian 12 and 13", "gpufleet_allow_unknown_platform"],
    ),
    "old debian": (
        host(system__version_id="11", system__pretty_name="Debian 11"),
        {},
        ["Debian 11", "debian 12 and 13"],
    ),
    "riscv": (host(system__architecture="riscv64"), {}, ["riscv64", "no torch wheels", "inventory"]),
}


@pytest.mark.parametrize(
    "facts",
    [host(), host(addresses={"index_url": {"status": 404, "error": None}})],
    ids=["insecure", "unanswered"],
)
def test_a_password_in_an_address_is_never_printed(facts: dict[str, Any]) -> None:
    wishes = {"index_url": "http://ci:hunter2@mirror/simple", "allow_insecure_endpoints": "addresses" in facts}
    plan = make_plan(facts, wishes)
    assert len(plan["refusals"]) == 2
    assert "netrc" in plan["refusals"][0]
    assert all("http://***@mirror/simple" in sentence for sentence in plan["refusals"])
    assert "hunter2" not in repr(plan)


@pytest.mark.parametrize("case", REFUSAL_CASES)
def test_refusal(case: str) -> None:
    facts, wishes, pieces = REFUSAL_CASES[case]
    (sentence,) = make_plan(facts, wishes)["refusals"]
    assert [piece for piece in pieces if piece not in sentence] == []


def test_what_env_profile_would_refuse_is_refused_before_the_downloads() -> None:
    wishes = {"overrides": {"CUDA_VISIBLE_DEVICES": "all"}}
    (sentence,) = make_plan(host(), wishes)["refusals"]
    assert "CUDA_VISIBLE_DEVICES" in sentence
    (sentence,) = make_plan(host(), {"overrides": ["OMP_NUM_THREADS=3"]})["refusals"]
    assert "env_profile_overrides" in sentence


def test_the_caches_own_refusals_come_before_any_change() -> None:
    wishes = {"users": ["alice"], "cache_mode": "single_user", "cache_owner": "carol", "cache_projects": ["a/b"]}
    sentences = make_plan(host(users__alice={"home": "/home/alice", "home_exists": False}), wishes)["refusals"]
    for part in ("/home/alice, the home of", 'ml_cache_projects has "a/b"', 'its owner "carol"'):
        assert [sentence for sentence in sentences if part in sentence], part
    assert len(sentences) == 3


def test_a_password_in_the_environment_is_refused_and_not_printed() -> None:
    (sentence,) = make_plan(host(), {"overrides": {"HTTPS_PROXY": "http://u:s3cret@proxy:3128"}})["refusals"]
    assert "env_profile_overrides.HTTPS_PROXY" in sentence
    assert "netrc" in sentence
    assert "s3cret" not in sentence


# host, wishes, the roles that are refused
ROLE_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "no room for torch": (host(paths=everywhere(free_bytes=GB)), {}, {"uv_python"}),
    "a gpu without channel": (host(K80, driver="470.1"), {}, {"uv_python"}),
    "no such user": (host(), {"users": ["carol"]}, {"ml_cache"}),
    "no room for the cache": (host(paths=at("/srv/ml", read_only=True)), {}, {"ml_cache"}),
    "a bad override": (host(), {"overrides": {"PATH": "/x"}}, {"env_profile", "uv_python"}),
    "an unknown profile": (host(), {"profiles": ["x"]}, {"env_profile"}),
    "an unknown platform": (host(system__distribution="gentoo"), {}, {HOST}),
    "uv_python is to go": (host(K80, driver="470.1"), {"uv_python_state": "absent"}, set()),
    "ml_cache is to go": (host(), {"users": ["carol"], "ml_cache_state": "absent"}, set()),
    "env_profile is to go": (host(), {"overrides": {"PATH": ""}, "env_profile_state": "absent"}, {"uv_python"}),
}


@pytest.mark.parametrize("case", ROLE_CASES)
def test_a_refusal_stops_only_the_role_that_it_is_about(case: str) -> None:
    facts, wishes, roles = ROLE_CASES[case]
    plan = make_plan(facts, wishes)
    spoken = {role: sentences for role, sentences in plan["refusals_of"].items() if role not in plan["unwished_roles"]}
    assert {role for role, sentences in spoken.items() if sentences} == roles
    assert len(plan["refusals"]) == (1 if roles else 0)


def test_an_absent_environment_needs_nothing() -> None:
    plan = make_plan(host(paths=everywhere(free_bytes=0)), {"uv_python_state": "absent"})
    assert plan["changes"] == plan["downloads"] == plan["refusals"] == []


def every_refusal() -> list[str]:
    hosts = [case[:2] for case in CHANNEL_CASES.values()] + [case[:2] for case in REFUSAL_CASES.values()]
    return [sentence for facts, wishes in hosts for sentence in make_plan(facts, wishes)["refusals"]]


@pytest.mark.parametrize("sentence", every_refusal())
def test_every_refusal_names_what_was_found_wished_and_to_do(sentence: str) -> None:
    found, wished, remedy = sentence.split("; ", 2)
    assert found.startswith("Found ")
    assert any(wished.startswith(f"wished is {variable}=") for variable, _default in WISHES.values())
    verbs = ("set ", "use ", "choose ", "create ", "move ", "mount ", "write ", "free ", "install ", "take ")
    assert remedy.startswith(verbs)
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_all_refusals_come_at_once() -> None:
    facts = host(paths=at("/srv/ml", kind="file"))
    plan = make_plan(facts, {"channel": "x", "profiles": ["y"], "users": ["z"], "index_url": "http://i"})
    assert len(plan["refusals"]) == 5


# host, wishes, pieces of one warning
WARNING_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "ubuntu": (
        host(system__distribution="ubuntu", system__version_id="24.04", system__pretty_name="Ubuntu 24.04.3 LTS"),
        {},
        ["Ubuntu 24.04.3 LTS", "preview"],
    ),
    "rocky": (host(system__distribution="rocky", system__version_id="9.6"), {}, ["preview"]),
    "allowed platform": (
        host(system__distribution="gentoo", system__version_id=None),
        {"allow_unknown_platform": True},
        ["not known"],
    ),
    "no driver": (host(A100, driver=None), {}, ["No NVIDIA driver is loaded", "chosen by driver 580"]),
    "no driver planned": (
        host(A100, driver=None),
        {"nvidia_driver_state": "absent"},
        ["No NVIDIA driver is loaded", "compute capability alone"],
    ),
    "nouveau": (host(A100, driver=None, driver__nouveau=True), {}, ["nouveau holds the GPU"]),
    "vfio": (host(A100, held="vfio-pci"), {}, ["1 GPU(s) are bound to vfio-pci"]),
    "unknown gpu": (host(UNKNOWN), {}, ["0x4242", "not in this collection's table"]),
    "cpu with gpus": (host(A100), CPU, ["leaves 1 GPU(s) unused"]),
    "seed on arm": (host(system__architecture="aarch64"), {"channel": "seed"}, ["CPU only"]),
    "insecure allowed": (host(), {"index_url": "http://m", "allow_insecure_endpoints": True}, ["without TLS"]),
    "reboot": (host(reboot={"required": True, "reasons": ["the loaded driver is old"]}), {}, ["A reboot is due"]),
    "open venv": (host(venv__writable_by_others=True), {}, ["Every user can write"]),
    "container without nodes": (
        host(A100, system__container=True, driver__device_nodes=[]),
        {},
        ["none of their device nodes"],
    ),
}


@pytest.mark.parametrize("case", WARNING_CASES)
def test_warning(case: str) -> None:
    facts, wishes, pieces = WARNING_CASES[case]
    warnings = make_plan(facts, wishes)["warnings"]
    assert any(all(piece in sentence for piece in pieces) for sentence in warnings), warnings


def test_a_plain_host_has_no_warnings() -> None:
    plan = make_plan(host(RTX_4090), {"users": ["alice", "bob"]})
    assert plan["warnings"] == plan["refusals"] == plan["skipped"] == []


@pytest.mark.parametrize(
    ("cpu", "gpus", "threads", "workers"),
    [
        ({"vcpus": 64, "cores": 32, "quota_cpus": None}, 1, 16, 16),
        ({"vcpus": 64, "cores": 32, "quota_cpus": None}, 4, 8, 15),
        ({"vcpus": 64, "cores": 32, "quota_cpus": None}, 8, 4, 7),
        ({"vcpus": 2, "cores": 2, "quota_cpus": None}, 0, 2, 1),
        ({"vcpus": 8, "cores": 4, "quota_cpus": 2.5}, 0, 2, 1),
        ({"vcpus": 8, "cores": 4, "quota_cpus": 0.5}, 1, 1, 1),
        ({"vcpus": 64, "cores": 32, "quota_cpus": 2}, 1, 2, 1),
        ({"vcpus": 12, "cores": None, "quota_cpus": None}, 1, 12, 11),
        ({"vcpus": None, "cores": None, "quota_cpus": None}, 2, 1, 1),
    ],
)
def test_resources(cpu: dict[str, Any], gpus: int, threads: int, workers: int) -> None:
    resources = make_plan(host(*[A100] * gpus, cpu=cpu), {})["resources"]
    assert (resources["threads"], resources["dataloader_workers"]) == (threads, workers)
    assert resources["gpus"] == max(1, gpus)
    assert 1 <= resources["cores"] <= max(1, cpu["quota_cpus"] or 64)


@pytest.mark.parametrize(
    ("installed", "wishes", "ready"),
    [
        (None, {}, False),
        ("2.14.1", {}, True),
        ("2.14.1+cu130", {}, True),
        ("2.14.1+cpu", {}, False),
        ("2.6.0", {}, False),
        ("2.6.0", {"channel": "seed"}, True),
        ("2.14.1+cpu", CPU, True),
    ],
)
def test_a_host_that_has_it_all_needs_nothing(installed: str | None, wishes: dict[str, Any], ready: bool) -> None:
    facts = host(
        venv__python="3.12.16", venv__torch=installed, uv__version="0.13.0", paths=everywhere(free_bytes=90 * GB)
    )
    plan = make_plan(facts, wishes)
    assert (plan["downloads"] == []) is ready
    assert (plan["changes"] == []) is ready
    assert (sum(row["needed_bytes"] for row in plan["disk"]) == 0) is ready


READY = {"uv__version": "0.13.0", "venv__python": "3.12.16", "venv__torch": "2.14.1"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"uv__version": "0.4.0"}, ["uv at"]),
        ({"venv__python": "3.11.9"}, ["Python 3.12", "torch 2.14.1"]),
        ({"venv__torch": "2.6.0"}, ["torch 2.14.1"]),
        ({"paths": {**everywhere(), **MARK}}, ["torch 2.14.1"]),
    ],
)
def test_what_differs_is_announced(changes: dict[str, Any], words: list[str]) -> None:
    announced = make_plan(host(**{**READY, **changes}), {})["changes"]
    assert len(announced) == len(words)
    assert all(word in change for word, change in zip(words, announced, strict=True))


def test_an_interrupted_run_is_not_refused_for_what_it_has_stored() -> None:
    plan = make_plan(host(paths={**everywhere(free_bytes=GB), **MARK}), {})
    assert plan["refusals"] == []
    assert any("1.0 GB free" in sentence and "interrupted" in sentence for sentence in plan["warnings"])


@pytest.mark.parametrize(
    ("facts", "pending"),
    [
        (host(A100, driver__on_disk={"6.12.48+deb13-amd64": "580.178.04"}), False),
        (host(A100, driver__on_disk={"6.12.48+deb13-amd64": "581.1"}), True),
        (host(A100, driver=None, driver__on_disk={"6.12.48+deb13-amd64": "581.1"}), True),
        (host(A100, driver=None, driver__on_disk={"other": "581.1"}), False),
        (host(driver__on_disk={"6.12.48+deb13-amd64": "581.1"}), False),
        (host(A100, system__container=True, driver__on_disk={"6.12.48+deb13-amd64": "581.1"}), False),
        (host(A100, reboot={"required": True, "reasons": ["the system asks for it"]}), False),
    ],
)
def test_a_reboot_is_pending_where_it_would_load_the_driver(facts: dict[str, Any], pending: bool) -> None:
    assert make_plan(facts, {})["reboot_pending"] is pending


def test_a_full_disk_is_no_trouble_once_everything_is_there() -> None:
    facts = host(venv__python="3.12.16", venv__torch="2.14.1", uv__version="0.13.0", paths=everywhere(free_bytes=0))
    assert make_plan(facts, {})["refusals"] == []


def test_groups_add_to_the_forecast() -> None:
    bare, full = (make_plan(host(), {"groups": groups}) for groups in ([], list(_torch_channels.GROUPS)))
    assert full["torch"]["download_bytes"] - bare["torch"]["download_bytes"] == 170_000_000
    assert full["disk"] != bare["disk"]


@pytest.mark.parametrize(
    ("mode", "mount", "needed"),
    [("clone", "/", 0), ("hardlink", "/", 0), ("copy", "/", 5_800_000_000), ("clone", "/cache", 5_800_000_000)],
)
def test_the_cache_takes_nothing_where_it_shares_blocks(mode: str, mount: str, needed: int) -> None:
    plan = make_plan(host(paths=at("/opt/uv/cache", mount=mount)), {"link_mode": mode})
    (row,) = [row for row in plan["disk"] if row["path"] == "/opt/uv/cache"]
    assert row["needed_bytes"] == needed


def test_unknown_free_space_is_no_refusal() -> None:
    assert make_plan(host(paths=everywhere(free_bytes=None, mount=None)), {})["refusals"] == []


def test_skipped() -> None:
    whats = [item["what"] for item in make_plan(host(system__service_manager="none"), {})["skipped"]]
    assert whats == ["systemd units and their environment", "GPU checks"]


def test_gpu() -> None:
    assert make_plan(host(V100, A100), {})["gpu"] == {
        "present": True,
        "count": 2,
        "usable": True,
        "min_compute_capability": "7.0",
    }
    assert make_plan(host(A100, driver=None), {})["gpu"]["usable"] is False
    assert make_plan(host(A100, held="vfio-pci"), {})["gpu"]["present"] is False


def test_the_minimum_is_a_number_and_no_text() -> None:
    assert make_plan(host(RTX_4090, B200), {})["gpu"]["min_compute_capability"] == "8.9"


def test_a_plan_changes_neither_facts_nor_wishes() -> None:
    facts, wishes = host(A100), {"users": ["alice"], "groups": "dev"}
    before = copy.deepcopy((facts, wishes))
    make_plan(facts, wishes)
    assert (facts, wishes) == before
    assert WISHES["groups"][1] == []


def test_the_summary_has_every_sentence() -> None:
    plan = make_plan(host(*[H100] * 8, nvswitches=[{}] * 4), {"channel": "nope"})
    text = "\n".join(plan["summary"])
    assert "8 x hopper 0x2330, compute capability 9.0" in text
    assert "4 NVSwitches" in text
    assert "4 for each of 8 GPUs" in text
    assert plan["refusals"][0] in text


def test_unknown_wishes_and_facts_are_errors() -> None:
    with pytest.raises(KeyError, match="chanel"):
        make_plan(host(), {"chanel": "auto"})
    with pytest.raises(Exception, match="dictionary of facts"):
        filter_host_plan([], {})
    assert "(system, cpu," in filter_host_plan({}, {})["refusals_of"][HOST][0]


def test_channel_table_is_sound() -> None:
    channels = (*_torch_channels.CHANNELS, _torch_channels.CPU_CHANNEL)
    assert [channel.name for channel in channels] == ["cu13", "cu128", "seed", "cpu"]
    for channel in channels:
        assert set(channel.download_bytes) == set(channel.unpacked_bytes) == {"x86_64", "aarch64"}
        assert all(channel.unpacked_bytes[key] > channel.download_bytes[key] for key in channel.download_bytes)


def test_platforms() -> None:
    assert support_of("debian", "13") == "tested"
    assert support_of("almalinux", "10.1") == "preview"
    assert support_of("ubuntu", "22.10") is None
    assert support_of(None, None) is None
    assert {platform.support for platform in PLATFORMS} == {"tested", "preview"}


def test_the_documented_fields_are_the_plan() -> None:
    page = (REPOSITORY / "docs/data.md").read_text().split("## Plan:")[1].split("\n##")[0]
    names = {
        name.removesuffix("[]")
        for line in page.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].replace("`", "").replace(" ", "").split(",")
    }
    assert len(names) > 8
    assert names <= set(make_plan(host(), {}))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_known(profile: str) -> None:
    assert make_plan(host(), {"profiles": [profile]})["refusals"] == []


@pytest.mark.parametrize(
    ("first", "second", "interpreter", "pieces"),
    [
        (
            "version 3.8.18",
            "version 3.11.2",
            "/p",
            ["Python 3.8.18 at /p", "interpreter to /usr/bin/python3"],
        ),
        ("version 2.7.18", "sh: 1: /usr/bin/python3: not found", "/p", ["2.7.18", "install Python 3.9"]),
        ("pyenv: python3.12: command not found", "version 3.11.2", "/s", ["dead pyenv shim at /s", "set ansible"]),
        ("/bin/sh: 1: /p: not found", "version 3.8.1", "/p", ["no Python at /p", "install Python 3.9"]),
        ("sh: /usr/bin/python3: No such file", "", "/usr/bin/python3", ["no Python at /usr/bin/python3", "install"]),
        ("Segmentation fault", "version 3.11.2", "/p", ["no Python that starts at /p", "Segmentation fault"]),
        ("", "", "/p", ["no Python that starts at /p", "install"]),
        ("version 3.9.18", "version 3.9.18", "/p", ["Looking at the host failed: boom"]),
        ("\r\nversion 3.12.1\r\n", "", "/p", ["Looking at the host failed: boom"]),
    ],
)
def test_python_trouble(first: str, second: str, interpreter: str, pieces: list[str]) -> None:
    sentence = python_trouble(f"{first}\nend of answer\n{second}\nend of answer\n", interpreter, "boom")
    assert [piece for piece in pieces if piece not in sentence] == []
