"""Which driver a host shall have: the place it is, branch, exact version, flavour, source and set."""

from __future__ import annotations

import re
from typing import NamedTuple

from ansible_collections.gpufleet.host.plugins.module_utils._driver_branches import (
    BOTH,
    DEFAULT_BRANCH,
    GENERATIONS,
    OPEN,
    OPEN_BY_DEFAULT_FROM,
    PROPRIETARY,
    branch_number,
    branch_of,
    generation_of,
    known_branches,
    newest_production,
)
from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case, as_bool
from ansible_collections.gpufleet.host.plugins.module_utils._driver_sources import (
    DISTRIBUTION,
    NVIDIA,
    NVLINK5_DEVICES,
    OWN_BRANCHES,
    REPOSITORIES,
    UBUNTU_TRANSITIONAL,
)


class Choice(NamedTuple):
    """What the host shall have."""

    branch: int
    version: str
    flavour: str
    source: str
    package_set: str


def place(case: Case) -> tuple[str, str] | None:
    """Return (action, reason) where this role installs no driver, None where one belongs."""
    if case.system.get("jetson"):
        return "skip", "a Jetson's driver is part of its L4T image, so it is left alone"
    if case.system["wsl"]:
        return "skip", "below WSL2 the driver is Windows', so no Linux driver is installed here"
    if case.system["container"] and case.is_wished("in_container"):
        return None
    if case.system["container"] and case.facts["gpus"]:
        return "skip", "a container uses the driver of its host (nvidia_driver_in_container installs one all the same)"
    if not case.facts["gpus"]:
        return "none", "no NVIDIA GPU was found"
    if not case.gpus:
        return "skip", "every GPU is bound to vfio-pci for virtual machines, which bring their own driver"
    if any(gpu.get("vgpu") for gpu in case.gpus):
        return "skip", "a vGPU needs NVIDIA's licensed guest driver, which no public repository has"
    return None


def adopted(case: Case) -> bool:
    """Whether a driver works that this role did not install, and shall stay."""
    if case.ours or not case.is_wished("adopt") or case.system["container"]:
        return False
    return case.driver["loaded"] is not None and all(gpu["kernel_driver"] == "nvidia" for gpu in case.gpus)


def choose(case: Case) -> Choice:
    """Return the choice; what cannot be is refused, and then no field is to be relied upon."""
    _check_words(case)
    flavours = _flavours_of_gpus(case)
    source = _source(case)
    branch = _branch(case, source)
    flavour = _flavour(case, branch, flavours)
    return Choice(branch, str(case.wish("version") or ""), flavour, source, _set(case))


# Older branches are over, and no source has them.
_OLDEST_SERVED = 535
_WORDS: dict[str, tuple[object, ...]] = {
    "flavour": ("auto", *BOTH),
    "source": ("auto", NVIDIA, DISTRIBUTION),
    "set": ("auto", "compute", "full"),
    "fabric_manager": ("auto", True, False),
    "reboot": ("never", "if_needed"),
}


def _check_words(case: Case) -> None:
    for name, allowed in _WORDS.items():
        if case.wish(name) not in allowed and not (True in allowed and as_bool(case.wish(name)) is not None):
            words = ", ".join(str(word).lower() for word in allowed)
            case.refuse("Found no such choice", name, f"set it to one of {words}")


# --- flavour ---------------------------------------------------------------------------------------------------------


def _flavours_of_gpus(case: Case) -> tuple[str, ...]:
    """Return the flavours that drive every GPU; a box that no one driver can serve is refused."""
    left = tuple(flavour for flavour in BOTH if all(flavour in case.generation(gpu).flavours for gpu in case.gpus))
    if left:
        return left
    old = [gpu for gpu in case.gpus if OPEN not in case.generation(gpu).flavours]
    new = [gpu for gpu in case.gpus if PROPRIETARY not in case.generation(gpu).flavours]
    case.refuse(
        f"Found {case.named(old)}, which only the proprietary module drives, beside {case.named(new)}, "
        "which only the open one does",
        "flavour",
        "take one kind out or bind it to vfio-pci, as a host can load one driver only",
    )
    return ()


def _flavour(case: Case, branch: int, by_gpu: tuple[str, ...]) -> str:
    known = branch_of(branch)
    by_branch = known.flavours if known else BOTH
    possible = [flavour for flavour in by_gpu if flavour in by_branch]
    wished = case.wish("flavour")
    if wished in BOTH:
        _check_flavour(case, wished, branch, by_gpu, by_branch)
        return str(wished)
    by_default = branch >= OPEN_BY_DEFAULT_FROM or PROPRIETARY not in possible
    return str(OPEN if OPEN in possible and by_default else PROPRIETARY)


def _check_flavour(case: Case, wished: str, branch: int, by_gpu: tuple[str, ...], by_branch: tuple[str, ...]) -> None:
    misfits = [gpu for gpu in case.gpus if wished not in case.generation(gpu).flavours]
    if by_gpu and misfits:
        other = PROPRIETARY if wished == OPEN else OPEN
        case.refuse(
            f"Found {case.named(misfits)}, which only the {other} module drives",
            "flavour",
            f"set nvidia_driver_flavour to auto or {other}",
        )
    elif wished not in by_branch:
        case.refuse(
            f"Found no {wished} module in driver {branch}, which NVIDIA packages as {' and '.join(by_branch)} only",
            "flavour",
            f"set nvidia_driver_flavour to auto, or nvidia_driver_branch to {DEFAULT_BRANCH}",
        )


# --- source ----------------------------------------------------------------------------------------------------------


def _source(case: Case) -> str:
    wished = case.wish("source")
    if case.release not in REPOSITORIES:
        case.refuse(
            f"Found {case.pretty}, of which no driver packages are known",
            "source",
            "install a driver by hand, which is then kept (nvidia_driver_adopt), or use a system that README.md lists",
        )
    if wished == DISTRIBUTION and case.release not in OWN_BRANCHES:
        case.refuse(
            f"Found {case.pretty}, which has no NVIDIA driver of its own",
            "source",
            "set nvidia_driver_source to auto or nvidia",
        )
    if wished in (NVIDIA, DISTRIBUTION):
        return str(wished)
    return str(DISTRIBUTION if case.release[0] == "ubuntu" and not needs_nvlsm(case) else NVIDIA)


def needs_nvlsm(case: Case) -> bool:
    """Whether the GPUs' NVSwitches are the fourth generation's, which are no PCI devices of NVIDIA's.

    One GPU alone has no switch to share, as in a virtual machine with a single one.
    """
    return sum(gpu["device_id"] in NVLINK5_DEVICES for gpu in case.gpus) > 1


# --- branch ----------------------------------------------------------------------------------------------------------


def _branch(case: Case, source: str) -> int:
    version, wished = str(case.wish("version") or ""), str(case.wish("branch"))
    if version and not re.fullmatch(r"\d{3}\.\d+(\.\d+)?", version):
        case.refuse("Found no driver version in these words", "version", "write it whole, like 580.178.04")
        version = ""
    if wished != "auto" and not re.fullmatch(r"\d{3}", wished):
        case.refuse("Found no such branch", "branch", f"set it to auto or one of {known_branches()}")
        return int(DEFAULT_BRANCH)
    if version and wished not in ("auto", str(branch_number(version))):
        case.refuse(
            f"Found branch {wished} wished beside a version of branch {branch_number(version)}",
            "version",
            "set nvidia_driver_branch to auto, or leave nvidia_driver_version empty",
        )
    number = int(wished) if wished != "auto" else int(branch_number(version) or _automatic_branch(case, source))
    _check_branch(case, number, source)
    return number


def _automatic_branch(case: Case, source: str) -> int:
    own = OWN_BRANCHES.get(case.release, {})
    if source == DISTRIBUTION and own and DEFAULT_BRANCH not in own:
        return int(max(own))
    newer = [gpu for gpu in case.gpus if _generation_name(case, gpu) == "newer than the table"]
    return int(newest_production() if newer else DEFAULT_BRANCH)


def _generation_name(case: Case, gpu: dict[str, object]) -> str:
    return str(generation_of(gpu, case.system["architecture"]))


def _check_branch(case: Case, number: int, source: str) -> None:
    known = branch_of(number)
    if known is None:
        case.refuse(f"Found no driver branch {number}", "branch", f"set it to auto or one of {known_branches()}")
    elif not known.packaged:
        case.refuse(
            f"Found no packages of driver {number} anywhere yet",
            "branch",
            f"set it to auto or one of {known_branches()}",
        )
    elif source == DISTRIBUTION:
        _check_own_branch(case, number)
    elif case.release in REPOSITORIES and number < REPOSITORIES[case.release].first_branch:
        case.refuse(
            f"Found no driver {number} in NVIDIA's repository for {case.pretty}",
            "branch",
            f"set nvidia_driver_branch to auto or {DEFAULT_BRANCH}, which serves every GPU since Maxwell",
        )
    _check_generations(case, number, source)


def _check_own_branch(case: Case, number: int) -> None:
    own = OWN_BRANCHES.get(case.release, {})
    if not own or number in own:
        return
    now = UBUNTU_TRANSITIONAL.get(number) if case.release[0] == "ubuntu" else None
    brings = f" (that name brings {now} there)" if now else ""
    case.refuse(
        f"Found {' and '.join(map(str, own))} among {case.pretty}'s own drivers, and no {number}{brings}",
        "branch",
        f"set nvidia_driver_branch to one of these, or nvidia_driver_source to {NVIDIA}",
    )


def _check_generations(case: Case, number: int, source: str) -> None:
    """Refuse a branch that came before or after a GPU."""
    for name in dict.fromkeys(_generation_name(case, gpu) for gpu in case.gpus):
        generation = GENERATIONS[name]
        gpus = case.named([gpu for gpu in case.gpus if _generation_name(case, gpu) == name])
        if generation.last_branch is not None and generation.last_branch < _OLDEST_SERVED:
            case.refuse(
                f"Found {gpus}, whose last driver {generation.last_branch or 'long ago'} gets no more fixes",
                "branch",
                "take the GPU out or bind it to vfio-pci",
            )
        elif generation.last_branch is not None and number > generation.last_branch:
            case.refuse(
                f"Found {gpus}, whose last driver is {generation.last_branch}",
                "branch",
                f"set nvidia_driver_branch to auto or {generation.last_branch}",
            )
        elif number < generation.first_branch:
            case.refuse(
                f"Found {gpus}, whose first driver is {generation.first_branch}, and {number} planned",
                "source" if source == DISTRIBUTION and case.wish("branch") == "auto" else "branch",
                f"set nvidia_driver_branch to auto and nvidia_driver_source to {NVIDIA}",
            )


# --- set -------------------------------------------------------------------------------------------------------------


def _set(case: Case) -> str:
    """Return the wished set; a desktop needs OpenGL and Vulkan too, also a laptop whose screen hangs on another GPU."""
    wished = case.wish("set")
    if wished in ("compute", "full"):
        return str(wished)
    return "full" if case.system.get("display") else "compute"
