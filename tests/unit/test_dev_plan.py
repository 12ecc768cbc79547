"""The plan of a dev container: a table of hosts and wishes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils._look_containers import images_of, look_at_containers
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root
from ansible_collections.gpufleet.host.plugins.module_utils.dev_plan import GIB, size_of
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from host_facts import H100, host, place

ALICE = {"uid": 1000, "gid": 1000, "group": "alice", "home": "/home/alice", "home_exists": True, "home_links": {}}
BOB = {**ALICE, "uid": 1007, "gid": 100, "group": "users", "home": "/home/bob"}
WISHES: dict[str, Any] = {"containers": True, "users": ["alice", "bob"]}
DOCKER = {"docker": "26.1.5", "podman": None, "containerd": None}


def box(*devices: str, **changes: Any) -> dict[str, Any]:
    engine = {"docker.io": "26.1.5", "docker-compose": "2.26.1-4", "docker-buildx": "0.13.1"}
    changes = {"engines": DOCKER, "containers__packages": engine, "users": {"alice": ALICE, "bob": BOB}, **changes}
    return host(*devices, **changes)


def plan(facts: dict[str, Any] | None = None, **wishes: Any) -> dict[str, Any]:
    made = make_plan(facts or box(), {**WISHES, **wishes})
    assert made["refusals"] == []
    dev: dict[str, Any] = made["dev_container"]
    return dev


def test_first_users_workspace() -> None:
    dev = plan()
    assert (dev["user"], dev["uid"], dev["gid"]) == ("alice", 1000, 1000)
    assert (dev["name"], dev["project"], dev["repository"]) == ("torch_starter", "torch-starter-alice", "torch-starter")
    assert dev["container_path"] == "/workspaces/torch_starter"
    assert dev["gpu"] is None
    assert dev["groups"] == ["dev"]


def test_another_users_workspace_of_that_name_has_another_project() -> None:
    dev = plan(dev_user="bob", dev_workspace="/home/bob/torch_starter", groups=["notebook"])
    assert (dev["project"], dev["uid"], dev["gid"]) == ("torch-starter-bob", 1007, 100)
    assert dev["groups"] == ["dev", "notebook"]
    assert {"source": "/home/bob/.kaggle", "target": "/home/vscode/.kaggle"} in dev["mounts"]


def test_nobody_is_named() -> None:
    made = make_plan(box(users={}), {"containers": True})
    assert made["refusals"] == []
    assert made["dev_container"]["action"] == "none"
    assert "dev_container_user" in made["dev_container"]["reason"]


@pytest.mark.parametrize(
    ("facts", "way"),
    [
        (box(H100), "cdi"),
        (
            box(H100, engines={**DOCKER, "docker": "20.10.24"}, containers__packages={"docker.io": "20.10.24"}),
            "runtime",
        ),
        (box(), None),
    ],
)
def test_the_way_to_the_gpu_is_the_toolkits(facts: dict[str, Any], way: str | None) -> None:
    assert make_plan(facts, WISHES)["dev_container"]["gpu"] == way


def test_a_number_of_the_bases_own_accounts_is_no_persons() -> None:
    made = make_plan(box(users={"alice": {**ALICE, "uid": 6}}), {**WISHES, "users": ["alice"]})
    assert made["refusals_of"]["dev_container"] == [
        "Found the number 6, by which the image's base has an account of its system's; wished is dev_container_user=; "
        "name a person's account."
    ]
    assert make_plan(box(users={"alice": {**ALICE, "uid": 501}}), {**WISHES, "users": ["alice"]})["refusals"] == []


IMAGE = "torch-starter:cu13-0123456789ab"
BUILT = {
    "containers__built": {"torch-starter-alice": {"image": IMAGE, "seconds": 1.0, "size_bytes": 1, "time": "x"}},
    "containers__images": [{"id": "sha256:1", "tags": [IMAGE, "torch-starter:cu13"], "hash": "0"}],
}


def test_what_measures_in_the_image_is_started_with_no_more_than_it_needs() -> None:
    assert plan(box(memory_bytes=16 * GIB, **BUILT))["container"] == {
        "image": IMAGE,
        "options": [
            *("--rm", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--memory", str(16 * GIB * 85 // 100), "--shm-size", str(4 * GIB)),
        ],
    }


@pytest.mark.parametrize(
    ("facts", "options"),
    [
        (box(H100, **BUILT), ["--device", "nvidia.com/gpu=all"]),
        (
            box(
                H100,
                engines={**DOCKER, "docker": "20.10.24"},
                **{**BUILT, "containers__packages": {"docker.io": "20.10.24"}},
            ),
            ["--runtime", "nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=all"],
        ),
    ],
)
def test_it_gets_the_gpus_by_the_toolkits_way(facts: dict[str, Any], options: list[str]) -> None:
    assert make_plan(facts, WISHES)["dev_container"]["container"]["options"][-len(options) :] == options


@pytest.mark.parametrize(
    ("changes", "wishes"),
    [
        ({"containers__built": {}}, {}),
        ({"containers__images": []}, {}),
        ({"containers__images": None}, {}),
        ({}, {"dev_build": False}),
        ({}, {"dev_user": "bob"}),
    ],
)
def test_without_an_image_of_this_workspace_nothing_measures_there(
    changes: dict[str, Any], wishes: dict[str, Any]
) -> None:
    assert plan(box(**{**BUILT, **changes}), **wishes)["container"] is None


OLD = {"engines": {**DOCKER, "docker": "20.10.24"}, "system__version_id": "12", "system__codename": "bookworm"}


@pytest.mark.parametrize(
    ("packages", "found"),
    [
        ({"docker.io": "20.10.24"}, "no Compose"),
        ({"docker.io": "20.10.24", "docker-compose": "1.29.2"}, "Compose 1.29.2"),
    ],
)
def test_an_engine_whose_compose_starts_no_dev_container_is_refused(packages: dict[str, str], found: str) -> None:
    (said,) = make_plan(box(**OLD, containers__packages=packages), WISHES)["refusals_of"]["dev_container"]
    assert said == (
        f"Found Docker 20.10.24 with {found}, and without 2.24 or newer nothing starts a dev container; wished is "
        "dev_container_state=present; take this Docker away and run again (docker_engine_source=docker brings one with "
        "it), or set dev_container_state to absent."
    )


def test_a_compose_that_no_package_brought_is_taken() -> None:
    facts = box(**OLD, containers__packages={"docker.io": "20.10.24"})
    facts["paths"]["/usr/local/lib/docker/cli-plugins/docker-compose"] = place("file")
    assert make_plan(facts, WISHES)["refusals"] == []


def test_a_debian_12_without_an_engine_gets_one_with_compose() -> None:
    made = make_plan(box(**{**OLD, "engines": {**DOCKER, "docker": None}}, containers__packages={}), WISHES)
    assert made["refusals"] == []
    assert "docker-compose-plugin" in made["engine"]["packages"]


# memory of the host in GiB, wishes, what a container may take: memory, shared memory (GiB), CPUs
LIMITS: list[tuple[float, dict[str, Any], float | None, float | None, float | None]] = [
    (256, {}, 217.6, 64, None),
    (16, {}, 13.6, 4, None),
    (9, {}, 7.65, 4, None),
    (4, {}, None, 4, None),
    (256, {"profiles": ["seed"]}, 12, 4, 8.0),
    (256, {"dev_memory": "none"}, None, 64, None),
    (256, {"dev_memory": "6gb"}, 6, 4, None),
    (256, {"dev_memory": "2gb"}, 2, 2, None),
    (256, {"dev_shm_size": "1gb", "dev_cpus": "2.5"}, 217.6, 1, 2.5),
    (256, {"profiles": ["seed"], "dev_cpus": "none", "dev_memory": "auto"}, 12, 4, None),
]


@pytest.mark.parametrize(("gib", "wishes", "memory", "shm", "cpus"), LIMITS)
def test_limits_that_this_host_can_give(
    gib: float, wishes: dict[str, Any], memory: float | None, shm: float | None, cpus: float | None
) -> None:
    limits = plan(box(memory_bytes=int(gib * GIB)), **wishes)["limits"]
    assert limits["memory_bytes"] == (None if memory is None else pytest.approx(memory * GIB, rel=1e-6))
    assert limits["shm_bytes"] == (None if shm is None else shm * GIB)
    assert limits["cpus"] == cpus


def test_seed_on_a_small_host_starts() -> None:
    small = box(cpu={"model": "x", "vcpus": 2, "cores": 2, "quota_cpus": None, "numa_nodes": 1})
    assert plan(small, profiles=["seed"])["limits"]["cpus"] == 2.0


def test_stack_limit_is_soft_alone_but_in_seed() -> None:
    assert plan()["limits"]["ulimits"]["stack"] == {"soft": 67108864, "hard": -1}
    assert plan(profiles=["seed"])["limits"]["ulimits"]["stack"] == 67108864
    assert plan(box(system__container=True))["limits"]["ulimits"] == {}


def test_seed_has_the_guides_five_volumes_and_its_base() -> None:
    dev = plan(profiles=["seed"])
    assert dev["project"] == "torch-starter"
    assert sorted(dev["volumes"]) == ["data", "hf-cache", "kaggle-cache", "torch-cache", "uv-cache"]
    assert dev["volumes"]["data"] == "/workspaces/torch_starter/data"
    assert dev["mounts"] == []
    assert dev["base"] == "mcr.microsoft.com/vscode/devcontainers/base:ubuntu-24.04"
    assert "ubuntu-24.04" not in plan()["base"]


def test_shared_directories_are_mounted_where_there_are_some() -> None:
    sources = [mount["source"] for mount in plan()["mounts"]]
    assert "/srv/ml/cache/huggingface/hub" in sources
    assert "/srv/ml/data/torch_starter" in sources
    assert "/srv/ml/data/torch_starter" not in [m["source"] for m in plan(cache_projects=["other"])["mounts"]]
    alone = [mount["source"] for mount in plan(ml_cache_state="absent")["mounts"]]
    assert alone == ["/home/alice/.kaggle", "/home/alice/.config/huggingface"]


def test_room_for_the_workspaces_environment_is_asked_for() -> None:
    paths = {"/workspaces/torch_starter": place(mount="/workspaces", free_bytes=2 * GIB)}
    (sentence,) = make_plan(box(paths=paths), WISHES)["refusals_of"]["dev_container"]
    assert "free on /workspaces" in sentence
    assert "dev_container_workspace" in sentence


def test_what_is_there_is_not_made_again() -> None:
    bare = plan()
    assert bare["ready"] == {"venv": False, "packages": False}
    there = {path: place() for path in ("/srv/ml", "/opt/uv", "/opt/uv/venv", "/opt/uv/cache", "/usr/local/bin/uv")}
    there |= {path: place("file") for path in ("/usr/bin/htop", "/usr/bin/tmux")}
    there |= {"/workspaces/torch_starter/.venv/bin/python": place("file")}
    assert plan(box(paths=there))["ready"] == {"venv": True, "packages": True}
    cut_off = {**there, "/workspaces/torch_starter/.venv.unfinished": place("file")}
    assert plan(box(paths=cut_off))["ready"]["venv"] is False


@pytest.mark.parametrize(
    ("facts", "wishes", "parts"),
    [
        (box(), {"dev_user": "carol"}, ["Found no user 'carol'", "dev_container_user=carol", "useradd"]),
        (box(users={"root": {"uid": 0}}), {"users": [], "dev_user": "root"}, ["Found root", "name a person"]),
        (box(), {"dev_workspace": "here"}, ["dev_container_workspace=here"]),
        (box(), {"dev_workspace": "/workspaces/../etc"}, ["Found no plain path"]),
        (box(), {"dev_workspace": "/workspaces/my project"}, ["my project", "letters"]),
        (box(), {"dev_workspace": "/workspaces/$(id)"}, ["letters"]),
        (box(), {"dev_memory": "lots"}, ["dev_container_memory=lots", "12gb"]),
        (box(), {"dev_shm_size": "-1"}, ["dev_container_shm_size"]),
        (box(), {"dev_cpus": "many"}, ["dev_container_cpus=many"]),
        (box(), {"dev_cpus": "128"}, ["Found 64 CPUs", "dev_container_cpus=128"]),
        (box(), {"dev_groups": ["games"]}, ["Found no such choice", "dev_container_groups=['games']"]),
        (
            box(engines={**DOCKER, "docker": None}, containers__packages={}),
            {"docker_engine_state": "absent"},
            ["Found no Docker", "docker_engine first"],
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_variable(
    facts: dict[str, Any], wishes: dict[str, Any], parts: list[str]
) -> None:
    sentences = make_plan(facts, {**WISHES, **wishes})["refusals_of"]["dev_container"]
    assert len(sentences) == 1
    for part in parts:
        assert part in sentences[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [("12gb", 12 * GIB), ("512m", 512 * 1024**2), ("1 GiB", GIB), ("7", 7), ("0", None), ("1.5g", None), ("", None)],
)
def test_sizes(text: str, size: int | None) -> None:
    assert size_of(text) == size


def test_images_by_the_engines_word() -> None:
    answer = [
        {"Id": "sha256:1", "RepoTags": ["a:2", "a:1"], "Labels": {"host.gpufleet.build-hash": "abc"}},
        {"Id": "sha256:2", "RepoTags": None, "Labels": {"host.gpufleet.build-hash": "def"}},
        {"Id": "sha256:3", "RepoTags": ["b:1"], "Labels": None},
    ]
    assert images_of(json.dumps(answer).encode()) == [
        {"id": "sha256:1", "tags": ["a:1", "a:2"], "hash": "abc"},
        {"id": "sha256:2", "tags": [], "hash": "def"},
    ]


def test_what_was_built_is_told_and_a_broken_note_is_none(tmp_path: Path) -> None:
    notes = tmp_path / "var/lib/gpufleet/dev_container"
    notes.mkdir(parents=True)
    (notes / "torch-starter-alice.json").write_text(
        '{"image": "a:1", "seconds": 3, "size_bytes": 9, "time": "t", "x": 1}'
    )
    (notes / "half.json").write_text('{"image": "a:')
    found = look_at_containers(Root(str(tmp_path)), [])["built"]
    assert found == {"torch-starter-alice": {"image": "a:1", "seconds": 3, "size_bytes": 9, "time": "t"}}
