"""The driver's plan: which NVIDIA driver a host gets, from where, and what is left to do for it.

A pure function of facts and wishes. docs/data.md names every field.
"""

from __future__ import annotations

import copy
import re
from datetime import date
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._driver_branches import (
    END_OF_LIFE_NOTICE_DAYS,
    branch_number,
    branch_of,
)
from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case
from ansible_collections.gpufleet.host.plugins.module_utils._driver_choice import Choice, adopted, choose, place
from ansible_collections.gpufleet.host.plugins.module_utils._driver_fabric import (
    FABRIC_UNIT,
    IMEX_UNIT,
    fabric_packages,
    fabric_plan,
    fabric_wished,
    imex_wished,
)
from ansible_collections.gpufleet.host.plugins.module_utils._driver_packages import (
    components,
    conflicts,
    driver_packages,
    kernel_packages,
    kernels,
    repository,
    signed_by_distribution,
    streams,
    ubuntu_flavours,
    with_versions,
)
from ansible_collections.gpufleet.host.plugins.module_utils._driver_pins import pins
from ansible_collections.gpufleet.host.plugins.module_utils._driver_sources import (
    BLOCK,
    BUILD_FAILURES,
    DEBIAN_MODULES,
    DISTRIBUTION,
    DRIVER_BYTES,
)
from ansible_collections.gpufleet.host.plugins.module_utils._driver_state import (
    differences,
    installed,
    mig,
    ready,
    reboot,
    right_version,
    secure_boot,
)
from ansible_collections.gpufleet.host.plugins.module_utils._gpu_ids import chip_of

PERSISTENCE_UNIT = "nvidia-persistenced.service"
# The units that this plan speaks of, for the look.
UNITS = (PERSISTENCE_UNIT, FABRIC_UNIT, IMEX_UNIT)
# What keeps nouveau and its successor from the GPU.
_BLACKLIST = ["nouveau", "nova", "nova_core", "nova_drm"]

# Every field, as it is where nothing is planned.
_NOTHING: dict[str, Any] = {
    "action": "none",
    "reason": None,
    "branch": None,
    "version": "",
    "flavour": None,
    "source": None,
    "set": None,
    "repository": None,
    "components": {"needed": [], "missing": []},
    "pins": [],
    "streams": None,
    "packages": [],
    "conflicts": [],
    "module": None,
    "kernels": [],
    "modprobe": {"blacklist": [], "options": {}},
    "services": {},
    "units_conditions": {},
    "expect": {"branch": None, "version": "", "flavour": None},
    "block": [],
    "ready": dict.fromkeys(("source", "packages", "modules", "loaded", "services", "mig", "all"), True),
    "differs": [],
    "end_of_life": {"date": None, "warning": None},
    "mig": {"wished": [], "changes": []},
    "fabric_manager": {"wished": False, "version": ""},
    "downloads": {"bytes": 0, "unpacked_bytes": 0},
    "changes": [],
}


def plan_driver(case: Case) -> dict[str, Any]:
    """Return the plan's ``driver``; what cannot be is refused through the case."""
    if case.wishes["nvidia_driver_state"] == "absent":
        return {**_nothing(case), "action": "remove", "reason": "nvidia_driver_state is absent"}
    elsewhere = place(case)
    if elsewhere is not None:
        return {**_nothing(case), "action": elsewhere[0], "reason": elsewhere[1]}
    if case.driver.get("origin") == "runfile" and not adopted(case):
        case.refuse(
            "Found a driver that NVIDIA's .run installer put there, over which packages must not be installed",
            "adopt",
            "use `nvidia-uninstall` on the host to remove it, or keep it loaded with nvidia_driver_adopt true",
        )
        return {**_nothing(case), "action": "refuse", "reason": "a .run driver is in the way"}
    if adopted(case):
        return _keep(case)
    choice = choose(case)
    plan = _install(case, choice)
    if case.refused:
        case.warnings.clear()  # they are about a plan that there is not
        return {**_nothing(case), "action": "refuse", "reason": "what is wished cannot be"}
    return plan


def _nothing(case: Case) -> dict[str, Any]:
    state = secure_boot(case, None)
    return {
        **copy.deepcopy(_NOTHING),
        "reboot": reboot(case, state) | {"required": False, "reasons": []},
        "secure_boot": state,
    }


def _keep(case: Case) -> dict[str, Any]:
    """Return the plan for a driver that works and is not ours: what it is, and how it differs from the wish."""
    loaded = case.driver["loaded"]
    # What the wish would have been is only for telling; what it cannot be is no reason to refuse a host that works.
    silent = Case(case.facts, case.wishes, lambda _found, _wish, _remedy: None)
    choice = choose(silent)
    state = secure_boot(case, None)
    branch = branch_number(loaded)
    return {
        **copy.deepcopy(_NOTHING),
        "action": "keep",
        "reason": f"driver {loaded} works and was not installed by this role (nvidia_driver_adopt)",
        "branch": branch,
        "flavour": case.driver["flavour"],
        "expect": {"branch": branch, "version": loaded, "flavour": case.driver["flavour"]},
        "kernels": case.kernels,
        "differs": differences(case, choice) if not silent.refused else [],
        "end_of_life": _end_of_life(case, branch),
        "reboot": reboot(case, state),
        "secure_boot": state,
        "mig": mig(case, _capable(case)),
    }


def _capable(case: Case) -> dict[str, bool]:
    chips = {gpu["device_id"] or "": chip_of(gpu["device_id"] or "") for gpu in case.gpus}
    return {device: bool(chip and chip.mig_capable) for device, chip in chips.items()}


def _install(case: Case, choice: Choice) -> dict[str, Any]:
    fabric = fabric_wished(case)
    drivers = driver_packages(case, choice)
    extra = fabric_packages(case, choice, fabric)
    services = _services(case, fabric)
    options = _options(case)
    state = secure_boot(case, choice)
    source = repository(case, choice)
    plan: dict[str, Any] = {
        "action": "install",
        "reason": None,
        "branch": choice.branch,
        "version": choice.version,
        "flavour": choice.flavour,
        "source": choice.source,
        "set": choice.package_set,
        "repository": source,
        "components": components(case, choice),
        "pins": pins(case, choice, source),
        "streams": streams(case, choice),
        "packages": [
            *kernel_packages(case, choice),
            *with_versions(case, choice, drivers),
            *with_versions(case, _as_installed(case, choice), extra),
        ],
        "conflicts": conflicts(case, choice, [*drivers, *extra]),
        "module": _module(case, choice),
        "kernels": kernels(case, choice),
        "modprobe": {"blacklist": list(_BLACKLIST), "options": options},
        "services": services,
        "units_conditions": _conditions(services),
        "expect": {"branch": choice.branch, "version": choice.version, "flavour": choice.flavour},
        "block": _block(case, choice),
        "differs": differences(case, choice),
        "end_of_life": _end_of_life(case, choice.branch),
        "secure_boot": state,
        "reboot": reboot(case, state, options),
        "mig": mig(case, _capable(case)),
        "fabric_manager": fabric_plan(_as_installed(case, choice), fabric),
    }
    plan["ready"] = ready(case, choice, plan)
    _check_kernels(case)
    _check_held(case, plan)
    _warn(case, choice)
    return {**plan, **_forecast(plan)}


def _check_kernels(case: Case) -> None:
    if not case.kernels and not case.system["container"]:
        case.refuse(
            f"Found the kernel {case.system['kernel']} running and no kernel on disk, so that no module can be built",
            "state",
            "install the distribution's own kernel, start it, and run again",
        )


def _check_held(case: Case, plan: dict[str, Any]) -> None:
    """Refuse packages that somebody holds where they would have to change; apt would say it in more words."""
    names = {item.partition("=")[0] for item in plan["packages"] if not installed(case, item)} | set(plan["conflicts"])
    held = sorted(names & set(case.driver.get("held") or []))
    if held:
        case.refuse(
            f"Found {', '.join(held)} held by apt-mark, which another version would replace",
            "branch",
            f"use `apt-mark unhold {' '.join(held)}` on the host first",
        )


def _warn(case: Case, choice: Choice) -> None:
    own = choice.source == DISTRIBUTION
    broken = BUILD_FAILURES.get((*case.release, choice.branch, choice.flavour)) if own else None
    wrong = [kernel for kernel in case.kernels if broken and _release(kernel) >= _release(broken)]
    if wrong and any(case.driver["on_disk"].get(kernel) is None for kernel in wrong):
        case.warnings.append(
            f"{case.pretty}'s own {choice.flavour} module {choice.branch} does not build for kernel "
            f"{' and '.join(wrong)} (known from {broken} on); nvidia_driver_source=nvidia has one that does."
        )
    if own and case.release[0] == "ubuntu" and not ubuntu_flavours(case):
        case.warnings.append(
            "No kernel meta package that Ubuntu has signed NVIDIA modules for is installed (linux-image-generic and "
            "others), so the module is built here by DKMS."
        )


def _release(kernel: str) -> list[int]:
    """Return a kernel's upstream version: 6.12.107 for 6.12.107+deb13-amd64."""
    return [int(number) for number in re.findall(r"\d+", kernel)[:3]]


def _as_installed(case: Case, choice: Choice) -> Choice:
    """Return the choice bound to the driver that is installed and stays: Fabric Manager's version must equal it."""
    user_space = case.driver["user_space"]
    stays = not choice.version and right_version(choice, user_space)
    return choice._replace(version=user_space) if stays else choice


def _module(case: Case, choice: Choice) -> str:
    if choice.source == DISTRIBUTION and case.release[0] == "debian":
        return str(DEBIAN_MODULES[choice.flavour])
    return "nvidia"


def _options(case: Case) -> dict[str, Any]:
    wished = case.wish("module_options")
    if isinstance(wished, dict):
        # The module takes numbers: `true` it would refuse, and then not load.
        return {name: int(value) if isinstance(value, bool) else value for name, value in wished.items()}
    case.refuse("Found something that is no mapping", "module_options", "write NAME: value, a line each")
    return {}


def _services(case: Case, fabric: bool) -> dict[str, bool]:
    services = {PERSISTENCE_UNIT: case.is_wished("persistence")}
    if fabric:
        services[FABRIC_UNIT] = True
    if imex_wished(case):
        services[IMEX_UNIT] = True
    return services


def _conditions(services: dict[str, bool]) -> dict[str, list[str]]:
    """Return conditions for drop-ins: a unit that manages the driver waits for no driver that is not loaded."""
    return {
        unit: ["ConditionPathExists=/proc/driver/nvidia/version"]
        for unit, on in services.items()
        if on and unit != PERSISTENCE_UNIT
    }


def _block(case: Case, choice: Choice) -> list[str]:
    """Return what unattended-upgrades leaves alone.

    Signed modules come with the kernel they are for. If only they were blocked, a newer kernel would come without
    its module, and so the kernel's meta packages wait with them.
    """
    if case.system["os_family"] == "RedHat":
        return []
    metas = []
    if signed_by_distribution(case, choice):
        metas = [f"linux-(image-|headers-)?{flavour.replace('.', '[.]')}$" for flavour in ubuntu_flavours(case)]
    return [*BLOCK, *metas]


def _end_of_life(case: Case, number: int | None) -> dict[str, str | None]:
    """Return when the branch ends, and a sentence where that is past or near."""
    known = branch_of(number)
    end = known.end_of_life if known else None
    today = _today(case)
    if end is None or today is None:
        return {"date": end, "warning": None}
    days = (date.fromisoformat(end) - today).days
    if days < 0:
        text = f"NVIDIA has ended driver branch {number} on {end}: it gets no more security fixes."
    elif days <= END_OF_LIFE_NOTICE_DAYS:
        text = f"NVIDIA ends driver branch {number} on {end}, in {days} days."
    else:
        return {"date": end, "warning": None}
    case.warnings.append(text)
    return {"date": end, "warning": text}


def _today(case: Case) -> date | None:
    """Return the host's day, None where its clock says none."""
    try:
        return date.fromisoformat(str(case.facts["time"])[:10])
    except ValueError:
        return None


def _forecast(plan: dict[str, Any]) -> dict[str, Any]:
    """Return what the role will do in words, and what it downloads for that."""
    done, changes = plan["ready"], []
    size, unpacked = DRIVER_BYTES[plan["set"]]
    what = f"NVIDIA driver {plan['version'] or plan['branch']} ({plan['flavour']}, {plan['set']} set)"
    where = "NVIDIA's repository" if plan["repository"] else "the distribution's own packages"
    if not done["source"]:
        changes.append(f"set up the source and pin of the {what} from {where}")
    if not done["packages"]:
        changes.append(f"install the {what} from {where}")
    elif not done["modules"]:
        changes.append(f"build the module of the {what} for {' and '.join(plan['kernels']) or 'the kernels'}")
    if done["packages"] and not done["services"]:
        changes.append(f"set the services {', '.join(plan['services'])}")
    return {
        "changes": [*changes, *plan["mig"]["changes"]],
        "downloads": {"bytes": 0 if done["packages"] else size, "unpacked_bytes": 0 if done["packages"] else unpacked},
    }
