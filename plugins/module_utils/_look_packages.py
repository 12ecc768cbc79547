"""What a host's package manager knows: versions, broken packages, kernels' metas, the distribution's own archive."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ansible_collections.gpufleet.host.plugins.module_utils._root import Root

# Names of the NVIDIA driver's packages, and of what decides about them. The container toolkit and CUDA's developer
# packages begin alike and are none of them.
_DRIVER = re.compile(
    r"(?!nvidia-(container|docker|cuda-|cudnn|nsight|profiler|visual)|libnvidia-(container|ml-dev))"
    r"(nvidia-|libnvidia-|cuda-drivers|cuda-keyring$|dkms$|firmware-nvidia-|kmod-nvidia|libcuda1$|libcudadebugger1$"
    r"|libnvcuvid1$|libnvoptix1$|libnvsdm|libxnvctrl0$|nvlink5|nvlsm$|xserver-xorg-video-nvidia"
    r"|lib(egl|gl1|gles|glx)-nvidia|linux-(modules|objects|signatures)-nvidia-)"
)
# The packages that carry a kernel's name hold a version; what is left is a meta package, which follows the kernels.
_KERNEL_META = re.compile(r"linux-(image|headers)-(?!\d|unsigned-\d)(?!.*-dbg)")
_BROKEN = ("half-installed", "half-configured", "unpacked", "triggers-awaited", "triggers-pending")
_RPM_GLOBS = (
    "nvidia-*",
    "libnvidia-*",
    "kmod-nvidia*",
    "cuda-drivers*",
    "dkms",
    "kernel-headers",
    "kernel-devel-matched",
    "kernel-uek-devel",
)


class Package(NamedTuple):
    """One package of dpkg's status file."""

    name: str
    state: str  # the third word of its status: installed, half-configured, config-files, ...
    version: str  # with epoch and revision
    held: bool = False


def read_packages(root: Root) -> list[Package]:
    """Return all packages that dpkg knows; its own file answers without a command."""
    found = []
    for stanza in (root.text("/var/lib/dpkg/status") or "").split("\n\n"):
        text = stanza.lstrip("\n")
        status = re.search(r"^Status: (\S+) \S+ (\S+)", text, re.MULTILINE)
        if text.startswith("Package: ") and status:
            version = re.search(r"^Version: (\S+)", text, re.MULTILINE)
            name = text[9:].split("\n", 1)[0].strip()
            wanted, state = status.groups()
            found.append(Package(name, state, version.group(1) if version else "", wanted == "hold"))
    return found


def driver_packages(root: Root, packages: list[Package]) -> dict[str, str]:
    """Return the ``driver.packages`` fact: name to full version of what is installed."""
    found = {
        package.name: package.version
        for package in packages
        if package.state == "installed" and _DRIVER.match(package.name)
    }
    if not packages and root.exists("/usr/bin/rpm"):
        told = root.command("rpm", "-qa", "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}\n", *_RPM_GLOBS) or ""
        found = {words[0]: words[1] for words in map(str.split, told.splitlines()) if len(words) == 2}
    return found


def kernel_packages(packages: list[Package]) -> list[str]:
    """Return the installed meta packages of kernels and of their headers."""
    return sorted(
        {package.name for package in packages if package.state == "installed" and _KERNEL_META.match(package.name)}
    )


def broken_packages(packages: list[Package]) -> list[str]:
    """Return the packages that an interrupted or failed transaction left behind."""
    return sorted({package.name for package in packages if package.state in _BROKEN})


# --- the distribution's own archive ----------------------------------------------------------------------------------

Source = dict[str, Any]


def look_at_archive(root: Root, codename: str | None) -> Source | None:
    """Return the ``system.archive`` fact: where apt has the release itself from, and which components are on."""
    same = [source for source in _sources(root) if codename in source["suites"]]
    first = next((source for source in same if "main" in source["components"]), None)
    if first is None:
        return None
    components = [
        name
        for source in same
        if source["uri"].rstrip("/") == first["uri"].rstrip("/")
        for name in source["components"]
    ]
    return {
        "uri": first["uri"],
        "suite": codename,
        "components": list(dict.fromkeys(components)),
        "signed_by": first["signed_by"],
    }


def _sources(root: Root) -> list[Source]:
    found = [_one_line(line) for line in root.lines("/etc/apt/sources.list")]
    for name in root.names("/etc/apt/sources.list.d"):
        path = f"/etc/apt/sources.list.d/{name}"
        if name.endswith(".list"):
            found += [_one_line(line) for line in root.lines(path)]
        elif name.endswith(".sources"):
            found += _stanzas(root.text(path) or "")
    return [source for source in found if source is not None]


def _one_line(line: str) -> Source | None:
    found = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line.strip())
    if found is None:
        return None
    options, uri, suite, components = found.groups()
    signed_by = re.search(r"signed-by=(\S+)", options or "")
    return {
        "uri": uri,
        "suites": [suite],
        "components": components.split(),
        "signed_by": signed_by.group(1) if signed_by else None,
    }


def _stanzas(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():  # goes on with the field above
                fields[last] = f"{fields.get(last, '')}\n{line.strip()}"
                continue
            name, _colon, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in (
            "no",
            "false",
            "0",
        ):
            found += [_source(fields, uri) for uri in fields.get("uris", "").split()]
    return found


def _source(fields: dict[str, str], uri: str) -> Source:
    return {
        "uri": uri,
        "suites": fields.get("suites", "").split(),
        "components": fields.get("components", "").split(),
        "signed_by": fields.get("signed-by") or None,
    }
