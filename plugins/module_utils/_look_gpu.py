"""What a host's GPUs and their driver are, from sysfs, procfs and the kernel modules on disk."""

from __future__ import annotations

import gzip
import lzma
import mmap
import re
import struct
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._gpu_ids import NVIDIA_VENDOR, chip_of
from ansible_collections.gpufleet.host.plugins.module_utils._look_storage import user_name
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root

_PCI = "/sys/bus/pci/devices"
_VERSION = re.compile(r"\b(\d{3,4}\.\d+(?:\.\d+)*)\b")
_SMI_FIELDS = ("pci.bus_id", "pci.device_id", "name", "uuid", "compute_cap", "mig.mode.current", "driver_version")
_SMI_PATHS = ("/usr/bin/nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi", "/usr/local/bin/nvidia-smi")
_LIBRARY_DIRECTORIES = (
    "/usr/lib/wsl/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
)
# Debian names the module nvidia-current (and after a legacy branch), everyone else nvidia.
_MODULE = re.compile(r"(?:^|/)nvidia(?:-current(?:-open)?|-tesla(?:-\d+)?)?\.ko(?:\.(?:xz|gz|zst))?$")
_LOADED = ("nvidia", "nvidia_current", "nvidia_current_open", "nvidia_tesla")

Gpu = dict[str, Any]


def look_at_gpus(root: Root, wsl: bool) -> list[Gpu]:
    """Return the ``gpus`` fact.

    The driver's nvidia-smi is asked only for what neither the device id nor procfs tells; below WSL2 the GPU is no
    PCI device of the guest, so there nvidia-smi is the only one to ask.
    """
    gpus = [gpu for gpu in (_gpu(root, address) for address in root.names(_PCI)) if gpu is not None]
    if (wsl and not gpus) or (root.is_directory("/proc/driver/nvidia") and any(_has_gap(gpu) for gpu in gpus)):
        rows = parse_smi(_ask_smi(root))
        return _fill(gpus, rows) if gpus else [_wsl_gpu(row) for row in rows]
    return gpus


def look_at_nvswitches(root: Root) -> list[dict[str, Any]]:
    """Return the ``nvswitches`` fact: NVIDIA bridges of class "other" (Hopper and older show themselves so)."""
    return [
        {"pci_address": address, "device_id": root.text(f"{_PCI}/{address}/device")}
        for address in root.names(_PCI)
        if root.text(f"{_PCI}/{address}/vendor") == NVIDIA_VENDOR
        and (root.text(f"{_PCI}/{address}/class") or "").startswith("0x0680")
    ]


def _gpu(root: Root, address: str) -> Gpu | None:
    device = f"{_PCI}/{address}"
    pci_class = root.text(f"{device}/class") or ""
    if root.text(f"{device}/vendor") != NVIDIA_VENDOR or not pci_class.startswith(("0x0300", "0x0302")):
        return None
    if root.link(f"{device}/physfn") is not None:
        return None  # a virtual function on the hypervisor's side: its GPU is already in the list
    device_id = root.text(f"{device}/device")
    chip = chip_of(device_id or "")
    bound = root.link(f"{device}/driver")
    information = _information(root, address)
    uuid = information.get("GPU UUID", "")
    node = root.number(f"{device}/numa_node")
    return {
        "pci_address": address,
        "device_id": device_id,
        "class": pci_class,
        "name": information.get("Model"),
        "architecture": chip.architecture if chip else None,
        "compute_capability": chip.compute_capability if chip else None,
        "kernel_driver": bound.rsplit("/", 1)[-1] if bound else None,
        "display": _display(root, device),
        "numa_node": node if node is not None and node >= 0 else None,
        "uuid": uuid if uuid and "?" not in uuid else None,
        "mig": _mig(root, information, bool(chip and chip.mig_capable)) if chip else None,
        "vgpu": is_vgpu(root.data(f"{device}/config", 256)),
    }


def is_vgpu(config: bytes | None) -> bool | None:
    """Whether a GPU is a slice that a hypervisor made: its vendor-specific PCI capability then begins with "VF".

    Only root may read the part of the configuration space where the capabilities are; without it nothing is known.
    """
    if config is None or len(config) < 256:
        return None
    at = config[0x34] if config[0x06] & 0x10 else 0  # the device has a list of capabilities
    for _hop in range(48):  # as many as fit, should the list be a ring
        if not 0x40 <= at <= 0xFA:
            return False
        if config[at] == 0x09:
            return config[at + 3 : at + 5] == b"VF"
        at = config[at + 1]
    return False


def _information(root: Root, address: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in root.lines(f"/proc/driver/nvidia/gpus/{address}/information"))
    return {key.strip(): value.strip() for key, _colon, value in pairs if value.strip()}


def _display(root: Root, device: str) -> bool:
    """Whether a screen hangs on this GPU; without a mode-setting driver the firmware's console is the best sign."""
    states = [
        root.text(f"{device}/drm/{card}/{connector}/status")
        for card in root.names(f"{device}/drm")
        if card.startswith("card")
        for connector in root.names(f"{device}/drm/{card}")
        if connector.startswith(f"{card}-")
    ]
    known = [state for state in states if state in ("connected", "disconnected")]
    return "connected" in known if known else root.text(f"{device}/boot_vga") == "1"


def _mig(root: Root, information: dict[str, str], capable: bool) -> bool | None:
    """Whether the GPU is cut into MIG instances; None when only the driver could tell, and it has not been asked."""
    if not capable:
        return False
    minor = information.get("Device Minor")
    instances = root.names(f"/proc/driver/nvidia/capabilities/gpu{minor}/mig") if minor else []
    return True if any(name.startswith("gi") for name in instances) else None


def _has_gap(gpu: Gpu) -> bool:
    return gpu["kernel_driver"] == "nvidia" and None in (
        gpu["name"],
        gpu["uuid"],
        gpu["compute_capability"],
        gpu["mig"],
    )


def _ask_smi(root: Root) -> str | None:
    binary = next((path for path in _SMI_PATHS if root.exists(path)), None)
    if binary is None:
        return None
    told: str | None = root.command(binary, "--query-gpu=" + ",".join(_SMI_FIELDS), "--format=csv,noheader")
    return told


def parse_smi(text: str | None) -> list[dict[str, str | None]]:
    """Return one row a GPU from ``nvidia-smi --query-gpu``; what it does not know ("[N/A]") is None."""
    rows = []
    for line in (text or "").splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_SMI_FIELDS):
            rows.append({key: None if cell.startswith("[") else cell for key, cell in zip(_SMI_FIELDS, cells)})
    return rows


def _address(bus_id: str | None) -> str:
    """Return nvidia-smi's bus id (domain of eight digits, upper case) as sysfs writes it."""
    return (bus_id or "").lower()[-12:]


def _fill(gpus: list[Gpu], rows: list[dict[str, str | None]]) -> list[Gpu]:
    by_address = {_address(row["pci.bus_id"]): row for row in rows}
    return [
        {**gpu, **{key: value for key, value in _spoken(by_address[gpu["pci_address"]]).items() if value is not None}}
        if gpu["pci_address"] in by_address
        else gpu
        for gpu in gpus
    ]


def _spoken(row: dict[str, str | None]) -> Gpu:
    mig = row["mig.mode.current"]
    return {
        "name": row["name"],
        "uuid": row["uuid"],
        "compute_capability": row["compute_cap"],
        "mig": mig == "Enabled" if mig in ("Enabled", "Disabled") else None,
    }


def _wsl_gpu(row: dict[str, str | None]) -> Gpu:
    packed = row["pci.device_id"] or ""  # device and vendor in one number: 0x268410DE
    device_id = packed[:6].lower() if re.fullmatch(r"0x[0-9A-Fa-f]{8}", packed) else None
    chip = chip_of(device_id or "")
    gpu: Gpu = {
        "pci_address": _address(row["pci.bus_id"]) or None,
        "device_id": device_id,
        "class": None,
        "architecture": chip.architecture if chip else None,
        "kernel_driver": "dxgkrnl",
        "display": False,
        "numa_node": None,
        "vgpu": False,
    }
    spoken = _spoken(row)
    spoken["compute_capability"] = spoken["compute_capability"] or (chip.compute_capability if chip else None)
    return {**gpu, **spoken}


def look_at_driver(root: Root, kernels: list[str], wsl: bool) -> dict[str, Any]:
    """Return the ``driver`` fact."""
    banner = next((line for line in root.lines("/proc/driver/nvidia/version") if "NVRM version" in line), "")
    spoken = _VERSION.search(banner)
    loaded = next((text for name in _LOADED if (text := root.text(f"/sys/module/{name}/version"))), None)
    loaded = loaded or (spoken.group(1) if spoken else None)
    flavour = ("open" if "Open Kernel Module" in banner else "proprietary") if banner else None
    user_space = _user_space(root)
    if wsl and loaded is None and root.exists("/dev/dxg"):
        # The Windows driver serves the guest. Its Linux library has a name without version, so nvidia-smi must say it.
        loaded = next((row["driver_version"] for row in parse_smi(_ask_smi(root))), None)
    on_disk = {kernel: found for kernel in kernels if (found := _on_disk(root, kernel))}
    return {
        "loaded": loaded,
        "flavour": flavour,
        "on_disk": {kernel: version for kernel, (version, _license) in on_disk.items()},
        "on_disk_flavour": {kernel: _flavour_of(text) for kernel, (_version, text) in on_disk.items()},
        "user_space": user_space,
        "nouveau": any(root.is_directory(f"/sys/module/{name}") for name in ("nouveau", "nova_core")),
        "parameters": _parameters(root),
        "device_nodes": [f"/dev/{name}" for name in root.names("/dev") if re.fullmatch(r"nvidia\d+|dxg", name)],
    }


def _parameters(root: Root) -> dict[str, str]:
    """Return the options that the loaded module runs with, by the names that it shows them under."""
    pairs = (line.partition(":") for line in root.lines("/proc/driver/nvidia/params"))
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _flavour_of(license_text: str | None) -> str | None:
    if license_text is None:
        return None
    return "open" if "GPL" in license_text else "proprietary"


def _user_space(root: Root) -> str | None:
    for directory in _LIBRARY_DIRECTORIES:
        versions = []
        for name in root.names(directory):
            found = re.fullmatch(r"libcuda\.so\.(\d{3,4}\.\d+(?:\.\d+)*)", name)
            if found:
                versions.append(found.group(1))
        target = (root.link(f"{directory}/libcuda.so.1") or "").rsplit("libcuda.so.", 1)[-1]
        if versions:
            return target if target in versions else versions[-1]
    return None


def _on_disk(root: Root, kernel: str) -> tuple[str | None, str | None] | None:
    """Return (version, license) of the nvidia module that this kernel would load, None when it has none."""
    base = f"/lib/modules/{kernel}"
    listed = (line.split(":", 1)[0] for line in root.lines(f"{base}/modules.dep"))
    path = next((path for path in listed if _MODULE.search(path)), None)
    if path is None:
        return None
    full = path if path.startswith("/") else f"{base}/{path}"
    info = _modinfo(root, full)
    return info.get("version"), info.get("license")


def _modinfo(root: Root, path: str) -> dict[str, str]:
    """Return a kernel module's own description, read from its ELF section; modinfo is asked for a compressed one."""
    if path.endswith(".ko"):
        return parse_modinfo(_section_of_file(root, path))
    told = root.command("modinfo", path)
    if told:
        pairs = (line.partition(":") for line in told.splitlines())
        return {key.strip(): value.strip() for key, _colon, value in pairs}
    unpack = {"xz": lzma.decompress, "gz": gzip.decompress}.get(path.rsplit(".", 1)[-1])
    try:
        return parse_modinfo(modinfo_section(unpack(root.data(path, 1 << 30) or b""))) if unpack else {}
    except (lzma.LZMAError, OSError, EOFError):
        return {}


def _section_of_file(root: Root, path: str) -> bytes:
    # The module has up to 100 MB, of which a few pages are looked at.
    try:
        with open(root.real(path), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
            return modinfo_section(elf)
    except (OSError, ValueError):
        return b""


def modinfo_section(elf: bytes | mmap.mmap) -> bytes:
    """Return the ``.modinfo`` section of a 64-bit little-endian ELF file, empty when there is none."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return b""
    try:
        (table,) = struct.unpack_from("<Q", elf, 0x28)
        size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
        sections = [struct.unpack_from("<IIQQQQ", elf, table + index * size) for index in range(count)]
        names_at = sections[names_index][4]
        for name, _kind, _flags, _loaded_at, offset, length in sections:
            if elf[names_at + name : names_at + name + 9] == b".modinfo\0":
                return elf[offset : offset + length]
    except (struct.error, IndexError, OverflowError):
        pass
    return b""


def parse_modinfo(section: bytes) -> dict[str, str]:
    """Return the first value of each key of a ``.modinfo`` section (NUL-separated ``key=value``)."""
    values: dict[str, str] = {}
    for item in section.split(b"\0"):
        key, equals, value = item.decode("utf-8", "replace").partition("=")
        if equals:
            values.setdefault(key, value)
    return values


def look_at_processes(root: Root) -> list[dict[str, Any]]:
    """Return the ``gpu_processes`` fact: whoever holds a file of an NVIDIA GPU open."""
    if not any(re.fullmatch(r"nvidia(\d+|-uvm)", name) for name in root.names("/dev")):
        return []
    found = []
    for pid in root.names("/proc"):
        if not pid.isdigit():
            continue
        opened = (root.link(f"/proc/{pid}/fd/{number}") or "" for number in root.names(f"/proc/{pid}/fd"))
        if any(re.match(r"/dev/nvidia(\d+|-uvm)$", target) for target in opened):
            uid = _uid(root, pid)
            found.append(
                {
                    "pid": int(pid),
                    "name": root.text(f"/proc/{pid}/comm"),
                    "uid": uid,
                    "user": user_name(root, uid),
                    "container": container_of(root.text(f"/proc/{pid}/cgroup")),
                }
            )
    return found


def _uid(root: Root, pid: str) -> int | None:
    for line in root.lines(f"/proc/{pid}/status"):
        words = line.split()
        if words[:1] == ["Uid:"] and len(words) > 1 and words[1].isdigit():
            return int(words[1])
    return None


def container_of(groups: str | None) -> str | None:
    """Return the id of the container that a process's control group is named after."""
    hashes = re.findall(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", groups or "")
    if hashes:
        return str(hashes[-1])  # the innermost
    named = re.search(
        r"/(?:lxc(?:\.payload)?[./]|machine\.slice/machine-)([\w.-]+?)(?:\.scope)?(?:/|$)", groups or "", re.M
    )
    return named.group(1) if named else None


def reboot_reasons(root: Root, driver: dict[str, Any], kernel: str | None, container: bool) -> list[str]:
    """Return why this host should be started again; a container has no kernel of its own, so never."""
    if container:
        return []
    reasons = []
    loaded, on_disk = driver["loaded"], driver["on_disk"].get(kernel)
    if loaded and on_disk and loaded != on_disk:
        reasons.append(f"the loaded NVIDIA driver is {loaded}, the one on disk is {on_disk}")
    if driver["nouveau"] and on_disk:
        reasons.append(f"nouveau is loaded, and the NVIDIA driver {on_disk} on disk is not")
    if kernel and root.names("/lib/modules") and not root.is_directory(f"/lib/modules/{kernel}"):
        reasons.append(f"the running kernel {kernel} has been removed from disk")
    if root.exists("/run/reboot-required"):
        packages = sorted(set(root.lines("/run/reboot-required.pkgs")))
        reasons.append("the system asks for it" + (f" (for {', '.join(packages)})" if packages else ""))
    return reasons
