"""The layout of the cache for tables of wishes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import posix_acl
from ansible_collections.gpufleet.host.plugins.module_utils.cache_layout import (
    cache_absent_entries,
    cache_entries,
    cache_refusals,
)
from ansible_collections.gpufleet.host.plugins.module_utils.tree import parse_entry

USERS: dict[str, Any] = {
    "alice": {"uid": 1000, "gid": 1000, "group": "alice", "home": "/home/alice", "groups": ["alice"]},
    "bob": {"uid": 1001, "gid": 100, "group": "users", "home": "/data/home/bob", "groups": ["users", "ml"]},
    "svc": {"uid": 900, "gid": 900, "group": "svc", "home": "/nonexistent", "groups": ["svc"]},
    "gone": None,
}


def wishes(**other: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "root": "/srv/ml",
        "users": ["alice", "bob"],
        "group": "ml",
        "mode": "shared",
        "owner": "alice",
        "others": "read",
        "projects": ["torch_starter"],
        "uv_mode": "per_user",
        "uv_trust_group": False,
        "secrets": [],
    }
    return {**base, **other}


def entries(**other: Any) -> dict[str, dict[str, Any]]:
    return {entry["path"]: entry for entry in cache_entries(wishes(**other), USERS)}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"mode": "single_user", "users": ["alice"]},
        {"others": "none", "uv_mode": "shared", "uv_trust_group": True, "projects": ["a", "b"]},
        {"users": []},
        {"users": ["svc"]},
        {"secrets": [{"user": "bob", "name": name, "content": "x"} for name in ("hf_token", "kaggle_json", "env")]},
    ],
)
def test_tree_takes_it(other: dict[str, Any]) -> None:
    """Each entry is one that the module accepts, parents come first, and mode and ACL agree."""
    made = {"/srv", "/home/alice", "/data/home/bob"}
    for raw in cache_entries(wishes(**other), USERS):
        entry = parse_entry(raw)
        assert entry.path.rpartition("/")[0] in made
        assert entry.path not in made, "listed twice"
        made.add(entry.path)
        if entry.access_acl:
            acl = posix_acl.parse(entry.access_acl, lambda kind, name: 2000)
            assert entry.mode is not None
            assert posix_acl.to_mode(acl) == int(entry.mode, 8) & 0o777


@pytest.mark.parametrize(
    ("other", "path", "owner", "group", "mode", "acl"),
    [
        ({}, "", "root", "ml", "0755", None),
        ({}, "/cache/huggingface/hub", "root", "ml", "2775", "u::rwx,g::rwx,g:ml:rwx,m::rwx,o::r-x"),
        ({"others": "none"}, "", "root", "ml", "0750", None),
        ({"others": "none"}, "/data/torch_starter", "root", "ml", "2770", "u::rwx,g::rwx,g:ml:rwx,m::rwx,o::---"),
        ({"mode": "single_user"}, "/cache/huggingface/hub", "alice", "alice", "0755", ""),
        ({"uv_mode": "shared"}, "/cache/uv", "root", "ml", "2770", "u::rwx,g::rwx,g:ml:rwx,m::rwx,o::---"),
        ({}, "/users/bob", "bob", "users", "0700", ""),
    ],
)
def test_rights(other: dict[str, Any], path: str, owner: str, group: str, mode: str, acl: str | None) -> None:
    entry = entries(**other)["/srv/ml" + path]
    assert (entry["owner"], entry["group"], entry["mode"]) == (owner, group, mode)
    assert (entry.get("access_acl"), entry.get("default_acl")) == (acl, acl)


def test_uv_is_not_shared_by_default() -> None:
    assert not [path for path in entries() if "uv" in path]


def test_keys_are_the_owners() -> None:
    secret = {"user": "bob", "name": "kaggle_json", "content": "{}"}
    made = entries(secrets=[secret])
    key, place = made["/data/home/bob/.kaggle/kaggle.json"], made["/data/home/bob/.kaggle"]
    assert (key["owner"], key["group"], key["mode"], key["content"]) == ("bob", "users", "0600", "{}\n")
    assert key["secret"] is True
    assert (place["owner"], place["mode"], place["access_acl"]) == ("bob", "0700", "")


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({}, None),
        ({"mode": "single_user"}, None),
        ({"mode": "single_user", "owner": ""}, None),
        ({"users": ["gone"]}, None),  # the plan's own sentence
        ({"root": "srv/ml"}, None),  # too
        ({"root": "/"}, 'ml_cache_root "/" is no plain path below the root'),
        ({"root": "/srv/ml/"}, "is no plain path"),
        ({"root": "/srv/../etc"}, "is no plain path"),
        ({"users": ["homeless"]}, 'Found no directory /home/homeless, the home of user "homeless"'),
        ({"users": ["svc"]}, None),
        ({"mode": "both"}, 'ml_cache_mode is "both": set it to shared or single_user'),
        ({"projects": "torch_starter"}, "ml_cache_projects is no list of names"),
        ({"secrets": [{"user": "bob", "name": "wandb", "content": "hush"}]}, "ml_cache_secrets is no list"),
        ({"secrets": "hush"}, "ml_cache_secrets is no list"),
        ({"projects": ["a/b"]}, 'ml_cache_projects has "a/b"'),
        ({"projects": [".."]}, 'ml_cache_projects has ".."'),
        ({"mode": "single_user", "owner": "", "users": []}, 'its owner "" is not in ml_cache_users'),
        ({"mode": "single_user", "owner": "svc"}, 'its owner "svc" is not in ml_cache_users'),
        ({"uv_mode": "shared"}, "set ml_cache_uv_trust_group to true"),
        ({"secrets": [{"user": "eve", "name": "env", "content": "x"}]}, 'has user "eve", who is not in ml_cache_users'),
        ({"secrets": [{"user": "bob", "name": "env", "content": "hush"}] * 2}, 'has env of user "bob" twice'),
    ],
)
def test_refusals(other: dict[str, Any], sentence: str | None) -> None:
    homeless = {**USERS["alice"], "home": "/home/homeless", "home_exists": False}
    found = cache_refusals(wishes(**other), {**USERS, "homeless": homeless}, None)
    assert len(found) == (0 if sentence is None else 1), found
    assert (sentence or "") in "".join(found)
    assert "hush" not in "".join(found)


@pytest.mark.parametrize(
    ("ancestor", "kind", "refused"),
    [
        ("/data/ml", "directory", False),
        ("/data", "directory", False),
        ("/", "directory", True),
        ("/data", "file", False),  # which the plan refuses itself
    ],
)
def test_parent_of_the_root(ancestor: str, kind: str, refused: bool) -> None:
    found = cache_refusals(wishes(root="/data/ml"), USERS, {"ancestor": ancestor, "ancestor_kind": kind})
    assert [sentence for sentence in found if "Found no directory /data, in which" in sentence] == found
    assert bool(found) == refused


@pytest.mark.parametrize(
    ("links", "made", "retargeted"),
    [
        ({}, True, False),
        ({".cache/huggingface": "/big/alice"}, False, False),
        ({".cache/torch/hub/checkpoints": "/old/ml/cache/torch/checkpoints"}, True, True),
        ({".cache/torch/hub/checkpoints": "/srv/ml/cache/torch/checkpoints"}, True, False),
        ({".cache/torch/hub/checkpoints": "/big/alice/nets"}, True, False),
    ],
)
def test_links_in_a_home(links: dict[str, str], made: bool, retargeted: bool) -> None:
    """What a user led to another disk is left alone; what this role linked follows a changed root."""
    users = {**USERS, "alice": {**USERS["alice"], "home_links": links}}
    found = {entry["path"]: entry for entry in cache_entries(wishes(users=["alice"]), users)}
    assert ("/home/alice/.cache/huggingface" in found) == made
    assert found["/home/alice/.cache/torch/hub/checkpoints"]["force"] == retargeted


def test_absent() -> None:
    keys = wishes(
        secrets=[{"user": "bob", "name": "env", "content": "x"}, {"user": "gone", "name": "env", "content": "x"}]
    )
    kept = cache_absent_entries(keys, USERS, False)
    assert kept == [{"path": "/data/home/bob/.config/gpufleet/env", "state": "absent"}]
    removed = cache_absent_entries(keys, USERS, True)
    assert {"path": "/srv/ml", "state": "absent", "recurse": True} in removed
    # A directory in a home goes only when nobody has put anything into it, the inner one first.
    homes = [entry["path"] for entry in removed if entry.get("force") is False and "/alice/.cache" in entry["path"]]
    assert homes == [f"/home/alice/.cache{path}" for path in ("/torch/hub", "/torch", "/huggingface", "")]
    links = [entry["path"] for entry in removed if entry.get("target") == "/srv/ml/cache/torch/checkpoints"]
    assert links == [f"{home}/.cache/torch/hub/checkpoints" for home in ("/home/alice", "/data/home/bob")]
