"""What a host is: system, processors, memory, packages of interest, Secure Boot."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._look_packages import (
    Package,
    broken_packages,
    kernel_packages,
    look_at_archive,
)
from ansible_collections.gpufleet.host.plugins.module_utils._look_session import (
    look_at_display,
    look_at_headers,
    look_at_jetson,
)
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root, to_int, version_key

# More than any record has.
_MOST_OF_A_RECORD = 8 * 1024 * 1024

# A cgroup v1 memory limit at or above this means "none": the kernel writes PAGE_COUNTER_MAX there.
_NO_MEMORY_LIMIT = 1 << 60

_OS_FAMILIES = (("debian", "Debian"), ("ubuntu", "Debian"), ("rhel", "RedHat"), ("fedora", "RedHat"), ("suse", "Suse"))

# sys_vendor or product_name begins with -> name, as systemd-detect-virt calls it.
_DMI_VENDORS = (
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Oracle Corporation", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Virtual Machine", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google", "google"),
)
_BARE_AMAZON = re.compile(r"\.metal")


def look_at_system(root: Root, packages: list[Package]) -> dict[str, Any]:
    """Return the ``system`` fact."""
    release = _os_release(root)
    identity = " ".join((release.get("ID", ""), release.get("ID_LIKE", ""))).lower()
    kernel = root.text("/proc/sys/kernel/osrelease")
    container = _container(root)
    wsl = "microsoft" in (kernel or "").lower() or "wsl" in (kernel or "").lower()
    kernels = _kernels(root)
    return {
        "hostname": root.text("/proc/sys/kernel/hostname"),
        "distribution": release.get("ID"),
        "version_id": release.get("VERSION_ID"),
        "codename": release.get("VERSION_CODENAME"),
        "pretty_name": release.get("PRETTY_NAME"),
        "os_family": next((family for word, family in _OS_FAMILIES if word in identity), None),
        "architecture": root.text("/proc/sys/kernel/arch") or os.uname().machine,
        "kernel": kernel,
        "kernels_installed": kernels,
        "kernel_newest": kernels[-1] if kernels else None,
        "kernel_packages": kernel_packages(packages),
        "headers": look_at_headers(root),
        "packages_broken": broken_packages(packages),
        "archive": look_at_archive(root, release.get("VERSION_CODENAME")),
        "service_manager": "systemd" if root.is_directory("/run/systemd/system") else "none",
        "virtualization": container or ("wsl" if wsl else _machine(root)),
        "container": container is not None,
        "wsl": wsl,
        "jetson": look_at_jetson(root),
        "display": look_at_display(root),
        "boot_id": root.text("/proc/sys/kernel/random/boot_id"),
        "python": {"version": ".".join(str(part) for part in sys.version_info[:3]), "executable": sys.executable},
        "is_root": os.geteuid() == 0,
    }


def _os_release(root: Root) -> dict[str, str]:
    lines = root.lines("/etc/os-release") or root.lines("/usr/lib/os-release")
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs if value.strip().strip("\"'")}


def _kernels(root: Root) -> list[str]:
    """Return the kernels that have a module tree, oldest first; a leftover folder without one is no kernel."""
    names = (
        name
        for name in root.names("/lib/modules")
        if root.exists(f"/lib/modules/{name}/modules.dep") or root.is_directory(f"/lib/modules/{name}/kernel")
    )
    return sorted(names, key=version_key)


def _container(root: Root) -> str | None:
    """Return the container's kind, None outside of one.

    WSL also writes /run/systemd/container ("wsl"); it is a virtual machine for every purpose here.
    """
    named: str | None = root.text("/run/systemd/container")
    if named and named != "wsl":
        return named
    if root.exists("/run/.containerenv"):
        return "podman"
    if root.exists("/.dockerenv"):
        return "docker"
    environment = (root.data("/proc/1/environ", 65536) or b"").split(b"\0")
    for item in environment:
        if item.startswith(b"container=") and item[10:] not in (b"", b"wsl"):
            return item[10:].decode("utf-8", "replace")
    groups = root.text("/proc/1/cgroup") or ""
    return next(
        (kind for word, kind in (("docker", "docker"), ("kubepods", "kubernetes"), ("/lxc", "lxc")) if word in groups),
        None,
    )


def _machine(root: Root) -> str:
    """Return the kind of virtual machine, ``none`` on bare metal, ``vm`` when there is one without a name."""
    if root.text("/sys/hypervisor/type") == "xen":
        return "xen"
    product = root.text("/sys/class/dmi/id/product_name") or ""
    words = [product, root.text("/sys/class/dmi/id/sys_vendor") or "", root.text("/sys/class/dmi/id/bios_vendor") or ""]
    hypervisor = any("hypervisor" in line.split() for line in root.lines("/proc/cpuinfo") if line.startswith("flags"))
    # A bare-metal machine of a cloud carries the cloud's vendor name too; only the processor's flag tells them apart.
    # Processors other than x86 have no such flag, so there the name alone has to do.
    x86 = any(line.startswith("flags") for line in root.lines("/proc/cpuinfo"))
    if _BARE_AMAZON.search(product) or (x86 and not hypervisor):
        return "none"
    for prefix, kind in _DMI_VENDORS:
        if any(word.startswith(prefix) for word in words):
            return "kvm" if kind == "google" else kind
    return "vm" if hypervisor else "none"


def look_at_cpu(root: Root) -> dict[str, Any]:
    """Return the ``cpu`` fact."""
    names = [name for name in root.names("/sys/devices/system/cpu") if re.fullmatch(r"cpu\d+", name)]
    online = _cpu_count(root.text("/sys/devices/system/cpu/online"))
    info = root.lines("/proc/cpuinfo")
    vcpus = online or sum(line.startswith("processor") for line in info) or len(names) or None
    nodes = [name for name in root.names("/sys/devices/system/node") if re.fullmatch(r"node\d+", name)]
    return {
        "model": _cpu_model(info),
        "vcpus": vcpus,
        "cores": _cores(root, names) or vcpus,
        "quota_cpus": _quota(root, vcpus),
        "numa_nodes": len(nodes) or None,
    }


def _cpu_model(info: list[str]) -> str | None:
    for line in info:
        key, _colon, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return None


def _cores(root: Root, names: list[str]) -> int | None:
    """Return how many physical cores there are: hardware threads of one core share their list of siblings."""
    siblings = {
        root.text(f"/sys/devices/system/cpu/{name}/topology/core_cpus_list")
        or root.text(f"/sys/devices/system/cpu/{name}/topology/thread_siblings_list")
        for name in names
    } - {None}
    return len(siblings) or None


def _cpu_count(ranges: str | None) -> int | None:
    """Return how many CPUs a kernel list like ``0-3,8`` names."""
    total = 0
    for part in (ranges or "").split(","):
        first, _dash, last = part.strip().partition("-")
        low, high = to_int(first), to_int(last or first)
        if low is None or high is None or high < low:
            return None
        total += high - low + 1
    return total or None


def _own_groups(root: Root) -> dict[str, str]:
    """Return cgroup controller -> this process's path in it; the v2 hierarchy has the empty name."""
    groups: dict[str, str] = {}
    for line in root.lines("/proc/self/cgroup"):
        parts = line.split(":", 2)
        if len(parts) == 3:  # id, controllers, path
            groups.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return groups


def _group_directories(root: Root, controller: str, mounts: tuple[str, ...]) -> list[str]:
    """Return this process's cgroup directory and all above it, as each of them can limit it."""
    path = _own_groups(root).get(controller, "/")
    directories = []
    for mount in mounts:
        parts = [part for part in path.split("/") if part not in ("", "..")]
        directories += ["/".join([mount, *parts[:count]]) for count in range(len(parts), -1, -1)]
    return [directory for directory in directories if root.is_directory(directory)]


def _quota(root: Root, vcpus: int | None) -> float | None:
    """Return the smallest CPU limit by cgroup bandwidth or CPU set, None when nothing limits this host."""
    limits: list[float] = []
    for directory in _group_directories(root, "", ("/sys/fs/cgroup",)):
        words = (root.text(f"{directory}/cpu.max") or "").split()
        limits += _ratio(to_int(words[0]), to_int(words[1])) if len(words) == 2 else []  # "max 100000": no limit
    for directory in _group_directories(root, "cpu", ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct")):
        quota, period = root.number(f"{directory}/cpu.cfs_quota_us"), root.number(f"{directory}/cpu.cfs_period_us")
        limits += _ratio(quota, period)
    for line in root.lines("/proc/self/status"):
        if line.startswith("Cpus_allowed_list:"):
            allowed = _cpu_count(line.split(":", 1)[1].strip())
            limits += [float(allowed)] if allowed and vcpus and allowed < vcpus else []
    return min(limits) if limits else None


def _ratio(quota: int | None, period: int | None) -> list[float]:
    return [round(quota / period, 2)] if quota and period and quota > 0 and period > 0 else []


def look_at_memory(root: Root) -> int | None:
    """Return the ``memory_bytes`` fact."""
    sizes: list[int] = []
    for line in root.lines("/proc/meminfo"):
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdigit():
            sizes.append(int(words[1]) * 1024)
    for directory in _group_directories(root, "", ("/sys/fs/cgroup",)):
        sizes.append(root.number(f"{directory}/memory.max") or 0)
    for directory in _group_directories(root, "memory", ("/sys/fs/cgroup/memory",)):
        sizes.append(root.number(f"{directory}/memory.limit_in_bytes") or 0)
    return min((size for size in sizes if 0 < size < _NO_MEMORY_LIMIT), default=None)


def look_at_secure_boot(root: Root) -> bool | None:
    """Return the ``secure_boot`` fact; a host that did not start by EFI has none."""
    if not root.is_directory("/sys/firmware/efi"):
        return False
    value = root.data("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", 5)
    return value[4] == 1 if value and len(value) == 5 else None


# fact -> packages that bring it, and the command that tells its version where no package does
_ENGINES: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "docker": (("docker-ce", "docker.io", "moby-engine"), "/usr/bin/docker", ("/usr/bin/docker", "--version")),
    "podman": (("podman",), "/usr/bin/podman", ("/usr/bin/podman", "--version")),
    "containerd": (("containerd.io", "containerd"), "/usr/bin/containerd", ("/usr/bin/containerd", "--version")),
    "toolkit": (("nvidia-container-toolkit",), "/usr/bin/nvidia-ctk", ("/usr/bin/nvidia-ctk", "--version")),
}


def look_at_engines(root: Root, packages: list[Package]) -> dict[str, str | None]:
    """Return the ``engines`` fact, with the container toolkit under ``toolkit``.

    dpkg's own file answers without a command; only a binary that no deb package brought is asked itself.
    """
    installed = {package.name: package.version for package in packages if package.state == "installed"}
    found: dict[str, str | None] = {}
    for name, (names, binary, argv) in _ENGINES.items():
        version = next((_upstream(installed[package]) for package in names if package in installed), None)
        if version is None and root.exists(binary):
            said = root.command(*argv) or ""
            spoken = re.search(r"\d+\.\d+[\w.+~-]*", said)
            # podman-docker's program of this name is podman, which says so.
            version = spoken.group(0) if spoken and (name == "podman" or "podman" not in said) else None
        found[name] = version
    return found


def _upstream(version: str) -> str | None:
    """Return a package's version without epoch and revision."""
    return version.split(":", 1)[-1].split("-", 1)[0] or None


def look_at_record(root: Root, directory: str) -> dict[str, str | None] | None:
    """Return when the last run recorded the host, and by which version; None where no run has."""
    text = root.data(f"{directory}/record.json", _MOST_OF_A_RECORD)
    if text is None:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    found = document if isinstance(document, dict) else {}
    values = {name: found.get(name) for name in ("time", "collection")}
    return {name: value[:40] if isinstance(value, str) else None for name, value in values.items()}
