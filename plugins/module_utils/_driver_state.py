"""What is true on the host already, and how it differs from the choice."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._driver_branches import branch_number
from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case
from ansible_collections.gpufleet.host.plugins.module_utils._driver_choice import Choice
from ansible_collections.gpufleet.host.plugins.module_utils._driver_fabric import fabric_differences
from ansible_collections.gpufleet.host.plugins.module_utils._driver_packages import signed_by_distribution

# What systemctl says of a unit that starts with the host.
_STARTS = ("enabled", "enabled-runtime", "static", "alias", "generated")


def right_version(choice: Choice, version: str | None) -> bool:
    """Whether a driver version is the wished one, or of the wished branch."""
    if version is None:
        return False
    return bool(version == choice.version if choice.version else branch_number(version) == choice.branch)


def ready(case: Case, choice: Choice, plan: dict[str, Any]) -> dict[str, bool]:
    """Return which parts are true already; the role acts by the same words."""
    parts = {
        "source": case.ours,
        "packages": _packages_ready(case, plan),
        "modules": _modules_ready(case, choice, plan["kernels"]),
        "loaded": _loaded_ready(case, choice),
        "services": _services_ready(case, plan["services"]),
        "mig": not plan["mig"]["changes"],
    }
    return {**parts, "all": all(parts.values())}


def _packages_ready(case: Case, plan: dict[str, Any]) -> bool:
    if plan["conflicts"] or set(case.system.get("packages_broken") or []) & set(case.packages):
        return False
    return all(installed(case, item) for item in plan["packages"])


def installed(case: Case, item: str) -> bool:
    """Whether a package of the plan, ``name`` or ``name=version`` (for DNF ``name-version``), is installed."""
    if case.system["os_family"] == "RedHat":
        return item in case.packages or any(
            fnmatchcase(f"{name}-{version}", item) for name, version in case.packages.items()
        )
    name, _equals, wanted = item.partition("=")
    if name.startswith("linux-headers-"):
        return name in (case.system.get("kernel_packages") or []) or name[14:] in (case.system.get("headers") or [])
    version = case.packages.get(name)
    return version is not None and (not wanted or fnmatchcase(version.split(":", 1)[-1], wanted))


def _modules_ready(case: Case, choice: Choice, kernels: list[str]) -> bool:
    return bool(kernels) and all(_module_ready(case, choice, kernel) for kernel in kernels)


def _module_ready(case: Case, choice: Choice, kernel: str) -> bool:
    version = case.driver["on_disk"].get(kernel)
    flavour = (case.driver.get("on_disk_flavour") or {}).get(kernel)
    user_space = case.driver["user_space"]
    return (
        right_version(choice, version)
        and flavour in (None, choice.flavour)
        and (user_space is None or user_space == version)
    )


def _loaded_ready(case: Case, choice: Choice) -> bool:
    if case.system["container"]:
        return True  # nothing is loaded from inside
    loaded, on_disk = case.driver["loaded"], case.driver["on_disk"].get(case.system["kernel"])
    same = on_disk is None or loaded == on_disk
    return right_version(choice, loaded) and same and case.driver["flavour"] in (None, choice.flavour)


def _services_ready(case: Case, wished: dict[str, bool]) -> bool:
    if case.system["service_manager"] != "systemd":
        return True  # left out by name
    return all(_service_ready(case, unit, on) for unit, on in wished.items())


def _service_ready(case: Case, unit: str, on: bool) -> bool:
    found = (case.facts.get("units") or {}).get(unit) or {}
    starts = found.get("enabled") in _STARTS
    # In a container there is nothing that these daemons could serve.
    runs = found.get("active") == "active" or case.system["container"]
    return (starts and runs) if on else found.get("enabled") != "enabled"


def differences(case: Case, choice: Choice) -> list[str]:
    """Return how the host's driver differs from the choice, a sentence each; none where there is no driver yet."""
    driver, found = case.driver, []
    loaded, kernel = driver["loaded"], case.system["kernel"]
    on_disk = driver["on_disk"].get(kernel)
    if loaded and not right_version(choice, loaded):
        found.append(f"Driver {loaded} is loaded, and {choice.version or f'branch {choice.branch}'} is planned.")
    if loaded and driver["flavour"] and driver["flavour"] != choice.flavour:
        found.append(f"The loaded module is the {driver['flavour']} one, and the {choice.flavour} one is planned.")
    if loaded and on_disk and loaded != on_disk:
        found.append(f"Driver {loaded} is loaded, and {on_disk} is on disk.")
    if loaded and driver["user_space"] and loaded != driver["user_space"]:
        found.append(f"Driver {loaded} is loaded, and user space is {driver['user_space']}.")
    newest = case.system["kernel_newest"]
    if loaded and newest and newest != kernel and newest not in driver["on_disk"]:
        found.append(f"The newest kernel {newest} has no NVIDIA module, so the next start has no driver.")
    if driver.get("origin") == "runfile":
        found.append("The driver was installed by NVIDIA's .run installer, which no package manager keeps up to date.")
    return found + (fabric_differences(case) if loaded else [])


# --- reboot ----------------------------------------------------------------------------------------------------------

# The driver's own daemons; the kernel cuts a name to 15 characters.
_DAEMONS = (
    "nvidia-persiste",
    "nv-fabricmanage",
    "nvidia-imex",
    "nvidia-powerd",
    "nv-hostengine",
    "dcgm-exporter",
    "nvlsm",
)
# A login screen that nobody sits at.
_GREETERS = ("root", "gdm", "Debian-gdm", "gdm-greeter", "sddm", "lightdm")
_SCREENS = ("Xorg", "X", "Xwayland", "gnome-shell", "kwin_wayland", "sddm-greeter", "lightdm-gtk-gre")


# The module takes this option by one name and shows it by another; older ones show the first.
_SHOWN_AS = {"RestrictProfilingToAdminUsers": "RmProfilingAdminOnly"}


def reboot(case: Case, secure_boot: dict[str, Any], options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return whether a reboot is due for the driver's sake, why, and what stands against it."""
    reasons = [] if case.system["container"] else [*_reasons(case, secure_boot), *_options_apart(case, options or {})]
    blockers = [_process(process) for process in case.facts["gpu_processes"] if not _harmless(process)]
    consent = case.wish("reboot") == "if_needed"
    return {
        "required": bool(reasons),
        "reasons": reasons,
        "blockers": blockers,
        "allowed": consent and (not blockers or case.is_wished("force")),
    }


def _reasons(case: Case, secure_boot: dict[str, Any]) -> list[dict[str, str]]:
    driver, system = case.driver, case.system
    loaded, kernel = driver["loaded"], system["kernel"]
    on_disk, reasons = driver["on_disk"].get(kernel), []
    if loaded and on_disk and loaded != on_disk:
        reasons.append(_reason("loaded_differs", f"driver {loaded} is loaded, and {on_disk} is on disk"))
    if driver["nouveau"] and on_disk:
        reasons.append(_reason("nouveau_loaded", f"nouveau is loaded, and the NVIDIA driver {on_disk} on disk is not"))
    elif on_disk and not loaded:
        reasons.append(_reason("not_loaded", f"the NVIDIA driver {on_disk} is on disk and not loaded"))
    if kernel and system["kernels_installed"] and kernel not in system["kernels_installed"]:
        reasons.append(_reason("kernel_removed", f"the running kernel {kernel} has been removed from disk"))
    elif not on_disk and not loaded and driver["on_disk"].get(system["kernel_newest"]):
        newest = system["kernel_newest"]
        reasons.append(_reason("other_kernel", f"the module is there for kernel {newest}, and {kernel} runs"))
    if secure_boot["action"] == "pending":
        reasons.append(_reason("mok_pending", "the key that signs the module waits to be enrolled at the console"))
    return reasons


def _options_apart(case: Case, options: dict[str, Any]) -> list[dict[str, str]]:
    """Return a reason where the loaded module runs with other options; only numbers can be compared."""
    shown, apart = case.driver.get("parameters") or {}, []
    for option, wished in options.items():
        name = option[len("NVreg_") :] if option.startswith("NVreg_") else option
        runs_with = _number(shown.get(name, shown.get(_SHOWN_AS.get(name, ""))))
        if None not in (runs_with, _number(wished)) and runs_with != _number(wished):
            apart.append(f"{option}={wished}")
    text = f"the loaded module runs without {' and '.join(apart)} (nvidia_driver_module_options)"
    return [_reason("options_differ", text)] if apart else []


def _number(value: Any) -> int | None:
    """Return what the kernel makes of an option, which it shows without its sign."""
    try:
        return int(str(value), 0) % 2**32
    except ValueError:
        return None


def _reason(code: str, text: str) -> dict[str, str]:
    return {"code": code, "text": text}


def _harmless(process: dict[str, Any]) -> bool:
    name, user = str(process["name"] or "")[:15], process.get("user")
    return name in _DAEMONS or (name in _SCREENS and user in _GREETERS)


def _process(process: dict[str, Any]) -> str:
    who = process.get("user") or (f"user {process['uid']}" if process["uid"] is not None else "an unknown user")
    where = f" in container {str(process['container'])[:12]}" if process.get("container") else ""
    return f"process {process['pid']} ({process['name'] or 'unknown'}) of {who}{where}"


# --- Secure Boot -----------------------------------------------------------------------------------------------------


def secure_boot(case: Case, choice: Choice | None) -> dict[str, Any]:
    """Return the state, who signs the chosen module, and what is left to do for it."""
    state = case.facts["secure_boot"]
    mok = case.facts.get("mok") or {}
    if not state or choice is None or case.system["container"]:  # from inside nothing is signed, enrolled or loaded
        return {"state": state, "signed_by": "none", "action": "none"}
    if signed_by_distribution(case, choice):
        return {"state": state, "signed_by": "distribution", "action": "none"}
    action = "none" if mok.get("enrolled") else "pending" if mok.get("pending") else "stage"
    return {"state": state, "signed_by": "mok", "action": action}


# --- MIG -------------------------------------------------------------------------------------------------------------

_PROFILE = re.compile(r"\d+g\.\d+gb(\+(me(\.all)?|gfx))?(-me)?")


def mig(case: Case, capable: dict[str, bool]) -> dict[str, Any]:
    """Return the wished MIG geometry and which GPUs change their mode; the geometry itself only the driver knows."""
    wished = case.wish("mig")
    if not _is_geometry(wished):
        case.refuse(
            "Found something that is no list of MIG wishes",
            "mig",
            "write a list like [{gpus: all, profiles: [1g.10gb, 1g.10gb]}]",
        )
        return {"wished": [], "changes": []}
    changes: list[str] = []
    for row in wished:
        changes += _mig_changes(case, row, capable)
    return {"wished": list(wished), "changes": changes}


def _is_geometry(wished: Any) -> bool:
    return isinstance(wished, (list, tuple)) and all(
        isinstance(row, dict)
        and (row.get("gpus") == "all" or isinstance(row.get("gpus"), list))
        and isinstance(row.get("profiles"), list)
        and all(_PROFILE.fullmatch(str(profile)) for profile in row["profiles"])
        for row in wished
    )


def _mig_changes(case: Case, row: dict[str, Any], capable: dict[str, bool]) -> list[str]:
    gpus = case.gpus if row["gpus"] == "all" else []
    for item in row["gpus"] if row["gpus"] != "all" else []:
        found = [gpu for index, gpu in enumerate(case.gpus) if item in (index, str(index), gpu["uuid"])]
        if not found:
            case.refuse(f"Found no GPU {item}", "mig", "use an index from 0, a UUID, or all")
        gpus = gpus + found
    unable = [gpu for gpu in gpus if row["profiles"] and not capable.get(gpu["device_id"] or "", False)]
    if unable:
        case.refuse(
            f"Found {case.named(unable)}, which cannot be cut into MIG instances",
            "mig",
            "take these GPUs out of the list",
        )
    on = bool(row["profiles"])
    return [
        f"turn MIG {'on' if on else 'off'} on the GPU at {gpu['pci_address']}"
        for gpu in gpus
        if gpu not in unable and gpu["mig"] is not on
    ]
