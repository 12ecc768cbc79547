"""The packages of a chosen driver: repository, pins, names in order, and what must go in the same transaction."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case
from ansible_collections.gpufleet.host.plugins.module_utils._driver_choice import Choice
from ansible_collections.gpufleet.host.plugins.module_utils._driver_pins import version_glob
from ansible_collections.gpufleet.host.plugins.module_utils._driver_sources import (
    ARCHITECTURE_FOLDERS,
    BASE_URL,
    DEB_ARCHITECTURES,
    DEB_KEYRING,
    DISTRIBUTION,
    LAST_SUFFIXED,
    NVIDIA,
    NVIDIA_DEBIAN,
    NVIDIA_RHEL,
    NVIDIA_UBUNTU,
    ONLY_DEBIAN,
    ONLY_NVIDIA_DEBIAN,
    OWN_BRANCHES,
    OWN_DEBIAN,
    OWN_UBUNTU,
    REPOSITORIES,
    SHA1_BOUND,
    SQV_RELEASES,
    UBUNTU_MODULE_FLAVOURS,
    UBUNTU_SAME_KERNEL,
    UBUNTU_SERVER,
)
from ansible_collections.gpufleet.host.plugins.module_utils.env_resolve import without_password

REPOSITORY_NAME = "gpufleet-nvidia-driver"
# A package and whether its version is the driver's.
Named = tuple[str, bool]


# --- repository ------------------------------------------------------------------------------------------------------


def repository(case: Case, choice: Choice) -> dict[str, Any] | None:
    """Return what ``apt_source`` (or yum_repository) is given, None for the distribution's own packages."""
    row = REPOSITORIES.get(case.release)
    if choice.source != NVIDIA or row is None:
        return None
    for name in ("repository_url", "repository_key_url"):
        _check_address(case, name)
    folder = ARCHITECTURE_FOLDERS.get(case.system["architecture"], "x86_64")
    url = str(case.wish("repository_url") or f"{BASE_URL}/{row.folder}/{folder}").rstrip("/") + "/"
    key_url = str(case.wish("repository_key_url") or url + (row.key or DEB_KEYRING))
    fingerprints = _fingerprints(case, row.fingerprint, key_url)
    if case.system["os_family"] == "RedHat":
        return {"name": REPOSITORY_NAME, "baseurl": url, "gpgkey": key_url, "fingerprints": fingerprints}
    return {
        "name": REPOSITORY_NAME,
        "url": url,
        "suites": ["/"],
        "components": [],
        "architectures": [DEB_ARCHITECTURES.get(case.system["architecture"], "amd64")],
        "key_url": key_url,
        "fingerprints": fingerprints,
    }


def _check_address(case: Case, name: str) -> None:
    address = str(case.wish(name) or "")
    if address and not re.match(r"(https?|file)://", address):
        case.refuse(
            "Found no address in these words", name, "write it whole, like https://mirror.example/debian13/x86_64/"
        )
    elif without_password(address) != address:
        case.refuse(
            "Found a name or password inside an address, which would stand in a world-readable file",
            name,
            "take it out and write it into a file below /etc/apt/auth.conf.d on the host",
        )


def _fingerprints(case: Case, known: str | None, key_url: str) -> list[str]:
    wished = case.wish("repository_fingerprints")
    given = [str(item).replace(" ", "").upper() for item in wished] if isinstance(wished, (list, tuple)) else []
    if not isinstance(wished, (list, tuple)) or not all(re.fullmatch(r"[0-9A-F]{40}", item) for item in given):
        case.refuse(
            "Found something that is no list of key fingerprints",
            "repository_fingerprints",
            "write each as the 40 hexadecimal digits that `gpg --show-keys` prints",
        )
    elif not given and known is None:
        case.refuse(
            f"Found no published fingerprint of the key that signs NVIDIA's repository for {case.pretty} ({key_url})",
            "repository_fingerprints",
            "set nvidia_driver_repository_fingerprints to the fingerprint that you have checked yourself",
        )
    elif case.release in SQV_RELEASES and set(given) & set(SHA1_BOUND):
        case.refuse(
            f"Found a key that is bound by SHA-1, which the apt of {case.pretty} refuses",
            "repository_fingerprints",
            "leave it empty and use the repository of this release",
        )
    return given or ([known] if known else [])


def components(case: Case, choice: Choice) -> dict[str, list[str]]:
    """Return which components of the distribution's own archive are needed, and which of them are off."""
    if case.system["os_family"] == "RedHat":  # DKMS is in the one, and what it needs in the other
        return {"needed": ["epel", "crb"], "missing": []}
    if choice.source == DISTRIBUTION:
        needed = list(OWN_BRANCHES.get(case.release, {}).get(choice.branch, ()))
    else:  # NVIDIA's packages for Debian build upon some of contrib
        needed = ["contrib"] if case.release[0] == "debian" else []
    archive = case.system.get("archive")
    known = archive["components"] if archive else needed
    return {"needed": needed, "missing": [name for name in needed if name not in known]}


# --- names -----------------------------------------------------------------------------------------------------------


def driver_packages(case: Case, choice: Choice) -> list[Named]:
    """Return the driver's own packages in order, those with the driver's version marked."""
    key = (choice.package_set, choice.flavour)
    suffix = f"-{choice.branch}" if choice.branch <= LAST_SUFFIXED else ""
    if case.system["os_family"] == "RedHat":
        return [(name, True) for name in NVIDIA_RHEL[key]]
    if choice.source == NVIDIA:
        table = NVIDIA_UBUNTU if case.release[0] == "ubuntu" else NVIDIA_DEBIAN
        return [(name.format(b=suffix), True) for name in table[key]]
    if case.release[0] == "ubuntu":
        return [
            *_ubuntu_modules(case, choice),
            *((name.format(s=ubuntu_suffix(case, choice)), True) for name in OWN_UBUNTU[key]),
        ]
    # Debian's persistence daemon has a version of its own.
    return [*((name, True) for name in OWN_DEBIAN[key]), ("nvidia-persistenced", False)]


def ubuntu_suffix(case: Case, choice: Choice) -> str:
    """Return Ubuntu's suffix: a server takes the server build, and so does what has an NVSwitch."""
    server = choice.branch in UBUNTU_SERVER and (choice.package_set == "compute" or bool(case.facts["nvswitches"]))
    return f"-{choice.branch}-server" if server else f"-{choice.branch}"


def ubuntu_flavours(case: Case) -> list[str]:
    """Return the kernel flavours by the installed meta packages; none where a kernel has no signed modules."""
    metas = [
        name.split("-", 2)[2] for name in case.system.get("kernel_packages") or [] if name.startswith("linux-image-")
    ]
    flavours = [UBUNTU_SAME_KERNEL.get(meta, meta) for meta in metas]
    known = [flavour for flavour in dict.fromkeys(flavours) if flavour in UBUNTU_MODULE_FLAVOURS]
    return known if len(known) == len(set(flavours)) else []


def signed_by_distribution(case: Case, choice: Choice) -> bool:
    """Whether the modules come built and signed from the distribution."""
    return choice.source == DISTRIBUTION and case.release[0] == "ubuntu" and bool(ubuntu_flavours(case))


def kernels(case: Case, choice: Choice) -> list[str]:
    """Return the kernels that must have the module at the end.

    Signed modules come for the kernel that the meta package has now; another one may have none, and is rebooted away.
    """
    if not signed_by_distribution(case, choice) or case.system["container"]:
        return list(case.kernels)
    newest = case.system["kernel_newest"]
    return [kernel for kernel in case.kernels if kernel == newest or case.driver["on_disk"].get(kernel)]


def _ubuntu_modules(case: Case, choice: Choice) -> list[Named]:
    suffix = ubuntu_suffix(case, choice) + ("-open" if choice.flavour == "open" else "")
    flavours = ubuntu_flavours(case)
    if not flavours:
        return [(f"nvidia-dkms{suffix}", True)]
    return [(f"linux-modules-nvidia{suffix}-{flavour}", False) for flavour in flavours]


def kernel_packages(case: Case, choice: Choice) -> list[str]:
    """Return headers and DKMS, which come first; signed modules need neither."""
    if signed_by_distribution(case, choice):
        return []
    if case.system["os_family"] == "RedHat":
        uek = "uek" in (case.system["kernel"] or "")  # Oracle's own kernel
        return [*(["kernel-uek-devel"] if uek else ["kernel-devel-matched", "kernel-headers"]), "dkms"]
    present = case.system.get("headers") or []
    own = (
        []
        if case.system["container"]
        else [f"linux-headers-{kernel}" for kernel in case.kernels if kernel not in present]
    )
    return [*own, *_header_metas(case), "dkms"]


def _header_metas(case: Case) -> list[str]:
    """Return the meta packages that bring headers with every kernel to come, after the kernels' own metas."""
    installed = case.system.get("kernel_packages") or []
    metas = [name.replace("linux-image-", "linux-headers-", 1) for name in installed if name.startswith("linux-image-")]
    if not metas and case.system["container"]:
        metas = [name for name in installed if name.startswith("linux-headers-")]
    if metas or case.release[0] == "ubuntu":
        return list(dict.fromkeys(metas))
    return [f"linux-headers-{DEB_ARCHITECTURES.get(case.system['architecture'], 'amd64')}"]


def with_versions(case: Case, choice: Choice, named: list[Named]) -> list[str]:
    """Return the names as apt (or DNF) takes them: those of the driver's version bound to it, or to the branch."""
    between = "-" if case.system["os_family"] == "RedHat" else "="
    return [f"{name}{between}{version_glob(choice)}" if exact else name for name, exact in named]


def streams(case: Case, choice: Choice) -> dict[str, Any] | None:
    """Return the DNF module stream (EL 9), or what is locked where there are no modules (EL 10)."""
    if case.system["os_family"] != "RedHat":
        return None
    if case.release[1] == "9":
        kind = "open" if choice.flavour == "open" else "dkms"
        return {"module": f"nvidia-driver:{choice.branch}-{kind}", "versionlock": []}
    return {"module": None, "versionlock": [f"*nvidia*{choice.version or choice.branch}*"]}


# --- conflicts -------------------------------------------------------------------------------------------------------

_SUFFIXED = re.compile(
    r"^(?:lib)?(?:nvidia|cuda-drivers|linux-modules-nvidia|xserver-xorg-video-nvidia|nvlink5)[a-z0-9-]*?-(\d{3})(?:-|$)"
)
_PINNING = re.compile(r"^nvidia-driver-pinning-(\d{3}(?:\.\d+)*)$")
_FLAVOURED = {
    "open": ("nvidia-kernel-dkms", "nvidia-dkms", "cuda-drivers", "nvidia-kernel-source"),
    "proprietary": ("nvidia-kernel-open-dkms", "nvidia-open-kernel-dkms", "nvidia-dkms-open", "nvidia-open"),
}


def conflicts(case: Case, choice: Choice, wanted: list[Named]) -> list[str]:
    """Return the installed packages that must go with the same transaction."""
    names = {name for name, _exact in wanted}
    return sorted(name for name in case.packages if name not in names and _must_go(case, choice, name))


def _must_go(case: Case, choice: Choice, name: str) -> bool:
    pinning = _PINNING.match(name)
    if pinning:
        return not (choice.version or f"{choice.branch}.").startswith(pinning.group(1)) and pinning.group(1) != str(
            choice.branch
        )
    if name in _FLAVOURED[choice.flavour]:
        return True
    if case.release[0] == "debian" and name in (ONLY_DEBIAN if choice.source == NVIDIA else ONLY_NVIDIA_DEBIAN):
        return True
    suffixed = _SUFFIXED.match(name)
    if suffixed is None:
        return False
    return int(suffixed.group(1)) != choice.branch or _other_suffix(case, choice, name)


def _other_suffix(case: Case, choice: Choice, name: str) -> bool:
    """Whether a package of the right branch is another build: suffixed where none is, other flavour, server or not."""
    if choice.source == NVIDIA and choice.branch > LAST_SUFFIXED:
        return True
    tail = name.split(f"-{choice.branch}", 1)[1]
    module = "dkms" in name or name.startswith(("linux-modules-nvidia-", "nvidia-driver-"))
    other_flavour = module and ("-open" in tail) != (choice.flavour == "open")
    own_build = choice.source == DISTRIBUTION and case.release[0] == "ubuntu" and not name.startswith("nvidia-fabric")
    other_build = own_build and module and ("-server" in tail) != ubuntu_suffix(case, choice).endswith("-server")
    built_here = "dkms" in name and "no-dkms" not in name and signed_by_distribution(case, choice)
    return other_flavour or other_build or built_here
