"""The host plan: a pure function from facts and wishes to what will be done, or to why it cannot be.

Every refusal is one sentence that says what was found, what was wished (with the variable's name) and what to do.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils import dev_plan, engine_plan
from ansible_collections.gpufleet.host.plugins.module_utils._driver_branches import branch_number
from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case
from ansible_collections.gpufleet.host.plugins.module_utils._fact_shapes import sound_facts
from ansible_collections.gpufleet.host.plugins.module_utils._plan_words import describe
from ansible_collections.gpufleet.host.plugins.module_utils._platforms import (
    ARCHITECTURES,
    support_of,
    supported_names,
)
from ansible_collections.gpufleet.host.plugins.module_utils._torch_channels import (
    CHANNEL_NAMES,
    CHANNELS,
    CPU_CHANNEL,
    GB,
    GROUPS,
    PYTHON_BYTES,
    UV_BYTES,
    Channel,
)
from ansible_collections.gpufleet.host.plugins.module_utils._wish_shapes import (
    SECRET_WISHES,
    fault,
    one_line,
    shown,
    sound,
)
from ansible_collections.gpufleet.host.plugins.module_utils.cache_layout import cache_refusals
from ansible_collections.gpufleet.host.plugins.module_utils.driver_plan import plan_driver
from ansible_collections.gpufleet.host.plugins.module_utils.env_catalog import PROFILES
from ansible_collections.gpufleet.host.plugins.module_utils.env_resolve import PASSWORD, problems, without_password
from ansible_collections.gpufleet.host.plugins.module_utils.proxy import NAMES, proxy_environment

Facts = dict[str, Any]
Wishes = dict[str, Any]
Plan = dict[str, Any]

_PYTHON = "3.12"

# wish -> (the user's variable, default)
WISHES: dict[str, tuple[str, Any]] = {
    "nvidia_driver_state": ("nvidia_driver_state", "present"),
    "uv_python_state": ("uv_python_state", "present"),
    "env_profile_state": ("env_profile_state", "present"),
    "ml_cache_state": ("ml_cache_state", "present"),
    "driver_branch": ("nvidia_driver_branch", "auto"),
    "driver_version": ("nvidia_driver_version", ""),
    "driver_flavour": ("nvidia_driver_flavour", "auto"),
    "driver_source": ("nvidia_driver_source", "auto"),
    "driver_set": ("nvidia_driver_set", "auto"),
    "driver_fabric_manager": ("nvidia_driver_fabric_manager", "auto"),
    "driver_adopt": ("nvidia_driver_adopt", True),
    "driver_force": ("nvidia_driver_force", False),
    "driver_in_container": ("nvidia_driver_in_container", False),
    "driver_repository_url": ("nvidia_driver_repository_url", ""),
    "driver_repository_key_url": ("nvidia_driver_repository_key_url", ""),
    "driver_repository_fingerprints": ("nvidia_driver_repository_fingerprints", []),
    "driver_module_options": ("nvidia_driver_module_options", {}),
    "driver_mig": ("nvidia_driver_mig", []),
    "driver_persistence": ("nvidia_driver_persistence", True),
    "driver_reboot": ("nvidia_driver_reboot", "never"),
    "channel": ("uv_python_torch_channel", "auto"),
    "groups": ("uv_python_groups", []),
    "python_version": ("uv_python_version", _PYTHON),
    "uv_prefix": ("uv_python_prefix", "/opt/uv"),
    "venv_path": ("uv_python_venv_path", "/opt/uv/venv"),
    "uv_cache_path": ("uv_python_cache_path", "/opt/uv/cache"),
    "link_mode": ("uv_python_link_mode", "clone"),
    "uv_path": ("uv_python_uv_path", "/usr/local/bin/uv"),
    "uv_version": ("uv_python_uv_version", "0.13.0"),
    "uv_file": ("uv_python_uv_file", ""),
    "uv_file_checksum": ("uv_python_uv_file_checksum", ""),
    "locks_path": ("uv_python_locks_path", ""),
    "index_url": ("uv_python_index_url", ""),
    "cpu_index_url": ("uv_python_cpu_index_url", ""),
    "install_mirror": ("uv_python_install_mirror", ""),
    "downloads_json_url": ("uv_python_downloads_json_url", ""),
    "profiles": ("env_profile_profiles", ["training"]),
    "overrides": ("env_profile_overrides", {}),
    "cache_root": ("ml_cache_root", "/srv/ml"),
    "users": ("gpufleet_users", []),
    "group": ("gpufleet_group", "ml"),
    "cache_mode": ("ml_cache_mode", "shared"),
    "cache_owner": ("ml_cache_owner", ""),
    "cache_projects": ("ml_cache_projects", ["torch_starter"]),
    "cache_secrets": ("ml_cache_secrets", []),
    "cache_uv_mode": ("ml_cache_uv_mode", "per_user"),
    "cache_uv_trust_group": ("ml_cache_uv_trust_group", False),
    "docker_engine_state": ("docker_engine_state", "present"),
    "container_toolkit_state": ("container_toolkit_state", "present"),
    "containers": ("gpufleet_containers", False),
    "engine_source": ("docker_engine_source", "auto"),
    "engine_settings": ("docker_engine_settings", {}),
    "engine_defaults": ("docker_engine_defaults", True),
    "engine_data_root": ("docker_engine_data_root", ""),
    "engine_registry_mirrors": ("docker_engine_registry_mirrors", []),
    "engine_rootless_users": ("docker_engine_rootless_users", []),
    "engine_force": ("docker_engine_force", False),
    "engine_repository_url": ("docker_engine_repository_url", ""),
    "engine_repository_key_url": ("docker_engine_repository_key_url", ""),
    "engine_repository_fingerprints": ("docker_engine_repository_fingerprints", []),
    "toolkit_version": ("container_toolkit_version", "1.20.1-1"),
    "toolkit_mode": ("container_toolkit_mode", "auto"),
    "toolkit_engines": ("container_toolkit_engines", []),
    "toolkit_without_gpu": ("container_toolkit_without_gpu", False),
    "toolkit_repository_url": ("container_toolkit_repository_url", ""),
    "toolkit_repository_key_url": ("container_toolkit_repository_key_url", ""),
    "toolkit_repository_fingerprints": ("container_toolkit_repository_fingerprints", []),
    "dev_container_state": ("dev_container_state", "present"),
    "dev_user": ("dev_container_user", ""),
    "dev_workspace": ("dev_container_workspace", "/workspaces/torch_starter"),
    "dev_base_image": ("dev_container_base_image", ""),
    "dev_groups": ("dev_container_groups", ["dev"]),
    "dev_build": ("dev_container_build", True),
    "dev_memory": ("dev_container_memory", "auto"),
    "dev_cpus": ("dev_container_cpus", "auto"),
    "dev_shm_size": ("dev_container_shm_size", "auto"),
    "dev_allow_unconfined": ("dev_container_allow_unconfined", False),
    "dev_allow_sys_admin": ("dev_container_allow_sys_admin", False),
    "allow_insecure_endpoints": ("gpufleet_allow_insecure_endpoints", False),
    "allow_unknown_platform": ("gpufleet_allow_unknown_platform", False),
    "offline": ("gpufleet_offline", False),
    "proxy": ("gpufleet_proxy", {}),
}
# The variable that a remedy names where several roles follow one; moving a single role would leave the others behind.
_FOLLOWED = {"venv_path": "gpufleet_venv_path", "cache_root": "gpufleet_cache_root"}
# The roles that a refusal can be about, beside all of them.
_ROLES = (
    "nvidia_driver",
    "docker_engine",
    "container_toolkit",
    "uv_python",
    "env_profile",
    "ml_cache",
    "dev_container",
)
# Roles of those who wish for containers (gpufleet_containers).
_CONTAINER_ROLES = ("docker_engine", "container_toolkit", "dev_container")
# Wishes that only this role reads although their name is the collection's. Others belong to the role they begin with.
_ML_CACHE = ("users", "group")
# The key of ``refusals_of`` for what stops every role.
HOST = "host"
# Where the distribution's packages go.
_PACKAGES = "/usr"
_DIRECTORIES = ("uv_prefix", "venv_path", "uv_cache_path", "cache_root")
_ENDPOINTS = ("index_url", "cpu_index_url", "install_mirror", "downloads_json_url")
_KNOWN: dict[str, tuple[str, ...]] = {"groups": tuple(GROUPS), "profiles": tuple(PROFILES)}


class _Draft:
    """A plan in the making: its facts, its complete wishes, and the sentences found so far."""

    def __init__(self, facts: Facts, wishes: Wishes) -> None:
        self.facts = facts
        self.wishes = {name: wishes.get(name, default) for name, (_variable, default) in WISHES.items()}
        self.refusals_of: dict[str, list[str]] = {role: [] for role in (HOST, *_ROLES)}
        self.warnings: list[str] = []
        self.driver: Plan = {}
        self.engine: Plan = {}
        self.toolkit: Plan = {}
        self.dev: Plan = {}
        self.container_changes: list[str] = []

    def wished(self, name: str) -> str:
        """Return a wish as the user would write it, but for a password in an address and for keys."""
        if name in SECRET_WISHES:
            return f"{WISHES[name][0]} (not shown)"
        return f"{WISHES[name][0]}={shown(without_password(str(self.wishes[name])))}"

    @property
    def refusals(self) -> list[str]:
        """Every sentence once, also where it stops two roles."""
        spoken = [some for role, some in self.refusals_of.items() if role not in self.unwished_roles]
        return list(dict.fromkeys(sentence for some in spoken for sentence in some))

    @property
    def unwished_roles(self) -> list[str]:
        """The roles that a run of all roles leaves out, as nobody wishes for containers; alone they work."""
        return [] if self.wishes["containers"] else list(_CONTAINER_ROLES)

    def refuse(self, found: str, wish: str, remedy: str) -> None:
        """Refuse for the role that the wish belongs to."""
        self.refuse_for(_role_of(wish), f"{found}; wished is {self.wished(wish)}; {remedy}.")

    def refuse_for(self, role: str, *sentences: str) -> None:
        """Refuse in words of their own; a role that is to be absent is never refused."""
        if role == HOST or not self.absent(role):
            self.refusals_of[role] += map(one_line, sentences)

    def absent(self, role: str) -> bool:
        """Whether the user wishes the role away."""
        return bool(self.wishes[f"{role}_state"] == "absent")

    @property
    def gpus(self) -> list[Facts]:
        """The GPUs that are this host's own; one bound to vfio-pci belongs to a virtual machine."""
        return [gpu for gpu in self.facts["gpus"] if gpu["kernel_driver"] != "vfio-pci"]


def _role_of(wish: str) -> str:
    role = "ml_cache" if wish in _ML_CACHE else WISHES[wish][0]
    return next((name for name in _ROLES if role.startswith(name)), HOST)


def _movable(wish: str) -> str:
    return _FOLLOWED.get(wish, WISHES[wish][0])


def make_plan(facts: Facts, wishes: Wishes) -> Plan:
    """Return the plan for one host.

    Args:
        facts: what ``gpu_facts`` returned.
        wishes: any of the names in ``WISHES``; a missing one has its default.

    Raises:
        KeyError: a wish is unknown.
    """
    unknown = sorted(set(wishes) - set(WISHES))
    if unknown:
        raise KeyError(f"unknown wishes: {', '.join(unknown)}")
    facts, wrong = sound_facts(facts)
    draft = _Draft(facts, wishes)
    _check_facts(draft, wrong)
    _check_shapes(draft)
    _check_platform(draft)
    _check_names(draft)
    _check_endpoints(draft)
    _check_proxy(draft)
    _check_answers(draft)
    _check_uv_file(draft)
    _check_accounts(draft)
    _check_paths(draft)
    _check_cache(draft)
    _plan_driver(draft)
    resources = _resources(draft)
    _plan_containers(draft, resources)
    _plan_offline(draft)
    channel, reason = _choose_channel(draft)
    torch = _torch(draft, channel, reason)
    ready = _ready(draft, torch)
    needs = [*_driver_needs(draft), *([] if draft.absent("uv_python") else _needs(draft, torch, ready))]
    needs += _workspace_needs(draft, torch)
    disk = _disk(draft, needs, ready)
    _warn(draft)
    _check_environment(draft, resources)
    plan = {
        "refusals": draft.refusals,
        "refusals_of": draft.refusals_of,
        "unwished_roles": draft.unwished_roles,
        "warnings": draft.warnings,
        "skipped": _skipped(draft),
        "gpu": _gpu(draft),
        "driver": draft.driver,
        "engine": draft.engine,
        "toolkit": draft.toolkit,
        "dev_container": draft.dev,
        "torch": torch,
        "resources": resources,
        "ready": ready,
        "reboot_pending": _reboot_pending(draft),
        "allow_insecure_endpoints": bool(draft.wishes["allow_insecure_endpoints"]),
        "profiles": draft.wishes["profiles"],
        "overrides": draft.wishes["overrides"],
        "disk": disk,
        "downloads": [{"what": need["what"], "bytes": need["download"]} for need in needs if need["download"]],
        "changes": [
            *draft.driver["changes"],
            *draft.container_changes,
            *(need["change"] for need in needs if need["change"]),
        ],
    }
    return {**plan, "summary": describe(facts, plan)}


# --- wishes ----------------------------------------------------------------------------------------------------------


def _check_facts(draft: _Draft, wrong: list[str]) -> None:
    """Refuse to plan by facts that are not whole: what is unknown here may be a GPU in use."""
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        draft.refuse_for(
            HOST,
            f"Found facts of this host that cannot be true ({', '.join(wrong[:3])}{more}), by which nothing can be "
            "planned; run this again, and if it stays so report this line with the output of `./run plan -vvv`.",
        )


def _check_shapes(draft: _Draft) -> None:
    """Refuse wishes of a wrong type, and go on with their defaults, so that all else is said in the same run."""
    for wish, (_variable, default) in WISHES.items():
        wrong = fault(wish, draft.wishes[wish])
        if wrong:
            draft.refuse(wrong[0], wish, wrong[1])
        draft.wishes[wish] = copy.deepcopy(default) if wrong else sound(wish, draft.wishes[wish])


def _check_platform(draft: _Draft) -> None:
    system = draft.facts["system"]
    name = system["pretty_name"] or system["distribution"] or "an unknown system"
    support = support_of(system["distribution"], system["version_id"])
    proven = ARCHITECTURES.get(system["architecture"])
    if proven is None:
        draft.refuse(
            f"Found a {system['architecture']} machine, for which there are no torch wheels",
            "channel",
            f"take this host out of the inventory (known are {' and '.join(ARCHITECTURES)})",
        )
    if support is None and not draft.wishes["allow_unknown_platform"]:
        draft.refuse(
            f"Found {name}, which this collection does not know",
            "allow_unknown_platform",
            f"use one of {supported_names()}, or set gpufleet_allow_unknown_platform to true at your own risk",
        )
    elif support is None:
        draft.warnings.append(f"{name} is not known to this collection; it goes on as you allowed.")
    elif support == "preview" or proven == "preview":
        draft.warnings.append(f"{name} on {system['architecture']} is a preview: nobody has run it for real yet.")


def _check_names(draft: _Draft) -> None:
    if draft.wishes["channel"] not in CHANNEL_NAMES:
        draft.refuse("Found no such torch channel", "channel", f"set it to one of {', '.join(CHANNEL_NAMES)}")
    for wish, known in _KNOWN.items():
        for name in _listed(draft, wish):
            if name not in known:
                draft.refuse(f"Found no {wish[:-1]} named '{name}'", wish, f"choose from {', '.join(known)}")
    version = draft.wishes["python_version"]
    if not re.fullmatch(rf"{re.escape(_PYTHON)}(\.\d+)?", str(version)):
        draft.refuse(
            f"Found locks for Python {_PYTHON} only", "python_version", f'set it to "{_PYTHON}" or leave it out'
        )


def _listed(draft: _Draft, wish: str) -> list[str]:
    """Return a list of names; text where a list belongs is the usual slip in YAML, and gets its own sentence."""
    value = draft.wishes[wish]
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    draft.refuse("Found something that is no list of names", wish, "write a list, like [name, name]")
    draft.wishes[wish] = []
    return []


def _check_uv_file(draft: _Draft) -> None:
    if draft.wishes["uv_file"] and not re.fullmatch(r"[0-9a-f]{64}", str(draft.wishes["uv_file_checksum"])):
        draft.refuse(
            "Found no SHA-256 of the uv to push",
            "uv_file",
            "set uv_python_uv_file_checksum to the 64 hexadecimal digits of `sha256sum`, or leave the file out",
        )


def _check_endpoints(draft: _Draft) -> None:
    for wish in _ENDPOINTS:
        address = str(draft.wishes[wish] or "")
        if without_password(address) != address:
            draft.refuse(
                "Found a name or password inside an address, which would stand in the world-readable /etc/uv/uv.toml",
                wish,
                "take it out and put it into the netrc file of who uses it (root's for this run), which uv reads",
            )
        if not address or address.startswith(("https://", "file://", "/")):
            continue
        if draft.wishes["allow_insecure_endpoints"] and address.startswith("http://"):
            draft.warnings.append(f"{draft.wished(wish)} is read without TLS, as you allowed.")
            continue
        draft.refuse(
            "Found an address that is not safe to download from",
            wish,
            "use https:// or file://, or set gpufleet_allow_insecure_endpoints to true for a mirror you trust",
        )


def _check_proxy(draft: _Draft) -> None:
    """Put the site's proxy into what shells, units and containers get; an override counts more."""
    proxy, overrides = draft.wishes["proxy"], draft.wishes["overrides"]
    strange = [name for name, value in proxy.items() if name not in NAMES or not isinstance(value, str)]
    if strange:
        draft.refuse("Found no such proxy", "proxy", f"write addresses for {', '.join(NAMES)}")
    elif any(PASSWORD.search(value) for value in proxy.values()):
        draft.refuse(
            "Found a name or password inside an address, which every user of the host could read",
            "proxy",
            "have the proxy know the host by its address, and give a password to Docker alone (docker_engine_proxy)",
        )
    if isinstance(overrides, dict) and not strange:
        draft.wishes["overrides"] = {**proxy_environment(proxy), **overrides}


def _check_environment(draft: _Draft, resources: Facts) -> None:
    """Refuse now what ``env_profile`` would refuse after the downloads; it says its own sentences."""
    profiles, overrides = draft.wishes["profiles"], draft.wishes["overrides"]
    if not isinstance(overrides, dict):
        draft.refuse("Found something that is no mapping", "overrides", "write NAME: value, a line each")
    elif set(profiles) <= set(PROFILES):
        options = {"allow_insecure_endpoints": bool(draft.wishes["allow_insecure_endpoints"])}
        sentences = problems({"resources": resources}, profiles, overrides, options)
        for role in ("env_profile", "uv_python"):  # both write values of the catalogue
            draft.refuse_for(role, *sentences)


def _check_answers(draft: _Draft) -> None:
    """Refuse an address that does not answer this host; one that asks for a password does answer."""
    for wish, answer in (draft.facts.get("addresses") or {}).items():
        if wish not in _ENDPOINTS:
            continue
        status, variable = answer["status"], WISHES[wish][0]
        if status is not None and (status < 400 or status in (401, 403)):
            continue
        authority = "" if status else " or gpufleet_ca_certificates to its authority's PEM file"
        draft.refuse(
            f"Found no answer to use at {without_password(str(draft.wishes[wish]))}: {status or answer['error']}",
            wish,
            f"set {variable} to an address that has it{authority}",
        )


def _check_accounts(draft: _Draft) -> None:
    for name in _listed(draft, "users"):
        if draft.facts["users"].get(name) is None:
            draft.refuse(
                f"Found no user '{name}' on the host",
                "users",
                f"create it first (useradd --create-home {name}) or take it out of the list",
            )


def _check_paths(draft: _Draft) -> None:
    for wish in (*_DIRECTORIES, "uv_path"):
        path = draft.wishes[wish]
        if not isinstance(path, str) or not path.startswith("/"):
            draft.refuse("Found a path that is not absolute", wish, "write it from the root, like /srv/ml")
            continue
        found = draft.facts["paths"].get(path)
        if found is not None:
            _check_path(draft, wish, path, found)


def _check_path(draft: _Draft, wish: str, path: str, found: Facts) -> None:
    allowed = ("none", "file") if wish == "uv_path" else ("none", "directory")
    variable = _movable(wish)
    move = f"move it away or set {variable} to another path"
    if found["kind"] not in allowed:
        draft.refuse(f"Found a {_kind_in_words(found['kind'])} at {path}, where a {allowed[1]} belongs", wish, move)
    elif found.get("ancestor_kind", "directory") != "directory" and found["kind"] == "none":
        what = _kind_in_words(found["ancestor_kind"])
        draft.refuse(f"Found a {what} at {found['ancestor']}, in the way of {path}", wish, move)
    elif found.get("read_only"):
        draft.refuse(
            f"Found {path} on {found['mount']}, which is mounted read-only",
            wish,
            f"mount it writable or set {variable} to another path",
        )
    elif found.get("noexec") and wish in ("uv_prefix", "venv_path", "uv_path"):
        draft.refuse(
            f"Found {path} on {found['mount']}, which is mounted noexec, so nothing there can run",
            wish,
            f"mount it with exec or set {variable} to another path",
        )
    if wish == "cache_root" and draft.wishes["users"] and found["acl"] is False:
        draft.refuse(
            f"Found no POSIX ACLs on {found['mount']} ({found['filesystem']}), "
            "without which users cannot share a cache",
            wish,
            f"set {variable} to a path on ext4, XFS or btrfs, or leave gpufleet_users empty",
        )


def _check_cache(draft: _Draft) -> None:
    """Refuse now what ``ml_cache`` would refuse after the downloads; it says its own sentences."""
    names = ("mode", "owner", "projects", "secrets", "uv_mode", "uv_trust_group")
    wishes = {name: draft.wishes[f"cache_{name}"] for name in names}
    root = draft.wishes["cache_root"]
    wishes |= {"root": root, "users": draft.wishes["users"], "group": draft.wishes["group"]}
    place = draft.facts["paths"].get(root) if isinstance(root, str) else None
    draft.refuse_for("ml_cache", *cache_refusals(wishes, draft.facts["users"], place))


def _kind_in_words(kind: str) -> str:
    return {"other": "special file or a broken link"}.get(kind, kind)


# --- driver ----------------------------------------------------------------------------------------------------------


def _plan_driver(draft: _Draft) -> None:
    """Plan the driver, by which the torch channel is chosen then."""
    case = Case(draft.facts, draft.wishes, draft.refuse)
    case.refused = len(draft.refusals_of["nvidia_driver"])  # a wish of a wrong type, for which a default stands in
    draft.driver = plan_driver(case)
    if not draft.absent("nvidia_driver"):
        draft.warnings += case.warnings


def _plan_containers(draft: _Draft, resources: Facts) -> None:
    """Plan what containers need; warnings and changes are told only where somebody wishes for containers."""
    variables = {name: variable for name, (variable, _default) in WISHES.items()}
    cases = {role: engine_plan.Case(draft.facts, draft.wishes, variables) for role in _CONTAINER_ROLES}
    draft.engine = engine_plan.plan_engine(cases["docker_engine"])
    comes = bool(draft.wishes["containers"]) and not draft.absent("docker_engine")
    draft.toolkit = engine_plan.plan_toolkit(cases["container_toolkit"], draft.engine, len(draft.gpus), comes)
    draft.dev = dev_plan.plan_dev(cases["dev_container"], draft.engine, draft.toolkit, comes, resources)
    for role, case in cases.items():
        draft.refuse_for(role, *case.refusals)
        if draft.wishes["containers"] and not draft.absent(role):
            draft.warnings += case.warnings
            draft.container_changes += case.changes


def _plan_offline(draft: _Draft) -> None:
    """Leave every repository out: all packages come from the bundle, which is no source of the host's."""
    if not draft.wishes["offline"]:
        return
    if draft.facts["system"]["os_family"] != "Debian":
        draft.refuse(
            f"Found {draft.facts['system']['pretty_name'] or 'an unknown system'}, which no offline bundle is for",
            "offline",
            "leave gpufleet_offline out and set the roles' variables of addresses to mirrors of yours",
        )
    for part in (draft.driver, draft.engine, draft.toolkit):
        if part.get("repository"):
            part["repository"] = None


def _driver_needs(draft: _Draft) -> list[dict[str, Any]]:
    """Return the driver's download and what it takes below /usr; its changes are told by itself."""
    size = draft.driver["downloads"]
    if not size["bytes"]:
        return []
    what = f"NVIDIA driver {draft.driver['version'] or draft.driver['branch']} (an estimate)"
    return [_need(what, size["bytes"], {"driver_set": size["unpacked_bytes"]}, "")]


# --- torch -----------------------------------------------------------------------------------------------------------


def _capability(gpu: Facts) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)", gpu["compute_capability"] or "")
    return (int(found.group(1)), int(found.group(2))) if found else None


def _driver_branch(draft: _Draft) -> int | None:
    """Return the branch of the driver that will be there: the planned one, else the loaded one."""
    if draft.driver["action"] == "install":
        return int(draft.driver["branch"])
    loaded: int | None = branch_number(draft.facts["driver"]["loaded"])
    return loaded


def _named(gpu: Facts) -> str:
    what = gpu["name"] or f"{gpu['architecture'] or 'unknown'} GPU {gpu['device_id']}"
    return f"{what} at {gpu['pci_address']} (compute capability {gpu['compute_capability'] or 'unknown'})"


def _fits_gpu(channel: Channel, gpu: Facts) -> bool:
    capability = _capability(gpu)
    if capability is None:
        return True
    highest = channel.max_capability
    return channel.min_capability <= capability and (highest is None or capability <= highest)


def _driver_floor(channel: Channel, gpus: list[Facts]) -> int:
    blackwell = any((_capability(gpu) or (0, 0)) >= (10, 0) for gpu in gpus)
    return int(channel.min_driver_blackwell if blackwell else channel.min_driver)


def _misfits(channel: Channel, draft: _Draft) -> list[Facts]:
    """Return the GPUs that this channel's wheels cannot compute on."""
    if draft.facts["system"]["architecture"] not in channel.gpu_architectures:
        return draft.gpus
    return [gpu for gpu in draft.gpus if not _fits_gpu(channel, gpu)]


def _choose_channel(draft: _Draft) -> tuple[Channel, str]:
    """Return the channel and why; where none can be, the newest one, beside a refusal."""
    asked = draft.wishes["channel"]
    if asked == CPU_CHANNEL.name:
        _check_cpu_channel(draft)
        return CPU_CHANNEL, "asked for by uv_python_torch_channel"
    explicit = next((channel for channel in CHANNELS if channel.name == asked), None)
    if explicit is not None:
        _check_channel(draft, explicit)
        return explicit, "asked for by uv_python_torch_channel"
    return _choose_automatically(draft)


def _check_cpu_channel(draft: _Draft) -> None:
    draft.warnings.append("uv_python_torch_channel=cpu is a preview: nobody has run it for real yet.")
    if not (draft.wishes["locks_path"] and draft.wishes["cpu_index_url"]):
        draft.refuse(
            "Found no locks or no index for torch's CPU wheels, of which this collection has neither",
            "channel",
            "set uv_python_locks_path to a directory with a cpu/core.txt of your own and uv_python_cpu_index_url to an "
            "index that has those wheels, or the channel to auto, whose wheels compute on a CPU too",
        )
    if draft.gpus:
        draft.warnings.append(f"uv_python_torch_channel=cpu leaves {len(draft.gpus)} GPU(s) unused.")


def _check_channel(draft: _Draft, channel: Channel) -> None:
    architecture = draft.facts["system"]["architecture"]
    if architecture not in channel.gpu_architectures and not draft.gpus:
        draft.warnings.append(f"On {architecture} the wheels of {draft.wished('channel')} compute on the CPU only.")
        return
    misfits = _misfits(channel, draft)
    branch, floor = _driver_branch(draft), _driver_floor(channel, draft.gpus)
    if misfits and architecture not in channel.gpu_architectures:
        draft.refuse(
            f"Found {_all_named(misfits)}, and no GPU wheels of {channel.name} for {architecture}",
            "channel",
            "set uv_python_torch_channel to cu13 or auto",
        )
    elif misfits:
        draft.refuse(
            f"Found {_all_named(misfits)}, for which torch {channel.torch} of {channel.name} has no kernels",
            "channel",
            "set uv_python_torch_channel to auto, or take the GPU out or bind it to vfio-pci",
        )
    elif draft.gpus and branch is not None and branch < floor:
        _refuse_driver(draft, floor, f"for {channel.name}")


def _refuse_driver(draft: _Draft, floor: int, purpose: str) -> None:
    loaded, planned = draft.facts["driver"]["loaded"], draft.driver["action"] == "install"
    found = f"driver {draft.driver['branch']} planned" if planned else f"driver {loaded} loaded"
    remedy = "set nvidia_driver_branch and nvidia_driver_source to auto"
    if draft.driver["action"] == "keep":
        remedy = "set nvidia_driver_adopt to false, so that it is replaced"
    elif not planned:
        remedy = "install a newer one where this driver comes from"
    draft.refuse(
        f"Found the NVIDIA {found}, which is too old {purpose} "
        f"on {_all_named(draft.gpus)}, where {floor} is the oldest that works",
        "channel",
        f"{remedy} (driver 580 serves every GPU since Maxwell)",
    )


def _choose_automatically(draft: _Draft) -> tuple[Channel, str]:
    newest = CHANNELS[0]
    gpus, branch = draft.gpus, _driver_branch(draft)
    if not gpus:
        return newest, "no GPU: the wheels of the newest channel compute on the CPU too"
    fitting = [channel for channel in CHANNELS if not _misfits(channel, draft)]
    for channel in fitting:
        if branch is None or branch >= _driver_floor(channel, gpus):
            return channel, _why(draft, channel)
    if fitting:
        floor = min(_driver_floor(channel, gpus) for channel in fitting)
        _refuse_driver(draft, floor, "for any torch channel")
    else:
        draft.refuse(
            f"Found {_all_named(gpus)}, which no single torch channel on "
            f"{draft.facts['system']['architecture']} can serve",
            "channel",
            "take one kind out, bind it to vfio-pci, or set uv_python_torch_channel to cpu",
        )
    return newest, "none fits"


def _why(draft: _Draft, channel: Channel) -> str:
    lowest = _lowest(draft)
    loaded = draft.facts["driver"]["loaded"]
    driver = f"driver {loaded}" if loaded else "no driver loaded"
    if draft.driver["action"] == "install":
        driver = f"driver {draft.driver['version'] or draft.driver['branch']}"
    capability = f"smallest compute capability {lowest}" if lowest else "compute capability unknown"
    return f"{capability}, {driver}: {channel.name} is the newest to fit"


def _all_named(gpus: list[Facts]) -> str:
    """Return the GPUs in words; eight alike are one item with a count."""
    kinds: dict[tuple[Any, Any], list[Facts]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu["device_id"], gpu["name"]), []).append(gpu)
    return " and ".join(
        _named(alike[0]) if len(alike) == 1 else f"{len(alike)} times {_named(alike[0])}" for alike in kinds.values()
    )


def _lowest(draft: _Draft) -> str | None:
    known = [capability for capability in map(_capability, draft.gpus) if capability is not None]
    return ".".join(str(part) for part in min(known)) if known else None


def _torch(draft: _Draft, channel: Channel, reason: str) -> dict[str, Any]:
    architecture = draft.facts["system"]["architecture"]
    groups = [GROUPS[name] for name in draft.wishes["groups"] if name in GROUPS]
    # An architecture without wheels has been refused above; x86_64 only keeps the numbers defined.
    return {
        "channel": channel.name,
        "torch": channel.torch,
        "torchvision": channel.torchvision,
        "torchaudio": channel.torchaudio,
        "cuda": channel.cuda if architecture in channel.gpu_architectures else None,
        "reason": reason,
        "download_bytes": channel.download_bytes.get(architecture, channel.download_bytes["x86_64"])
        + sum(download for download, _unpacked in groups),
        "unpacked_bytes": channel.unpacked_bytes.get(architecture, channel.unpacked_bytes["x86_64"])
        + sum(unpacked for _download, unpacked in groups),
    }


# --- disk ------------------------------------------------------------------------------------------------------------


def _ready(draft: _Draft, torch: dict[str, Any]) -> dict[str, bool]:
    """Return what is true on the host already. The role uv_python acts by the same words."""
    venv, uv = draft.facts["venv"], draft.facts["uv"]
    mark = draft.facts["paths"].get(unfinished_path(str(draft.wishes["venv_path"]))) or {}
    return {
        "uv": uv["version"] == str(draft.wishes["uv_version"]),
        "python": f"{venv['python']}.".startswith(f"{draft.wishes['python_version']}."),
        # A package that lost a file is known to uv as installed; only an environment made anew is whole.
        "finished": mark.get("kind", "none") == "none" and not venv.get("incomplete"),
        "torch": _same_torch(venv.get("torch"), torch["torch"]),
    }


def unfinished_path(venv_path: str) -> str:
    """Return the mark that stands while an environment is being changed; beside it, as it says so of no other."""
    return f"{venv_path}.unfinished"


def _needs(draft: _Draft, torch: dict[str, Any], ready: dict[str, bool]) -> list[dict[str, Any]]:
    """Return what has yet to be brought to the host: words, download, and the bytes it takes under each wish."""
    needs: list[dict[str, Any]] = []
    if not ready["uv"]:
        needs.append(_need("uv", UV_BYTES[0], {"uv_path": UV_BYTES[1]}, f"install uv at {draft.wishes['uv_path']}"))
    if not ready["python"]:
        change = f"install Python {_PYTHON} below {draft.wishes['uv_prefix']}"
        needs.append(_need(f"Python {_PYTHON}", PYTHON_BYTES[0], {"uv_prefix": PYTHON_BYTES[1]}, change))
    if not all(ready[part] for part in ("python", "finished", "torch")):
        change = f"make {draft.wishes['venv_path']} with torch {torch['torch']} of {torch['channel']} and its stacks"
        what = f"torch {torch['torch']} and the stacks around it ({torch['channel']})"
        needs.append(_need(what, torch["download_bytes"], _torch_takes(draft, torch["unpacked_bytes"]), change))
    return needs


def _workspace_needs(draft: _Draft, torch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a workspace's own environment takes, which is a copy of the host's; told by itself."""
    dev = draft.dev
    if not draft.wishes["containers"] or dev["action"] != "make" or dev["ready"]["venv"]:
        return []
    return [] if draft.absent("dev_container") else [_need("", 0, {"dev_workspace": torch["unpacked_bytes"]}, "")]


def _torch_takes(draft: _Draft, unpacked: int) -> dict[str, int]:
    """Return what torch takes in the environment and in uv's cache, which keeps the wheels unpacked too.

    On one filesystem the two share their blocks (reflinks, else hard links), unless copies are asked for.
    """
    places = [draft.facts["paths"].get(draft.wishes[wish]) for wish in ("venv_path", "uv_cache_path")]
    mounts = [place["mount"] for place in places if place is not None]
    shared = draft.wishes["link_mode"] != "copy" and len(mounts) == len(places) and len(set(mounts)) == 1
    return {"venv_path": unpacked, "uv_cache_path": 0 if shared else unpacked}


def _need(what: str, download: int, takes: dict[str, int], change: str) -> dict[str, Any]:
    return {"what": what, "download": download, "takes": takes, "change": change}


def _same_torch(installed: str | None, planned: str) -> bool:
    """Whether the installed torch is the planned one; only the CPU wheels carry their build in the plan's version."""
    if installed is None:
        return False
    return installed == planned or (installed.split("+")[0] == planned and not installed.endswith("+cpu"))


def _disk(draft: _Draft, needs: list[dict[str, Any]], ready: dict[str, bool]) -> list[dict[str, Any]]:
    """Return the forecast of each wished path, and refuse a mount that is too small for all that goes there."""
    rows: list[dict[str, Any]] = []
    for wish in (*_DIRECTORIES, "uv_path", "driver_set", "dev_workspace"):
        path = _PACKAGES if wish == "driver_set" else draft.wishes[wish]
        found = draft.facts["paths"].get(path) if isinstance(path, str) else None
        needed = sum(need["takes"].get(wish, 0) for need in needs)
        if found is None or (not needed and wish in ("uv_path", "driver_set", "dev_workspace")):
            continue
        rows.append(
            {
                "path": path,
                "mount": found["mount"],
                "needed_bytes": needed,
                "free_bytes": found["free_bytes"],
                "variable": WISHES[wish][0],
            }
        )
    for mount in dict.fromkeys(row["mount"] for row in rows):
        _check_mount(
            draft, mount, ready["finished"], [row for row in rows if row["mount"] == mount and row["needed_bytes"]]
        )
    return rows


def _check_mount(draft: _Draft, mount: str | None, finished: bool, rows: list[dict[str, Any]]) -> None:
    free = min((row["free_bytes"] for row in rows if row["free_bytes"] is not None), default=None)
    needed = sum(row["needed_bytes"] for row in rows)
    if free is None or needed <= free:
        return
    found = (
        f"Found {free / GB:.1f} GB free on {mount or 'the disk'}, where {needed / GB:.1f} GB are needed "
        f"({', '.join(row['path'] for row in rows)})"
    )
    if not finished:  # nobody knows how much of it the run that was cut off has stored already
        draft.warnings.append(f"{found}, less what the interrupted run has stored.")
        return
    largest = max(rows, key=lambda row: int(row["needed_bytes"]))
    wish = next(name for name, (variable, _default) in WISHES.items() if variable == largest["variable"])
    movable = [
        _movable(name) for name in (*_DIRECTORIES, "uv_path", "dev_workspace") if WISHES[name][0] in _variables(rows)
    ]
    elsewhere = f" or set {' or '.join(movable)} to a path on a larger disk" if movable else ""
    draft.refuse(found, wish, f"free {(needed - free) / GB:.1f} GB there{elsewhere}")


def _variables(rows: list[dict[str, Any]]) -> list[str]:
    return [row["variable"] for row in rows]


# --- what is left ----------------------------------------------------------------------------------------------------


def _gpu(draft: _Draft) -> dict[str, Any]:
    driver, container = draft.facts["driver"], draft.facts["system"]["container"]
    # A container sees the host's sysfs whole, and computes only on the device nodes it was given.
    reachable = not container or bool(driver.get("device_nodes", True))
    return {
        "present": bool(draft.gpus),
        "count": len(draft.gpus),
        "usable": bool(draft.gpus) and driver["loaded"] is not None and reachable,
        "min_compute_capability": _lowest(draft),
    }


def _reboot_pending(draft: _Draft) -> bool:
    """Whether a reboot loads the driver that is on disk for this kernel; other reasons do not keep a GPU from work."""
    driver, system = draft.facts["driver"], draft.facts["system"]
    on_disk = driver["on_disk"].get(system["kernel"])
    return bool(draft.gpus) and not system["container"] and on_disk is not None and driver["loaded"] != on_disk


def _resources(draft: _Draft) -> dict[str, int]:
    cpu = draft.facts["cpu"]
    gpus = max(1, len(draft.gpus))
    vcpus = cpu["vcpus"] or 1
    cores = cpu["cores"] or vcpus
    quota = cpu["quota_cpus"] or vcpus
    return {
        "threads": _clamp(int(min(cores, quota) / gpus), 1, 16),
        "cores": max(1, int(min(cores, quota))),
        "vcpus": vcpus,
        "gpus": gpus,
        "dataloader_workers": _clamp(int(min(vcpus, quota) / gpus) - 1, 1, 16),
    }


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _warn(draft: _Draft) -> None:
    facts = draft.facts
    kept = len(facts["gpus"]) - len(draft.gpus)
    if kept:
        draft.warnings.append(f"{kept} GPU(s) are bound to vfio-pci for virtual machines and are left alone.")
    draft.warnings += [
        f"{_named(gpu)} is not in this collection's table, so only a loaded driver can say what it computes with."
        for gpu in draft.gpus
        if gpu["compute_capability"] is None
    ]
    if draft.gpus and facts["driver"]["loaded"] is None:
        holder = " (nouveau holds the GPU)" if facts["driver"]["nouveau"] else ""
        by = "compute capability alone"
        if draft.driver["action"] == "install":
            by = f"driver {draft.driver['branch']}, which is planned"
        draft.warnings.append(
            f"No NVIDIA driver is loaded{holder}: the torch channel is chosen by {by}, "
            "and nothing computes on the GPU before a driver is."
        )
    elif draft.gpus and not _gpu(draft)["usable"]:
        draft.warnings.append("This container sees GPUs and has been given none of their device nodes.")
    draft.warnings += [f"A reboot is due: {reason}." for reason in facts["reboot"]["reasons"]]
    if facts["venv"]["writable_by_others"]:
        draft.warnings.append(f"Every user can write to {facts['venv']['path']}, and so change what others run.")


def _skipped(draft: _Draft) -> list[dict[str, str]]:
    skipped = []
    if draft.facts["system"]["service_manager"] != "systemd":
        skipped.append({"what": "systemd units and their environment", "why": "systemd does not run here"})
    if draft.driver["action"] == "skip":
        skipped.append({"what": "the NVIDIA driver", "why": draft.driver["reason"]})
    if not draft.gpus:
        skipped.append({"what": "GPU checks", "why": "no NVIDIA GPU was found"})
    elif draft.facts["driver"]["loaded"] is None:
        skipped.append({"what": "GPU checks", "why": "no NVIDIA driver is loaded"})
    return skipped
