"""How the driver came onto a host, and what its modules are built and signed with."""

from __future__ import annotations

import ssl
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._look_packages import Package, driver_packages
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root

# What the role nvidia_driver leaves on a host whose driver is its work.
_OURS = (
    "/etc/apt/sources.list.d/gpufleet-nvidia-driver.sources",
    "/etc/apt/preferences.d/gpufleet-nvidia-driver",
    "/etc/yum.repos.d/gpufleet-nvidia-driver.repo",
)
# What NVIDIA's .run installer leaves behind, and no package has.
_RUNFILE = ("/usr/bin/nvidia-uninstall", "/usr/bin/nvidia-installer", "/var/lib/nvidia/dirs")
# Packages that are about the driver without being one.
_NO_DRIVER = ("dkms", "cuda-keyring", "nvidia-modprobe", "nvidia-settings", "nvidia-installer-cleanup")
_DKMS = "/var/lib/dkms"
_EFIVARS = "/sys/firmware/efi/efivars"
_SHIM, _DATABASE = "605dab50-e046-4300-abb6-3dd810dd8b23", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"


def look_at_installation(root: Root, packages: list[Package]) -> dict[str, Any]:
    """Return what the ``driver`` fact says about packages, their origin, and DKMS."""
    installed = driver_packages(root, packages)
    brought = [name for name in installed if name not in _NO_DRIVER and "pinning" not in name]
    by_hand = any(root.exists(path) for path in _RUNFILE)
    return {
        "packages": installed,
        "held": sorted(package.name for package in packages if package.held and package.name in installed),
        "origin": "runfile" if by_hand else "package" if brought else None,
        "ours": any(root.exists(path) for path in _OURS),
        "dkms": look_at_dkms(root),
    }


def look_at_dkms(root: Root) -> list[dict[str, Any]]:
    """Return the ``driver.dkms`` fact from DKMS's own tree; `dkms status` says the same, slowly and in other words."""
    found: list[dict[str, Any]] = []
    for module in root.names(_DKMS):
        for version in root.names(f"{_DKMS}/{module}"):
            place = f"{_DKMS}/{module}/{version}"
            if version.startswith("kernel-") or root.link(f"{place}/source") is None:
                continue
            kernels = [name for name in root.names(place) if name not in ("source", "build")]
            rows = [_built(root, module, version, kernel) for kernel in kernels]
            built = [row for row in rows if row is not None]
            found += built or [{"module": module, "version": version, "kernel": None, "state": "added"}]
    return found


def _built(root: Root, module: str, version: str, kernel: str) -> dict[str, Any] | None:
    place = f"{_DKMS}/{module}/{version}/{kernel}"
    machine = next((name for name in root.names(place) if root.is_directory(f"{place}/{name}/module")), None)
    if machine is None:
        return None
    # A link of this name is the mark that the module was copied to the kernel's own tree.
    link = root.link(f"{_DKMS}/{module}/kernel-{kernel}-{machine}") or ""
    state = "installed" if PurePosixPath(link).parts[:1] == (version,) else "built"
    return {"module": module, "version": version, "kernel": kernel, "state": state}


def look_at_mok(root: Root, secure_boot: bool | None, distribution: str | None) -> dict[str, Any]:
    """Return the ``mok`` fact: the certificate that DKMS signs with, and whether the firmware trusts it.

    A certificate stands whole in the lists of the firmware, so looking for it there needs neither mokutil nor a parser.
    """
    unknown: dict[str, Any] = {"certificate": None, "enrolled": None, "pending": None}
    if not secure_boot:
        return unknown
    path = _certificate(root, distribution)
    data = _der(root.data(path) if path else None)
    if not data:
        return unknown
    trusted = _variables(root, f"MokListRT-{_SHIM}", f"db-{_DATABASE}") + [
        found
        for name in root.names("/sys/firmware/efi/mok-variables")
        if name.startswith("MokListRT") and (found := root.data(f"/sys/firmware/efi/mok-variables/{name}"))
    ]
    return {
        "certificate": path,
        "enrolled": any(data in found for found in trusted) if trusted else None,
        "pending": any(data in found for found in _variables(root, f"MokNew-{_SHIM}")),
    }


def _variables(root: Root, *names: str) -> list[bytes]:
    found = (root.data(f"{_EFIVARS}/{name}") for name in names)
    return [data for data in found if data]


def _certificate(root: Root, distribution: str | None) -> str | None:
    files = [
        "/etc/dkms/framework.conf",
        *(f"/etc/dkms/framework.conf.d/{name}" for name in root.names("/etc/dkms/framework.conf.d")),
    ]
    for path in files:
        for line in root.lines(path):
            name, _equals, value = line.strip().partition("=")
            if name == "mok_certificate" and value.strip("\"' ").startswith("/"):
                return str(value.strip("\"' "))
    usual = "/var/lib/shim-signed/mok/MOK.der" if distribution == "ubuntu" else "/var/lib/dkms/mok.pub"
    return usual if root.exists(usual) else None


def _der(data: bytes | None) -> bytes | None:
    if data is None or b"-----BEGIN CERTIFICATE-----" not in data:
        return data
    try:
        return ssl.PEM_cert_to_DER_cert(data.decode("ascii", "replace").strip())
    except ValueError:
        return None
