"""Facts of hosts for the plan's tests, as gpu_facts would return them."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._gpu_ids import chip_of

GB = 1_000_000_000

GTX_1080, TITAN_X, K80, V100, T4 = "0x1b80", "0x17c2", "0x102d", "0x1db6", "0x1eb8"
A100, RTX_4090, H100, B200, RTX_5090, GB10 = "0x20b0", "0x2684", "0x2330", "0x2901", "0x2b85", "0x2e12"
UNKNOWN = "0x4242"
PATHS = ("/srv/ml", "/opt/uv", "/opt/uv/venv", "/opt/uv/cache", "/usr/local/bin/uv")


def place(kind: str = "none", **fields: Any) -> dict[str, Any]:
    found = {"kind": kind, "ancestor": "/srv", "ancestor_kind": "directory", "mount": "/", "filesystem": "ext4"}
    return {**found, "read_only": False, "noexec": False, "free_bytes": 100 * GB, "acl": True, **fields}


def gpu(device: str, number: int = 1, held: str | None = "nvidia") -> dict[str, Any]:
    chip = chip_of(device)
    return {
        "pci_address": f"0000:{number:02x}:00.0",
        "device_id": device,
        "class": "0x030000",
        "name": None,
        "architecture": chip.architecture if chip else None,
        "compute_capability": chip.compute_capability if chip else None,
        "kernel_driver": held,
        "display": False,
        "numa_node": None,
        "uuid": None,
        "mig": False,
        "vgpu": False,
    }


def host(
    *devices: str, driver: str | None = "580.178.04", held: str | None = "nvidia", **changes: Any
) -> dict[str, Any]:
    """Return the facts of a Debian 13 server; a change like ``system__architecture`` goes into a fact's field."""
    facts: dict[str, Any] = {
        "schema": 1,
        "system": {
            "hostname": "box",
            "distribution": "debian",
            "version_id": "13",
            "codename": "trixie",
            "pretty_name": "Debian GNU/Linux 13 (trixie)",
            "os_family": "Debian",
            "architecture": "x86_64",
            "kernel": "6.12.48+deb13-amd64",
            "kernels_installed": ["6.12.48+deb13-amd64"],
            "kernel_newest": "6.12.48+deb13-amd64",
            "kernel_packages": ["linux-image-amd64"],
            "headers": [],
            "packages_broken": [],
            "archive": None,
            "service_manager": "systemd",
            "virtualization": "none",
            "container": False,
            "wsl": False,
            "jetson": False,
            "display": False,
        },
        "cpu": {"model": "EPYC", "vcpus": 64, "cores": 32, "quota_cpus": None, "numa_nodes": 1},
        "memory_bytes": 256 * GB,
        "gpus": [gpu(device, number, held) for number, device in enumerate(devices, 1)],
        "nvswitches": [],
        "driver": {
            "loaded": driver if devices else None,
            "flavour": "open" if driver and devices else None,
            "on_disk": {},
            "user_space": None,
            "nouveau": False,
            "parameters": {},
            "device_nodes": ["/dev/nvidia0"],
            "on_disk_flavour": {},
            "packages": {},
            "held": [],
            "origin": None,
            "ours": False,
            "dkms": [],
        },
        "secure_boot": False,
        "mok": {"certificate": None, "enrolled": None, "pending": None},
        "gpu_processes": [],
        "engines": {"docker": None, "podman": None, "containerd": None},
        "toolkit": None,
        "containers": {
            "packages": {},
            "snap": False,
            "docker": {"data_root": "/var/lib/docker", "data_used": False, "swarm": False, "cdi": None, "flags": []},
            "containerd": {"configured": False, "version": None, "imports": [], "systemd_cgroup": False},
            "toolkit": {"mode": None, "no_cgroups": None},
            "cdi_specs": [],
            "images": None,
            "built": {},
        },
        "uv": {"path": "/usr/local/bin/uv", "version": None, "sha256": None},
        "venv": {"path": "/opt/uv/venv", "python": None, "base": None, "torch": None, "writable_by_others": False},
        "paths": {path: place() for path in PATHS},
        "users": {"alice": {"uid": 1000}, "bob": {"uid": 1001}},
        "groups": {"ml": None},
        "units": {},
        "reboot": {"required": False, "reasons": []},
        "time": "2026-11-22T12:00:00+00:00",
    }
    for name, value in changes.items():
        fact, _separator, field = name.partition("__")
        if field:
            facts[fact][field] = value
        else:
            facts[fact] = value
    return facts
