"""The plan for a dev container: whose workspace, which image, and what this host can give its containers.

Pure functions. Sizes are bytes, CPUs are a number of cores; None means that nothing is limited.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._torch_channels import GROUPS
from ansible_collections.gpufleet.host.plugins.module_utils.engine_plan import COMPOSE_FLOOR, EXTRAS, Case, at_least

GIB = 1024**3
USER_HOME = "/home/vscode"
BASES = {
    # The guide's two spellings are of one image; the dashed tag is no longer renewed (D-12).
    "default": "mcr.microsoft.com/devcontainers/base:3-noble",
    "seed": "mcr.microsoft.com/vscode/devcontainers/base:ubuntu-24.04",
}
# The guide's volumes, in whose place a host with a shared cache has directories.
SEED_VOLUMES = {
    "hf-cache": f"{USER_HOME}/.cache/huggingface",
    "torch-cache": f"{USER_HOME}/.cache/torch",
    "kaggle-cache": f"{USER_HOME}/.kaggle",
    "data": "data",
    "uv-cache": f"{USER_HOME}/.cache/uv",
}
# How a container asks for GPUs, by the toolkit's way.
GPU_OPTIONS: dict[str | None, list[str]] = {
    "cdi": ["--device", "nvidia.com/gpu=all"],
    "runtime": ["--runtime", "nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=all"],
    "legacy": ["--gpus", "all", "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"],
}
# Below it Debian and Ubuntu, the bases, have accounts of their own by the same numbers (man, www-data).
_FIRST_FREE_UID = 100
# Where Docker looks for its Compose; the role preflight asks for these.
COMPOSE_PATHS = tuple(f"/usr/{place}/docker/cli-plugins/docker-compose" for place in ("local/lib", "libexec", "lib"))
# What the guide keeps open beside the work, and the program that shows whether it is there.
TOOLS = {"htop": "/usr/bin/htop", "tmux": "/usr/bin/tmux"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SIZE = re.compile(r"([1-9]\d*)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
# A host with less than this is not limited: there is nothing to share.
_SMALL = 8 * GIB
_STACK = 67108864


def dev_user(wishes: Mapping[str, Any]) -> str:
    """Return whose workspace it is: the one named, else the first of the host's users; "" for nobody."""
    users = wishes["users"]
    first = users[0] if isinstance(users, (list, tuple)) and users else ""
    return str(wishes["dev_user"] or first)


def plan_dev(
    case: Case, engine: Mapping[str, Any], toolkit: Mapping[str, Any], engine_comes: bool, resources: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the plan of ``dev_container``.

    Args:
        case: facts and wishes, and where refusals go.
        engine: the plan of docker_engine.
        toolkit: the plan of container_toolkit.
        engine_comes: whether this run brings an engine where there is none.
        resources: the plan's CPUs.
    """
    wishes = case.wishes
    name = dev_user(wishes)
    workspace = str(wishes["dev_workspace"])
    slug = workspace.rstrip("/").rpartition("/")[2]
    if not name:
        reason = "Nobody is named to whom a workspace could belong (dev_container_user, or the first of gpufleet_users)"
        return {"action": "none", "reason": reason, "user": "", "workspace": workspace}
    _check_place(case, workspace, slug)
    user = _check_user(case, name)
    _check_words(case)
    if not engine["version"] and not engine_comes and wishes["dev_build"]:
        case.refuse(
            "Found no Docker on this host, which builds the image",
            "dev_build",
            "apply gpufleet.host.docker_engine first, or set dev_container_build to false",
        )
    _check_compose(case, engine)
    seed = "seed" in (wishes["profiles"] or [])
    repository = project = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-") or "workspace"
    paths = case.facts["paths"]
    finished = paths.get(f"{workspace}/.venv.unfinished", {}).get("kind", "none") == "none"
    venv_ready = finished and paths.get(f"{workspace}/.venv/bin/python", {}).get("kind") == "file"
    missing = [tool for tool, path in TOOLS.items() if paths.get(path, {}).get("kind", "none") == "none"]
    gpu = toolkit["way"] if toolkit["action"] == "install" else None
    limits = _limits(case, seed, resources)
    project = project if seed else f"{project}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"
    if not venv_ready:
        case.changes.append(f"make {name}'s environment {workspace}/.venv")
    if missing:
        case.changes.append(f"install {', '.join(missing)}")
    return {
        "action": "make",
        "reason": None,
        "user": name,
        **user,
        "workspace": workspace,
        "name": slug,
        "project": project,
        "repository": repository,
        "container_path": f"/workspaces/{slug}",
        "base": wishes["dev_base_image"] or BASES["seed" if seed else "default"],
        "groups": [group for group in GROUPS if group in {*(wishes["groups"] or []), *_names(wishes["dev_groups"])}],
        "seed": seed,
        "gpu": gpu,
        "limits": limits,
        "container": _container(case, project, gpu, limits) if wishes["dev_build"] else None,
        "mounts": [] if seed else _mounts(case, user, slug),
        "volumes": _volumes(seed, slug),
        "capabilities": ["SYS_PTRACE", *(["SYS_ADMIN"] if wishes["dev_allow_sys_admin"] else [])],
        "unconfined": bool(wishes["dev_allow_unconfined"]),
        "packages": missing,
        "uv_prefix": wishes["uv_prefix"],
        "ready": {"venv": venv_ready, "packages": not missing},
    }


def _names(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


def _check_place(case: Case, workspace: str, slug: str) -> None:
    if not workspace.startswith("/") or ".." in workspace.split("/") or workspace.count("/") < 2:
        case.refuse(
            "Found no plain path below a directory", "dev_workspace", "write one like /workspaces/torch_starter"
        )
    elif not _NAME.fullmatch(slug):
        case.refuse(
            f"Found '{slug}', which cannot name a project",
            "dev_workspace",
            'let its last part be of letters, digits, ".", "_" and "-"',
        )
    found = case.facts["paths"].get(workspace, {}).get("kind", "none")
    if found not in ("none", "directory"):
        case.refuse(f"Found a {found} at {workspace}, where a directory belongs", "dev_workspace", "move it away")


def _check_compose(case: Case, engine: Mapping[str, Any]) -> None:
    """Refuse a workspace whose container nothing here can start: neither `dev.sh up` nor VS Code."""
    found, docker = engine["compose"], engine["version"]
    comes = set(EXTRAS["compose"]) & set(engine["packages"])
    # One that no package brought; its version is not asked.
    by_hand = any(case.facts["paths"].get(path, {}).get("kind") == "file" for path in COMPOSE_PATHS)
    if not docker or comes or at_least(found, COMPOSE_FLOOR) or (not found and by_hand):
        return
    case.refuse(
        f"Found Docker {docker} with {f'Compose {found}' if found else 'no Compose'}, and without {COMPOSE_FLOOR} "
        "or newer nothing starts a dev container",
        "dev_container_state",
        "take this Docker away and run again (docker_engine_source=docker brings one with it), "
        "or set dev_container_state to absent",
    )


def _check_user(case: Case, name: str) -> dict[str, Any]:
    user = case.facts["users"].get(name)
    if user is None:
        case.refuse(
            f"Found no user '{name}' on the host", "dev_user", f"create it first (useradd --create-home {name})"
        )
        return {"uid": 0, "gid": 0, "group": "", "home": ""}
    if user.get("uid") == 0:
        case.refuse("Found root, to whom no workspace should belong", "dev_user", "name a person's account")
    elif (user.get("uid") or _FIRST_FREE_UID) < _FIRST_FREE_UID:
        case.refuse(
            f"Found the number {user['uid']}, by which the image's base has an account of its system's",
            "dev_user",
            "name a person's account",
        )
    return {key: user.get(key) for key in ("uid", "gid", "group", "home")}


def _check_words(case: Case) -> None:
    for wish in ("dev_memory", "dev_shm_size"):
        value = str(case.wishes[wish])
        if value not in ("auto", "none") and size_of(value) is None:
            case.refuse("Found no size", wish, "write it like 12gb, or auto, or none")
    cpus, number = str(case.wishes["dev_cpus"]), _number(case.wishes["dev_cpus"])
    if cpus not in ("auto", "none") and number is None:
        case.refuse("Found no number of CPUs", "dev_cpus", "write it like 8.0, or auto, or none")
    elif number is not None and not 0.01 <= number <= (case.facts["cpu"]["vcpus"] or 1):
        case.refuse(
            f"Found {case.facts['cpu']['vcpus']} CPUs, and Docker starts no container that asks for more",
            "dev_cpus",
            "ask for fewer, or set it to auto",
        )


def _number(text: Any) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", str(text)) else None


def size_of(text: str) -> int | None:
    """Return bytes of a size as Docker and the guide write it (``12gb``, ``512m``); None where it is none."""
    found = _SIZE.fullmatch(text.strip())
    return int(found.group(1)) * _UNITS[found.group(2).lower()] if found else None


def _limits(case: Case, seed: bool, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a container may take: the guide's numbers in the profile seed, else what this host can give."""
    memory = case.facts["memory_bytes"] or 0
    wishes = case.wishes
    limit: int | None = None if memory < _SMALL else memory * 85 // 100
    if seed:
        limit = 12 * GIB
    if wishes["dev_memory"] != "auto":
        limit = size_of(str(wishes["dev_memory"]))
    shm: int | None = 4 * GIB if seed else max(4 * GIB, memory // 4)
    if wishes["dev_shm_size"] != "auto":
        shm = size_of(str(wishes["dev_shm_size"]))
    elif limit and shm and not seed:
        shm = max(min(shm, limit // 2), min(4 * GIB, limit))  # it counts within the limit
    cpus: float | None = min(8.0, float(resources["vcpus"])) if seed else None
    if wishes["dev_cpus"] != "auto":
        cpus = _number(wishes["dev_cpus"])
    ulimits: dict[str, Any] = {
        "memlock": -1,
        "nofile": 65536,
        # The guide's number for both would also lower the hard limit, for good (D-11).
        "stack": _STACK if seed else {"soft": _STACK, "hard": -1},
    }
    if case.facts["system"]["container"]:
        ulimits = {}  # nobody in a container may raise a limit
    return {"memory_bytes": limit, "shm_bytes": shm, "cpus": cpus, "ulimits": ulimits}


def _mounts(case: Case, user: Mapping[str, Any], slug: str) -> list[dict[str, str]]:
    """Return the host's directories in a container: shared data for all members, keys of this user alone."""
    root, cache = case.wishes["cache_root"], f"{USER_HOME}/.cache"
    shared = [
        ("cache/huggingface/hub", f"{cache}/huggingface/hub"),
        ("cache/huggingface/datasets", f"{cache}/huggingface/datasets"),
        ("cache/huggingface/xet", f"{cache}/huggingface/xet"),
        ("cache/torch/checkpoints", f"{cache}/torch/hub/checkpoints"),
    ]
    found = []
    if case.wishes["ml_cache_state"] == "present":
        found += [{"source": f"{root}/{path}", "target": target} for path, target in shared]
        if slug in case.wishes["cache_projects"]:
            # At its own path, where the workspace's link to it leads on the host too.
            found.append({"source": f"{root}/data/{slug}", "target": f"{root}/data/{slug}"})
    found.append({"source": f"{user['home']}/.kaggle", "target": f"{USER_HOME}/.kaggle"})
    found.append({"source": f"{user['home']}/.config/huggingface", "target": f"{USER_HOME}/.config/huggingface"})
    return found


def _container(case: Case, project: str, gpu: str | None, limits: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the image that was built last and is still there, and how root starts a container of it to measure.

    By `docker run` and not by the compose file: that one is the user's, and what root starts must not be.
    """
    containers = case.facts["containers"]
    image = (containers["built"].get(project) or {}).get("image")
    if not any(image in found["tags"] for found in containers["images"] or []):
        return None
    options = ["--rm", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    for option, limit in (("--memory", limits["memory_bytes"]), ("--shm-size", limits["shm_bytes"])):
        options += [option, str(limit)] if limit else []
    return {"image": image, "options": [*options, *GPU_OPTIONS.get(gpu, [])]}


def _volumes(seed: bool, slug: str) -> dict[str, str]:
    """Return the named volumes: the guide's five, or uv's cache alone, which must be one user's own."""
    if not seed:
        return {"uv-cache": SEED_VOLUMES["uv-cache"]}
    return {
        name: f"/workspaces/{slug}/{target}" if target == "data" else target for name, target in SEED_VOLUMES.items()
    }
