"""What lies where in a cache that several users share, as entries for the module tree.

A plain function of the wishes and of who the users are, so that a table can test it; why it is so stands in the role's
README. The one rule: what is code or a key belongs to one user, what is data is shared.
"""

from __future__ import annotations

import re
from typing import Any

Entries = list[dict[str, Any]]

# Homes of accounts that have none.
_NO_HOME = frozenset({"", "/", "/nonexistent", "/dev/null", "/var/empty"})
_SECRETS = {"hf_token": ".cache/huggingface/token", "kaggle_json": ".kaggle/kaggle.json", "env": ".config/gpufleet/env"}
_CHECKPOINTS = "cache/torch/checkpoints"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def cache_refusals(wishes: dict[str, Any], users: dict[str, Any], place: dict[str, Any] | None) -> list[str]:
    """Return one sentence for each wish that cannot be, besides those about users and paths that the plan has itself.

    Args:
        wishes: the role's wishes, whose types nobody has looked at yet.
        users: the fact of the same name.
        place: the fact about the root among ``paths``, or None.
    """
    misshapen = _misshapen(wishes)
    if misshapen:
        return misshapen
    found = _root_refusals(wishes["root"], place)
    found += [
        f'Found no directory {user["home"]}, the home of user "{name}" in ml_cache_users: make it '
        f"(mkhomedir_helper {name}), or take the user out of the list."
        for name, user in users.items()
        if user is not None and name in wishes["users"]
        if user.get("home_exists") is False and (user.get("home") or "") not in _NO_HOME
    ]
    found += [
        f'ml_cache_projects has "{name}", which cannot be a directory\'s name: use letters, digits, ".", "_" and "-".'
        for name in wishes["projects"]
        if not _NAME.fullmatch(name)
    ]
    return found + _mode_refusals(wishes) + _secret_refusals(wishes)


def _misshapen(wishes: dict[str, Any]) -> list[str]:
    """Ansible looks at a role's types only when the role starts, which is after the downloads of others."""
    found = [
        f'ml_cache_{name} is "{wishes[name]}": set it to {" or ".join(choices)}.'
        for name, choices in (("mode", ("shared", "single_user")), ("uv_mode", ("per_user", "shared")))
        if wishes[name] not in choices
    ]
    names = wishes["projects"]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        found.append("ml_cache_projects is no list of names: write one, like [torch_starter].")
    secrets = wishes["secrets"]
    if not isinstance(secrets, (list, tuple)) or not all(
        isinstance(secret, dict) and isinstance(secret.get("user"), str) and secret.get("name") in _SECRETS
        for secret in secrets
    ):
        found.append(
            "ml_cache_secrets is no list of {user, name, content} where each name is one of "
            f"{', '.join(_SECRETS)}: write it so."
        )
    return found


def _root_refusals(root: Any, place: dict[str, Any] | None) -> list[str]:
    if not isinstance(root, str) or not root.startswith("/"):
        return []  # the plan says so itself, as of all paths
    if not re.fullmatch(r"(/[^/]+)+", root) or ".." in root.split("/"):
        return [f'ml_cache_root "{root}" is no plain path below the root: give one such as /srv/ml.']
    parent = root.rpartition("/")[0] or "/"
    there = place or {}
    if there.get("ancestor") not in (None, root, parent) and there.get("ancestor_kind") == "directory":
        return [
            f"Found no directory {parent}, in which ml_cache_root {root} shall be made: mount its disk or make it "
            "first, or set gpufleet_cache_root to another path."
        ]
    return []


def cache_owner(wishes: dict[str, Any]) -> str:
    """Return the owner in the mode single_user: the one named, else the first user."""
    return str(wishes["owner"] or next(iter(wishes["users"]), ""))


def _mode_refusals(wishes: dict[str, Any]) -> list[str]:
    found = []
    owner = cache_owner(wishes)
    if wishes["mode"] == "single_user" and owner not in wishes["users"]:
        found.append(
            f'ml_cache_mode is single_user and its owner "{owner}" is not in ml_cache_users: '
            "name that one user in ml_cache_users or ml_cache_owner."
        )
    if wishes["uv_mode"] == "shared" and not wishes["uv_trust_group"]:
        found.append(
            f'ml_cache_uv_mode is shared, so each member of group "{wishes["group"]}" could run code as the others '
            "at the next installation: set ml_cache_uv_trust_group to true to accept that, or leave it per_user."
        )
    return found


def _secret_refusals(wishes: dict[str, Any]) -> list[str]:
    """Names only: a secret's content never gets into a sentence."""
    found = []
    seen = set()
    for secret in wishes["secrets"]:
        key = (secret["user"], secret["name"])
        if secret["user"] not in wishes["users"]:
            found.append(
                f'ml_cache_secrets has user "{secret["user"]}", who is not in ml_cache_users: add the user there.'
            )
        if key in seen:
            found.append(f'ml_cache_secrets has {key[1]} of user "{key[0]}" twice: keep one.')
        seen.add(key)
    return found


def cache_entries(wishes: dict[str, Any], users: dict[str, Any]) -> Entries:
    """Return the entries of the whole cache, parents first."""
    found = _trunk(wishes, users) + _shared(wishes, users)
    for name in wishes["users"]:
        found += _private(wishes, name, users[name])
    for secret in wishes["secrets"]:
        found += _secret(secret, users[secret["user"]])
    return found


def cache_absent_entries(wishes: dict[str, Any], users: dict[str, Any], remove_data: bool) -> Entries:
    """Return the entries that take the cache away: the keys always, what users have stored only on wish."""
    known = {name: user for name, user in users.items() if user is not None}
    found: Entries = [
        {"path": _secret_path(secret, known[secret["user"]]), "state": "absent"}
        for secret in wishes["secrets"]
        if secret["user"] in known
    ]
    if remove_data:
        found += [
            {"path": _checkpoints_link(user), "state": "absent", "target": _checkpoints(wishes)}
            for name, user in known.items()
            if name in wishes["users"] and user["home"] not in _NO_HOME
        ]
        found.append({"path": wishes["root"], "state": "absent", "recurse": True})
        for name, user in known.items():
            if name in wishes["users"] and user["home"] not in _NO_HOME:
                found += _empty_homes(user)
    return found


def _empty_homes(user: dict[str, Any]) -> Entries:
    """What this role made in a home, where nobody has put anything into it."""
    paths = (
        ".cache/torch/hub",
        ".cache/torch",
        ".cache/huggingface",
        ".cache",
        ".kaggle",
        ".config/gpufleet",
        ".config",
    )
    links = user.get("home_links", {})
    return [
        {"path": f"{user['home']}/{path}", "state": "absent", "force": False} for path in paths if path not in links
    ]


def _owner(wishes: dict[str, Any], users: dict[str, Any]) -> dict[str, str]:
    if wishes["mode"] == "single_user":
        owner = cache_owner(wishes)
        return {"owner": owner, "group": users[owner]["group"]}
    return {"owner": "root", "group": wishes["group"]}


def _trunk(wishes: dict[str, Any], users: dict[str, Any]) -> Entries:
    """The directories that hold the others: root's, so that nobody can swap one."""
    mode = "0750" if wishes["mode"] == "shared" and wishes["others"] == "none" else "0755"
    group = _owner(wishes, users)["group"]
    paths = ("", "/cache", "/cache/huggingface", "/cache/torch", "/data", "/users", "/wheels")
    return [
        {"path": wishes["root"] + path, "state": "directory", "owner": "root", "group": group, "mode": mode}
        for path in paths
    ]


def _shared(wishes: dict[str, Any], users: dict[str, Any]) -> Entries:
    paths = ["cache/huggingface/hub", "cache/huggingface/datasets", "cache/huggingface/xet", "cache/torch/checkpoints"]
    paths += [f"data/{project}" for project in wishes["projects"]]
    closed = wishes["others"] == "none"
    found = [_shared_directory(wishes, users, path, closed) for path in paths]
    if wishes["uv_mode"] == "shared":
        found.append(_shared_directory(wishes, users, "cache/uv", True))
    return found


def _shared_directory(wishes: dict[str, Any], users: dict[str, Any], path: str, closed: bool) -> dict[str, Any]:
    entry = {"path": f"{wishes['root']}/{path}", "state": "directory", **_owner(wishes, users)}
    if wishes["mode"] == "single_user":
        # The guide's literal 755; an ACL of an earlier shared mode would contradict it.
        return {**entry, "mode": "0755", "access_acl": "", "default_acl": ""}
    # The ACL beats the members' umask, the setgid bit gives new files the group: each alone is not enough.
    acl = f"u::rwx,g::rwx,g:{wishes['group']}:rwx,m::rwx,o::{'---' if closed else 'r-x'}"
    return {**entry, "mode": "2770" if closed else "2775", "access_acl": acl, "default_acl": acl}


def _private(wishes: dict[str, Any], name: str, user: dict[str, Any]) -> Entries:
    """A user's own: scratch on the fast disk, and the homes of keys and of code that will be run."""
    theirs = {"state": "directory", "owner": name, "group": user["group"]}
    closed = {**theirs, "mode": "0700", "access_acl": "", "default_acl": ""}
    found = [{"path": f"{wishes['root']}/users/{name}{path}", **closed} for path in ("", "/scratch")]
    home = user["home"]
    if home in _NO_HOME:
        return found
    once = {**theirs, "mode": "0700", "force": False}
    link = {"path": _checkpoints_link(user), "state": "link", "target": _checkpoints(wishes)}
    return [
        *found,
        {"path": f"{home}/.cache", **once},
        *_unless_a_link(user, {"path": f"{home}/.cache/huggingface", **theirs, "mode": "0700"}),
        {"path": f"{home}/.cache/torch", **once},
        {"path": f"{home}/.cache/torch/hub", **once},
        {**link, "owner": name, "group": user["group"], "force": _is_link_of_another_root(wishes, user)},
    ]


def _unless_a_link(user: dict[str, Any], entry: dict[str, Any]) -> Entries:
    """A link to a larger disk is its user's own doing, and nothing that root should follow to set rights there."""
    path = entry["path"].removeprefix(user["home"] + "/")
    return [] if path in user.get("home_links", {}) else [entry]


def _is_link_of_another_root(wishes: dict[str, Any], user: dict[str, Any]) -> bool:
    """Whether the user's checkpoints lead to where the cache was before its root was changed; else they are theirs."""
    target = str(user.get("home_links", {}).get(".cache/torch/hub/checkpoints", ""))
    return target.endswith("/" + _CHECKPOINTS) and target != _checkpoints(wishes)


def _checkpoints(wishes: dict[str, Any]) -> str:
    return f"{wishes['root']}/{_CHECKPOINTS}"


def _checkpoints_link(user: dict[str, Any]) -> str:
    return f"{user['home']}/.cache/torch/hub/checkpoints"


def _secret_path(secret: dict[str, Any], user: dict[str, Any]) -> str:
    return f"{user['home']}/{_SECRETS[secret['name']]}"


def _secret(secret: dict[str, Any], user: dict[str, Any]) -> Entries:
    theirs = {"owner": secret["user"], "group": user["group"]}
    path = _secret_path(secret, user)
    parent = path.rpartition("/")[0]
    content = secret["content"] if secret["content"].endswith("\n") else secret["content"] + "\n"
    found: Entries = []
    if secret["name"] == "env":
        above = parent.rpartition("/")[0]
        found.append({"path": above, "state": "directory", **theirs, "mode": "0700", "force": False})
    if secret["name"] != "hf_token":  # whose directory every user has
        closed = {"state": "directory", **theirs, "mode": "0700", "access_acl": "", "default_acl": ""}
        found += _unless_a_link(user, {"path": parent, **closed})
    found.append({"path": path, "state": "file", **theirs, "mode": "0600", "content": content, "secret": True})
    return found
