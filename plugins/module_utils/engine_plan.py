"""The plan for containers: which engine, with which settings, and how its containers come to the GPUs.

Pure functions. Each returns its part of the plan and the sentences that belong to it; `host_plan` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ansible_collections.gpufleet.host.plugins.module_utils._platforms import support_of
from ansible_collections.gpufleet.host.plugins.module_utils.env_resolve import PASSWORD, without_password

Facts = dict[str, Any]

DOCKER_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
TOOLKIT_KEY = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
_DOCKER_URL = "https://download.docker.com/linux"
_TOOLKIT_URL = "https://nvidia.github.io/libnvidia-container"
_DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Engine(NamedTuple):
    """What a distribution has itself."""

    packages: tuple[str, ...]
    version: str


# Debian 12 has neither buildx nor the second compose; its docker.io builds with BuildKit all the same.
_DISTRIBUTION: dict[tuple[str, str], Engine] = {
    ("debian", "12"): Engine(("docker.io",), "20.10.24"),
    ("debian", "13"): Engine(("docker.io", "docker-cli", "docker-buildx", "docker-compose"), "26.1.5"),
    ("ubuntu", "22.04"): Engine(("docker.io", "docker-buildx", "docker-compose-v2"), "29.1.3"),
    ("ubuntu", "24.04"): Engine(("docker.io", "docker-buildx", "docker-compose-v2"), "29.1.3"),
    ("ubuntu", "26.04"): Engine(("docker.io", "docker-buildx", "docker-compose-v2"), "29.1.3"),
}
_DOCKER = Engine(
    ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin"), "29.0"
)
# What a rootless engine needs beside the engine, and where its script is. Debian's docker.io has the scripts itself.
_ROOTLESS: dict[str, tuple[str, ...]] = {
    "docker": ("docker-ce-rootless-extras", "uidmap", "dbus-user-session", "slirp4netns"),
    "distribution": ("rootlesskit", "uidmap", "dbus-user-session", "slirp4netns"),
}
_ROOTLESS_SCRIPT = {
    "docker": "/usr/bin/dockerd-rootless-setuptool.sh",
    "distribution": "/usr/share/docker.io/contrib/dockerd-rootless-setuptool.sh",
}
# Packages that bring the same files; they go when the engine comes, and only then.
_CONFLICTS: dict[str, tuple[str, ...]] = {
    "docker": ("docker.io", "docker-compose", "docker-compose-v2", "docker-doc", "podman-docker", "containerd", "runc"),
    "distribution": ("podman-docker", "containerd.io"),
}
# Of these the ones that the engine's packages name themselves, so that apt finds the way that others depend on.
_NAMED_CONFLICTS = ("containerd", "runc", "containerd.io")
_ENGINES = ("docker-ce", "docker.io", "moby-engine")
_EXTRAS: dict[str, tuple[str, ...]] = {
    "buildx": ("docker-buildx-plugin", "docker-buildx", "moby-buildx"),
    "compose": ("docker-compose-plugin", "docker-compose-v2", "moby-compose", "docker-compose"),
}
# Compose files of the second generation, `up --wait` and optional services; 1.29 is another program.
COMPOSE_FLOOR = "2.24"  # env_file with `required`
# `dockerd --validate`, and the oldest engine that reads CDI specifications, asked to and by itself.
_VALIDATES, _CDI, _CDI_BY_ITSELF = "23.0", "25.0", "28.2"
# Changing one of these is a signal to the daemon; it starts again for any other. `features` is read at the start only.
RELOADED = (
    *("debug", "labels", "live-restore", "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts"),
    *("default-runtime", "runtimes", "registry-mirrors", "insecure-registries", "shutdown-timeout"),
)
# Good on every host with GPUs where nobody has said anything else; each group is taken or left as a whole.
_DEFAULTS: tuple[dict[str, Any], ...] = (
    {"log-driver": "local", "log-opts": {"max-size": "50m", "max-file": "3"}},  # nothing rotates by itself
    {"live-restore": True},  # containers outlive a restart of the daemon
    {"default-ulimits": {"memlock": {"Name": "memlock", "Hard": -1, "Soft": -1}}},  # pinned memory, NCCL, RDMA
)

TOOLKIT_PACKAGES = (
    "libnvidia-container1",
    "libnvidia-container-tools",
    "nvidia-container-toolkit-base",
    "nvidia-container-toolkit",
)
TOOLKIT_FLOOR, _FLOOR_REASON = "1.19.1", "CVE-2026-24260, by which a container's image takes over the host"
# version -> why it must not be there, for versions above the floor. None is known that breaks every host.
KNOWN_BAD: dict[str, str] = {}
# (a way to ask for GPUs, the version that mended it) -> what is wrong there before.
FLAWS: dict[tuple[str, str], str] = {
    ("runtime", "1.20.0"): "an upgrade of it may set its runtime's mode back, until this role runs again",
}
# The engines that are served, and the oldest of each that reads specifications. For an older Docker there is a way
# round it; the others are left out by name.
ENGINES: dict[str, str] = {"docker": _CDI, "podman": "4.1", "containerd": "1.7", "crio": "1.23"}
# The toolkit's specifications are of CDI 0.7; what is older reads them only without the additional groups.
SPEC_FLOORS: dict[str, str] = {"docker": "26.1.0", "podman": "5.1.0", "containerd": "1.7.16", "crio": "1.30"}
_OLDER_SPEC = "no-additional-gids-for-device-nodes"
_RUNTIME = "/usr/bin/nvidia-container-runtime"
_CONTAINERD_CONFIG, _CONTAINERD_DROP_INS = "/etc/containerd/config.toml", "/etc/containerd/conf.d"


class Case:
    """Facts, wishes with their variables, and the sentences found so far."""

    def __init__(self, facts: Facts, wishes: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        self.facts, self.wishes, self.variables = facts, wishes, variables
        self.refusals: list[str] = []
        self.warnings: list[str] = []
        self.changes: list[str] = []

    def refuse(self, found: str, wish: str, remedy: str) -> None:
        """Say what was found, what was wished, and what to do."""
        shown = without_password(str(self.wishes[wish]))
        self.refusals.append(f"{found}; wished is {self.variables[wish]}={shown}; {remedy}.")

    @property
    def packages(self) -> dict[str, str]:
        """Installed packages of interest."""
        found: dict[str, str] = self.facts["containers"]["packages"]
        return found

    @property
    def distribution(self) -> tuple[str, str]:
        """The distribution as the tables know it."""
        name, version = self.facts["system"]["distribution"], self.facts["system"]["version_id"] or ""
        return (name or "", version.split(".")[0] if name == "debian" else version)


def at_least(version: str | None, floor: str) -> bool:
    """Whether a version is known and not below a floor."""
    return version is not None and _numbers(version) >= _numbers(floor)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _upstream(version: str | None) -> str | None:
    found = re.match(r"(?:\d+:)?([\d.]+\d)", version or "")
    return found.group(1) if found else None


# --- engine ----------------------------------------------------------------------------------------------------------


def plan_engine(case: Case) -> dict[str, Any]:
    """Return the plan of ``docker_engine``."""
    found = case.facts["engines"]["docker"]
    source, packages = _source(case, found)
    version = found or _candidate(case, source)
    missing = [name for name in packages if name not in case.packages]
    extras = {extra: _extra(case, extra) for extra in _EXTRAS}
    settings = _settings(case)
    rootless = _rootless(case, source, version)
    missing += [name for name in rootless["packages"] if name not in case.packages]
    unit = case.facts["units"].get("docker.service") or {}
    ready = {
        "packages": found is not None and not missing,
        "running": unit.get("active") == "active" and unit.get("enabled") == "enabled",
    }
    conflicts = [name for name in _CONFLICTS.get(source, ()) if name in case.packages] if not found else []
    if missing:
        origin = " from Docker's repository" if source == "docker" else ""
        instead = f" in place of {', '.join(conflicts)}" if conflicts else ""
        case.changes.append(f"install {', '.join(missing)}{origin}{instead}")
    _check_compose(case, extras, [*packages, *case.packages])
    return {
        "action": "keep" if found else "install",
        "source": source,
        "version": found,
        "expected": version,
        "packages": missing,
        "conflicts": conflicts,
        "removals": [name for name in conflicts if name not in _NAMED_CONFLICTS],
        "repository": _docker_repository(case) if source == "docker" and not found else None,
        **extras,
        "compose_floor": COMPOSE_FLOOR,
        "validate": at_least(version, _VALIDATES),
        "settings": settings,
        "defaults": _defaults(case, settings),
        "reloaded": list(RELOADED),
        "rootless": rootless,
        "busy": busy(case.facts),
        "ready": ready,
    }


def busy(facts: Facts) -> list[str]:
    """Return the processes in containers that use a GPU, in words: a restart of the engine could end them."""
    return [
        f"{process['name']} (pid {process['pid']}, container {process['container'][:12]})"
        for process in facts["gpu_processes"]
        if process.get("container")
    ]


def _source(case: Case, found: str | None) -> tuple[str, tuple[str, ...]]:
    """Return where the engine comes from, and the packages that shall be there."""
    wished, own = case.wishes["engine_source"], _DISTRIBUTION.get(case.distribution)
    if case.facts["containers"]["snap"]:
        case.refuse(
            "Found Docker as a snap, which keeps its settings elsewhere and sees no GPU",
            "engine_source",
            "remove it (snap remove docker)",
        )
    if found:
        return "existing", _beside(case, wished)
    if wished == "existing":
        case.refuse("Found no Docker on this host", "engine_source", "install it, or set docker_engine_source to auto")
    elif case.distribution not in _DISTRIBUTION and _planned(case):
        case.refuse(
            f"Found {' '.join(case.distribution).strip() or 'an unknown system'} without Docker, where this release "
            "cannot install it",
            "engine_source",
            "install Docker yourself, and it is adopted",
        )
    if wished == "auto":
        # An engine without CDI would be installed only to be worked around.
        wished = "distribution" if own and at_least(own.version, _CDI) else "docker"
    return wished, (own.packages if own else ()) if wished == "distribution" else _DOCKER.packages


def _planned(case: Case) -> bool:
    """Whether the platform is one that the whole plan goes on with; another has been refused for every role."""
    system = case.facts["system"]
    known = support_of(system["distribution"], system["version_id"]) is not None
    return known or bool(case.wishes["allow_unknown_platform"])


def _beside(case: Case, wished: str) -> tuple[str, ...]:
    """Return what shall stand beside an engine that is there: buildx and compose of the same origin."""
    engine = next((name for name in _ENGINES if name in case.packages), None)
    own = _DISTRIBUTION.get(case.distribution)
    if wished in ("docker", "distribution") and engine != {"docker": "docker-ce", "distribution": "docker.io"}[wished]:
        case.warnings.append(
            f"Docker {case.facts['engines']['docker']} ({engine or 'of no package'}) is there and is adopted; "
            f"docker_engine_source={wished} replaces no engine, so remove it first if you want another."
        )
    if engine == "docker-ce":
        return _DOCKER.packages[3:]
    if engine == "docker.io" and own:
        return tuple(name for name in own.packages if name not in ("docker.io", "docker-cli"))
    return ()


def _rootless(case: Case, source: str, version: str | None) -> dict[str, Any]:
    """Return what the wished rootless engines need; each is its user's own, nothing of it is in the system's files."""
    wished: list[str] = case.wishes["engine_rootless_users"]
    if not wished:
        return {"users": [], "packages": [], "script": None}
    origin = "docker" if source == "docker" or "docker-ce" in case.packages else "distribution"
    for name in wished:
        if not case.facts["users"].get(name):
            case.refuse(
                f"Found no user '{name}' on the host", "engine_rootless_users", f"create {name} or leave it out"
            )
    if case.facts["gpus"] and not at_least(version, _CDI_BY_ITSELF):
        case.refuse(
            f"Found that Docker {version} has no GPUs for rootless engines, as {_CDI_BY_ITSELF} has",
            "engine_rootless_users",
            "set docker_engine_source to docker before an engine is there, or leave rootless engines out",
        )
    case.warnings.append("docker_engine_rootless_users is a preview: nobody has run it for real yet.")
    new = [name for name in wished if not (case.facts["users"].get(name) or {}).get("rootless_docker")]
    if new:
        case.changes.append(f"set up a rootless engine for {', '.join(new)}")
    return {
        # Those who have none yet.
        "users": [{"name": name, "uid": (case.facts["users"].get(name) or {}).get("uid")} for name in new],
        "packages": list(_ROOTLESS[origin]),
        "script": _ROOTLESS_SCRIPT[origin],
    }


def _candidate(case: Case, source: str) -> str | None:
    own = _DISTRIBUTION.get(case.distribution)
    if source == "docker":
        return _DOCKER.version
    return own.version if source == "distribution" and own else None


def _extra(case: Case, extra: str) -> str | None:
    return next((_upstream(case.packages[name]) for name in _EXTRAS[extra] if name in case.packages), None)


def _check_compose(case: Case, extras: Mapping[str, str | None], present: list[str]) -> None:
    found = extras["compose"]
    if found and not at_least(found, COMPOSE_FLOOR):
        case.warnings.append(
            f"Found Docker Compose {found}, where {COMPOSE_FLOOR} is the oldest that a dev container works with; "
            "Docker's own packages have a newer one (docker_engine_source=docker, before an engine is there)."
        )
    elif not found and not any(name in present for name in _EXTRAS["compose"]):
        case.warnings.append("No Docker Compose 2 comes with this engine; Docker's own packages have it.")


def _docker_repository(case: Case) -> dict[str, Any]:
    system, wishes = case.facts["system"], case.wishes
    url = wishes["engine_repository_url"] or f"{_DOCKER_URL}/{case.distribution[0]}"
    return {
        "url": url,
        "suites": [system["codename"] or "stable"],
        "components": ["stable"],
        "architectures": [_DEBIAN_ARCHITECTURES.get(system["architecture"], system["architecture"])],
        "key_url": wishes["engine_repository_key_url"] or f"{url.rstrip('/')}/gpg",
        "fingerprints": wishes["engine_repository_fingerprints"] or [DOCKER_KEY],
    }


def _settings(case: Case) -> dict[str, Any]:
    """Return the keys of daemon.json that are wished, and refuse those that the daemon would not start with."""
    wishes, docker = case.wishes, case.facts["containers"]["docker"]
    own = wishes["engine_settings"]
    if not isinstance(own, dict):
        case.refuse("Found something that is no mapping", "engine_settings", "write key: value, as in daemon.json")
        own = {}
    settings = dict(own)
    if any(PASSWORD.search(mirror) for mirror in wishes["engine_registry_mirrors"]):
        case.refuse(
            "Found a name or password inside an address, with which dockerd does not start and which all could read",
            "engine_registry_mirrors",
            "take it out, and have the mirror know the host by its address",
        )
    if wishes["engine_registry_mirrors"]:
        settings["registry-mirrors"] = list(wishes["engine_registry_mirrors"])
    if wishes["engine_data_root"]:
        settings["data-root"] = wishes["engine_data_root"]
    new_root = settings.get("data-root", docker["data_root"])
    if new_root != docker["data_root"] and docker["data_used"] and not wishes["engine_force"]:
        case.refuse(
            f"Found images or containers in {docker['data_root']}, which Docker would no longer see",
            "engine_data_root",
            "move them there yourself, or set docker_engine_force to true to begin anew",
        )
    for key in sorted(set(settings) & set(docker["flags"])):
        case.refuse(
            f"Found --{key} among the flags that dockerd is started with (docker.service or /etc/default/docker), "
            "and with the key in daemon.json too it would not start",
            "engine_settings",
            f"take the flag out, or leave {key} alone",
        )
    if settings.get("live-restore") and docker["swarm"]:
        case.refuse(
            "Found a swarm on this engine, which cannot be with live-restore",
            "engine_settings",
            "leave live-restore out",
        )
    return settings


def _defaults(case: Case, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of defaults that this host can have."""
    docker = case.facts["containers"]["docker"]
    never = {*docker["flags"], *settings}
    if docker["swarm"]:
        never.add("live-restore")
    if case.facts["system"]["container"]:
        never.add("default-ulimits")  # nobody in a container may raise a limit
    return [dict(group) for group in _DEFAULTS if case.wishes["engine_defaults"] and not never & set(group)]


# --- toolkit ---------------------------------------------------------------------------------------------------------


def plan_toolkit(case: Case, engine: Mapping[str, Any], gpus: int, engine_comes: bool) -> dict[str, Any]:
    """Return the plan of ``container_toolkit``."""
    wishes, found = case.wishes, case.facts["containers"]
    version = str(wishes["toolkit_version"])
    version = version if "-" in version else f"{version}-1"
    if not gpus and not wishes["toolkit_without_gpu"]:
        reason = "No NVIDIA GPU was found, so there is no container toolkit (container_toolkit_without_gpu brings it)"
        return {"action": "none", "reason": reason, "version": version, "settings": {}}
    _check_version(case, version)
    if case.facts["system"]["os_family"] != "Debian":
        case.refuse(
            f"Found {case.facts['system']['pretty_name']}, where this release cannot install the container toolkit",
            "toolkit_version",
            "install it yourself and set container_toolkit_state to absent, or leave the role out",
        )
    docker = engine["version"] or (engine["expected"] if engine_comes else None)
    engines = _engines(case, docker)
    docker = docker if "docker" in engines else None
    way, settings = _way(case, docker)
    for (flawed, mended), text in FLAWS.items():
        if way == flawed and not at_least(version, mended):
            case.warnings.append(f"The container toolkit {version} has a flaw that {mended} has not: {text}.")
    missing = [name for name in TOOLKIT_PACKAGES if case.packages.get(name) != version]
    if missing:
        installed = case.packages.get(TOOLKIT_PACKAGES[3])
        instead = f" in place of {installed}" if installed else ""
        case.changes.append(f"install the container toolkit {version}{instead}")
    stale = [path for path in found["cdi_specs"] if path.startswith("/etc/cdi/nvidia.")]
    if stale:
        case.changes.append(f"move {stale[0]} away, whose device numbers are of an earlier boot")
    if found["toolkit"]["no_cgroups"]:
        case.warnings.append(
            "Found no-cgroups = true in /etc/nvidia-container-runtime/config.toml, which is for rootless engines: "
            "with it no container of the system's engine gets a GPU by the legacy way: take it out (rootless uses CDI)."
        )
    units = [case.facts["units"].get(f"nvidia-cdi-refresh.{kind}") or {} for kind in ("path", "service")]
    return {
        "action": "install",
        "reason": None,
        "version": version,
        "packages": [f"{name}={version}" for name in TOOLKIT_PACKAGES] if missing else [],
        "repository": _toolkit_repository(case),
        "pins": [{"packages": list(TOOLKIT_PACKAGES), "pin": f"version {version}", "priority": 1001}],
        "engines": list(engines),
        "docker": docker,
        "way": way,
        "proofs": [*([way] if docker else []), *(["podman"] if "podman" in engines else [])],
        "drop_ins": [_DROP_INS[name](case, engines[name]) for name in engines if name in _DROP_INS],
        "imports": _imports(case) if "containerd" in engines else None,
        "dev_char": way == "legacy",
        "settings": settings,
        "config_mode": "cdi" if way == "runtime" else None,
        "feature_flags": _feature_flags(case, docker, engines),
        "stale": stale,
        "gpus": gpus,
        "ready": {"packages": not missing, "units": all(unit.get("enabled") == "enabled" for unit in units)},
    }


def _check_version(case: Case, version: str) -> None:
    plain = version.partition("-")[0]
    if not re.fullmatch(r"\d+\.\d+\.\d+-\d+", version):
        case.refuse("Found no version of the container toolkit", "toolkit_version", 'write it like "1.20.1-1"')
    elif not at_least(plain, TOOLKIT_FLOOR):
        case.refuse(
            f"Found that {plain} is older than {TOOLKIT_FLOOR} and so open to {_FLOOR_REASON}",
            "toolkit_version",
            f"set container_toolkit_version to {TOOLKIT_FLOOR}-1 or newer",
        )
    elif plain in KNOWN_BAD:
        case.refuse(
            f"Found that {plain} {KNOWN_BAD[plain]}", "toolkit_version", "set container_toolkit_version to another"
        )


def _way(case: Case, docker: str | None) -> tuple[str, dict[str, Any]]:
    """Return how a container of Docker asks for GPUs, and the keys of daemon.json that it takes."""
    runtime = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
    if docker is None:
        return "cdi", {}
    if case.wishes["toolkit_mode"] == "legacy":
        return "legacy", runtime
    if not at_least(docker, _CDI):
        return "runtime", runtime  # this engine cannot read specifications; the toolkit's runtime does it in its place
    by_itself = at_least(docker, _CDI_BY_ITSELF) and case.facts["containers"]["docker"]["cdi"] is not False
    return "cdi", {} if by_itself else {"features": {"cdi": True}}


def _engines(case: Case, docker: str | None) -> dict[str, str | None]:
    """Return the engines that are served, with their versions: those that are there, or those that are wished."""
    found = {
        "docker": docker,
        "podman": case.facts["engines"]["podman"],
        # Docker's own containerd is Docker's affair.
        "containerd": case.facts["engines"]["containerd"] if not docker else None,
        "crio": _upstream(case.packages.get("cri-o")),
    }
    wished = case.wishes["toolkit_engines"]
    chosen = {name: version for name, version in found.items() if version or name in wished}
    if wished:
        chosen = {name: chosen[name] for name in ENGINES if name in wished}
        if "containerd" in chosen:
            chosen["containerd"] = case.facts["engines"]["containerd"]
    for name, version in list(chosen.items()):
        if name != "docker" and version and not at_least(version, ENGINES[name]):
            case.warnings.append(f"{name} {version} reads no CDI specifications, as {ENGINES[name]} does: left out.")
            del chosen[name]
    return chosen


def _containerd_drop_in(case: Case, version: str | None) -> dict[str, Any]:
    """Return the runtime for the container runtime interface, in the form that the main file has."""
    found = case.facts["containers"]["containerd"]
    form = found["version"] or (3 if at_least(version, "2.0") else 2)
    plugin = 'plugins."io.containerd.grpc.v1.cri"' if form < 3 else "plugins.'io.containerd.cri.v1.runtime'"
    lines = [f"version = {form}", "", f"[{plugin}]", "enable_cdi = true"]
    lines += ["", f"[{plugin}.containerd.runtimes.nvidia]", 'runtime_type = "io.containerd.runc.v2"']
    lines += ["", f"[{plugin}.containerd.runtimes.nvidia.options]", f'BinaryName = "{_RUNTIME}"']
    lines += ["SystemdCgroup = true"] if found["systemd_cgroup"] else []  # as runc has it
    return {
        "path": f"{_CONTAINERD_DROP_INS}/99-gpufleet-nvidia.toml",
        "lines": lines,
        "unit": "containerd.service" if version else None,
    }


def _crio_drop_in(_case: Case, version: str | None) -> dict[str, Any]:
    lines = ["[crio.runtime.runtimes.nvidia]", f'runtime_path = "{_RUNTIME}"', 'runtime_type = "oci"']
    unit = "crio.service" if version else None
    return {"path": "/etc/crio/crio.conf.d/99-gpufleet-nvidia.toml", "lines": lines, "unit": unit}


_DROP_INS = {"containerd": _containerd_drop_in, "crio": _crio_drop_in}


def _imports(case: Case) -> dict[str, Any]:
    """Return what makes containerd read its drop-ins: a line in its own file, which keeps all others."""
    found, pattern = case.facts["containers"]["containerd"], f"{_CONTAINERD_DROP_INS}/*.toml"
    ready = pattern in found["imports"]
    if found["imports"] and not ready:
        case.warnings.append(
            f"{_CONTAINERD_CONFIG} imports {', '.join(found['imports'])} and so not the drop-in for GPUs: "
            f'add "{pattern}" to that list.'
        )
    return {
        "path": _CONTAINERD_CONFIG,
        "line": f'imports = ["{pattern}"]',
        # None is written where somebody has a list of his own.
        "action": "none" if found["imports"] else "line" if found["configured"] else "file",
    }


def _feature_flags(case: Case, docker: str | None, engines: Mapping[str, str | None]) -> list[str]:
    old = [
        f"{name} {version}"
        for name, version in engines.items()
        if version
        and not at_least(version, SPEC_FLOORS[name])
        # An engine that reads no specification at all is served by the toolkit's runtime.
        and not (name == "docker" and not at_least(docker, _CDI))
    ]
    if old:
        case.warnings.append(f"{' and '.join(old)} cannot read CDI 0.7, so the specification is written for them.")
    return [_OLDER_SPEC] if old else []


def _toolkit_repository(case: Case) -> dict[str, Any]:
    wishes, architecture = case.wishes, case.facts["system"]["architecture"]
    debian = _DEBIAN_ARCHITECTURES.get(architecture, architecture)
    return {
        "url": wishes["toolkit_repository_url"] or f"{_TOOLKIT_URL}/stable/deb/{debian}/",
        "suites": ["/"],
        "components": [],
        "architectures": [debian],
        "key_url": wishes["toolkit_repository_key_url"] or f"{_TOOLKIT_URL}/gpgkey",
        "fingerprints": wishes["toolkit_repository_fingerprints"] or [TOOLKIT_KEY],
    }
