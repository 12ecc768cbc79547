"""What a host has for containers: packages, Docker's settings, the toolkit's configuration, CDI specifications."""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._look_packages import Package
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root

_PACKAGES = re.compile(
    r"(docker|moby-engine|moby-cli|moby-buildx|moby-compose|containerd|runc$|podman|crun$|cri-o"
    r"|nvidia-container-|libnvidia-container|rootlesskit$|uidmap$|dbus-user-session$|slirp4netns$)"
)
_UNITS = ("/etc/systemd/system/docker.service", "/lib/systemd/system/docker.service")
# The daemon's flags whose key in daemon.json has another name.
_KEYS = {"host": "hosts", "H": "hosts", "label": "labels", "registry-mirror": "registry-mirrors", "log-opt": "log-opts"}
_KEYS.update({"l": "log-level", "D": "debug", "g": "data-root", "graph": "data-root", "s": "storage-driver"})
_KEYS.update({"default-ulimit": "default-ulimits", "exec-opt": "exec-opts", "insecure-registry": "insecure-registries"})


_SOCKET = "/run/docker.sock"
_BUILD_LABEL = "host.gpufleet.build-hash"
_BUILT = "/var/lib/gpufleet/dev_container"


def look_at_containers(root: Root, packages: list[Package]) -> dict[str, Any]:
    """Return the ``containers`` fact."""
    return {
        "packages": {
            package.name: package.version
            for package in packages
            if package.state == "installed" and _PACKAGES.match(package.name)
        },
        "snap": root.exists("/snap/bin/docker"),
        "docker": _docker(root),
        "containerd": _containerd(root),
        "toolkit": _toolkit(root),
        "images": _images(root),
        "built": _built(root),
        "cdi_specs": [
            f"{place}/{name}"
            for place in ("/etc/cdi", "/run/cdi")
            for name in root.names(place)
            if "nvidia.com/gpu" in (root.text(f"{place}/{name}") or "")
        ],
    }


def _docker(root: Root) -> dict[str, Any]:
    try:
        settings = json.loads((root.text("/etc/docker/daemon.json") or "{}").lstrip("\ufeff"))
    except ValueError:
        settings = {}  # the module that changes it says where it is broken
    settings = settings if isinstance(settings, dict) else {}
    features = settings.get("features")
    data_root = settings.get("data-root") or "/var/lib/docker"
    flags = _flags(root)
    return {
        "data_root": data_root,
        "data_used": bool(root.names(f"{data_root}/image") or root.names(f"{data_root}/containers")),
        "swarm": root.exists(f"{data_root}/swarm/docker-state.json"),
        "cdi": features.get("cdi") if isinstance(features, dict) else None,
        "flags": sorted({_KEYS.get(flag, flag) for flag in flags}),
    }


def _flags(root: Root) -> list[str]:
    """Return the flags that dockerd is started with: a key of daemon.json with such a name stops it."""
    unit = next((text for text in map(root.text, _UNITS) if text), "")
    drop_ins = "/etc/systemd/system/docker.service.d"
    texts = [unit, *(root.text(f"{drop_ins}/{name}") or "" for name in root.names(drop_ins) if name.endswith(".conf"))]
    commands: list[str] = []
    for text in texts:
        for command in re.findall(r"^ExecStart=(.*)$", text.replace("\\\n", " "), re.MULTILINE):
            commands = [*commands, command] if command.strip() else []  # an empty one takes back those before it
    options = re.search(r"^\s*DOCKER_OPTS=(.*)$", root.text("/etc/default/docker") or "", re.MULTILINE)
    commands += [options.group(1)] if options else []
    return [flag for command in commands for flag in re.findall(r"(?<=[\s\"'])--?([A-Za-z][\w-]*)", command)]


def _containerd(root: Root) -> dict[str, Any]:
    """Return what decides whether containerd reads a drop-in; null and empty where its configuration says nothing."""
    text = root.text("/etc/containerd/config.toml")
    plain = re.sub(r"(?m)^\s*#.*$", "", text or "")
    top = re.split(r"(?m)^\s*\[", plain)[0]
    version = re.search(r"(?m)^\s*version\s*=\s*(\d+)", top)
    imports = re.search(r"(?ms)^\s*imports\s*=\s*\[(.*?)\]", top)
    return {
        "configured": text is not None,
        "version": int(version.group(1)) if version else None,
        "imports": re.findall(r"[\"']([^\"']+)[\"']", imports.group(1)) if imports else [],
        "systemd_cgroup": bool(re.search(r"(?m)^\s*SystemdCgroup\s*=\s*true", plain)),
    }


def _toolkit(root: Root) -> dict[str, Any]:
    """Return what the container runtime's own configuration says; null where it says nothing."""
    section, mode, no_cgroups = "", None, None
    for line in root.lines("/etc/nvidia-container-runtime/config.toml"):
        heading = re.match(r"\s*\[([\w.-]+)\]", line)
        section = heading.group(1) if heading else section
        pair = re.match(r"\s*([\w-]+)\s*=\s*\"?([\w-]+)\"?", line)
        if pair and (section, pair.group(1)) == ("nvidia-container-runtime", "mode"):
            mode = pair.group(2)
        if pair and (section, pair.group(1)) == ("nvidia-container-cli", "no-cgroups"):
            no_cgroups = pair.group(2) == "true"
    return {"mode": mode, "no_cgroups": no_cgroups}


class _DockerConnection(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def __init__(self) -> None:
        super().__init__("localhost", timeout=5)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(_SOCKET)


def _images(root: Root) -> list[dict[str, Any]] | None:
    """Return the dev containers' images by the engine's own word; None where no engine answers."""
    if not root.is_live or not root.exists(_SOCKET):
        return None
    connection = _DockerConnection()
    try:
        connection.request("GET", "/images/json?filters=%7B%22label%22%3A%5B%22" + _BUILD_LABEL + "%22%5D%7D")
        answer = connection.getresponse()
        return images_of(answer.read()) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def images_of(answer: bytes) -> list[dict[str, Any]]:
    """Return what the engine's list of images says of those that carry the label.

    Raises:
        ValueError: the answer is not what the engine gives.
    """
    images = json.loads(answer)
    if not isinstance(images, list):
        raise ValueError("no list")
    return [
        {"id": image["Id"], "tags": sorted(image.get("RepoTags") or []), "hash": image["Labels"][_BUILD_LABEL]}
        for image in images
        if _BUILD_LABEL in (image.get("Labels") or {})
    ]


def _built(root: Root) -> dict[str, Any]:
    """Return what was noted of the last build of each project: image, seconds, bytes."""
    found = {}
    for name in root.names(_BUILT):
        try:
            noted = json.loads(root.text(f"{_BUILT}/{name}") or "")
            found[name.rpartition(".")[0]] = {key: noted[key] for key in ("image", "seconds", "size_bytes", "time")}
        except (ValueError, KeyError, TypeError):
            continue
    return found
