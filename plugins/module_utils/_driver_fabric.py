"""NVSwitches: which hosts need Fabric Manager, nvlsm or IMEX, and by which packages."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case, as_bool
from ansible_collections.gpufleet.host.plugins.module_utils._driver_choice import Choice, needs_nvlsm
from ansible_collections.gpufleet.host.plugins.module_utils._driver_sources import (
    DISTRIBUTION,
    IMEX_DEVICES,
    LAST_SUFFIXED_FABRIC,
    NVIDIA,
    NVLINK5_DEVICES,
    NVLINK5_KERNEL,
    UBUNTU_FABRIC,
)

FABRIC_UNIT, IMEX_UNIT = "nvidia-fabricmanager.service", "nvidia-imex.service"


def fabric_wished(case: Case) -> bool:
    """Whether Fabric Manager belongs here: by wish, else where there are NVSwitches to manage."""
    wished = as_bool(case.wish("fabric_manager"))
    if wished and not (case.facts["nvswitches"] or _nvlink5(case)):
        case.refuse(
            "Found no NVSwitch, without which Fabric Manager does not start",
            "fabric_manager",
            "set nvidia_driver_fabric_manager to auto",
        )
    if wished is not None:
        return bool(wished)
    return bool(case.facts["nvswitches"]) or needs_nvlsm(case)


def imex_wished(case: Case) -> bool:
    """Whether the GPUs share memory with other nodes of their rack."""
    return any(gpu["device_id"] in IMEX_DEVICES for gpu in case.gpus)


def _nvlink5(case: Case) -> bool:
    return any(gpu["device_id"] in NVLINK5_DEVICES for gpu in case.gpus)


def fabric_packages(case: Case, choice: Choice, wished: bool) -> list[tuple[str, bool]]:
    """Return (package, whether its version is the driver's), refused where the source has none."""
    found: list[tuple[str, bool]] = []
    imex = imex_wished(case)
    if not wished and not imex:
        return found
    _check_source(case, choice, wished, imex)
    if wished and _nvlink5(case):
        _check_kernel(case)
    suffixed = choice.source == DISTRIBUTION or choice.branch <= LAST_SUFFIXED_FABRIC
    suffix = f"-{choice.branch}" if suffixed else ""
    if wished:
        found.append((f"nvidia-fabricmanager{suffix}", True))
        if _nvlink5(case):
            found.append(("nvlsm", False))
    if imex:
        found.append((f"nvidia-imex{suffix}", True))
    return found


def _check_source(case: Case, choice: Choice, wished: bool, imex: bool) -> None:
    if choice.source != DISTRIBUTION:
        return
    what = " and ".join((["Fabric Manager"] if wished else []) + (["IMEX"] if imex else []))
    if case.release[0] != "ubuntu" or choice.branch not in UBUNTU_FABRIC:
        case.refuse(
            f"Found no {what} {choice.branch} among {case.pretty}'s own packages, which these GPUs need",
            "source",
            f"set nvidia_driver_source to {NVIDIA}",
        )
    elif wished and _nvlink5(case):
        case.refuse(
            f"Found no nvlsm among {case.pretty}'s own packages, without which the NVSwitches of "
            f"{case.named(case.gpus)} do not start",
            "source",
            f"set nvidia_driver_source to {NVIDIA}",
        )


def _check_kernel(case: Case) -> None:
    kernel = case.system["kernel_newest"] or ""
    version = tuple(int(number) for number in re.findall(r"\d+", kernel)[:2])
    if version and version < NVLINK5_KERNEL and case.system["os_family"] != "RedHat":
        case.refuse(
            f"Found the kernel {kernel}, and the NVSwitches of {case.named(case.gpus)} need "
            f"{'.'.join(map(str, NVLINK5_KERNEL))} or newer",
            "fabric_manager",
            "install a newer kernel of the distribution (Ubuntu's linux-image-generic-hwe), start it, and run again",
        )


def fabric_differences(case: Case) -> list[str]:
    """Return what is wrong with the NVSwitches of a driver that is there."""
    if not (case.facts["nvswitches"] or needs_nvlsm(case)):
        return []
    found = [version for name, version in case.packages.items() if name.startswith("nvidia-fabricmanager")]
    if not found:
        return ["There are NVSwitches and no Fabric Manager, so CUDA would answer with error 802."]
    loaded = case.driver["loaded"]
    wrong = [version for version in found if loaded and not version.split(":", 1)[-1].startswith(f"{loaded}-")]
    return [f"Fabric Manager is {version}, and driver {loaded} is loaded; the two must be equal." for version in wrong]


def fabric_plan(choice: Choice, wished: bool) -> dict[str, Any]:
    """Return the plan's ``fabric_manager``: its version is the driver's, exactly, once there is one."""
    return {"wished": wished, "version": choice.version if wished else ""}
