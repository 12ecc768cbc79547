"""Pins of a chosen driver: narrow ones of our own, by which no plan ever mixes two sources.

apt gives a version pin precedence over one by origin, and both to the same package would so let another archive's build
of the same version in. Each glob below therefore has pins of one kind.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case
from ansible_collections.gpufleet.host.plugins.module_utils._driver_choice import Choice
from ansible_collections.gpufleet.host.plugins.module_utils._driver_sources import (
    DISTRIBUTION,
    DKMS_FLOOR_FROM,
    DKMS_OF,
    DKMS_TOO_OLD,
    DRIVER_GLOBS,
    LAST_SUFFIXED,
    SUFFIXED_GLOBS,
    UNSUFFIXED_GLOBS,
)

# Above 1000 also where it means a lower version; below 0 never.
_WANTED, _NEVER = 1001, -1
_ORIGINS = {"debian": "Debian", "ubuntu": "Ubuntu"}

Pins = list[dict[str, Any]]


def version_glob(choice: Choice) -> str:
    """Return what the driver's packages' versions look like: the exact one with any revision, else the branch."""
    return f"{choice.version}-*" if choice.version else f"{choice.branch}.*"


def pins(case: Case, choice: Choice, repository: dict[str, Any] | None) -> Pins:
    """Return the pins; the first that fits a package counts."""
    if case.system["os_family"] == "RedHat":
        return []
    if choice.source == DISTRIBUTION or repository is None:
        return _own(case, choice)
    version = f"version {version_glob(choice)}"
    # NVIDIA's own DKMS, where its packages need a newer one than the release has.
    old = choice.branch >= DKMS_FLOOR_FROM and DKMS_OF.get(case.release) in DKMS_TOO_OLD
    dkms = [_pin(["dh-dkms", "dkms"], f"origin {_host(repository)}", _WANTED)] if old else []
    if case.release[0] != "ubuntu" or choice.branch > LAST_SUFFIXED:
        return [*dkms, _pin(DRIVER_GLOBS, version, _WANTED)]
    suffixed = [glob.format(b=choice.branch) for glob in SUFFIXED_GLOBS]
    if choice.version:  # NVIDIA's revisions end in ubuntu1, and Ubuntu's own for a release carry the release
        by = [_pin(suffixed, f"version {choice.version}-[01]ubuntu1", _WANTED)]
    else:
        by = [_pin(suffixed, "release o=Ubuntu", _NEVER), _pin(suffixed, f"origin {_host(repository)}", _WANTED)]
    return [*dkms, *by, _pin(UNSUFFIXED_GLOBS, version, _WANTED)]


def _own(case: Case, choice: Choice) -> Pins:
    """Return pins by archive: Ubuntu's names carry the branch, and a release of Debian has one only."""
    if choice.version:
        return [_pin(DRIVER_GLOBS, f"version {version_glob(choice)}", _WANTED)]
    origin = _ORIGINS.get(case.release[0], case.release[0])
    return [
        _pin(DRIVER_GLOBS, f"release o={origin}", _WANTED),
        _pin(DRIVER_GLOBS, "release l=NVIDIA CUDA", _NEVER),
    ]


def _pin(packages: tuple[str, ...] | list[str], pin: str, priority: int) -> dict[str, Any]:
    return {"packages": list(packages), "pin": pin, "priority": priority}


def _host(repository: dict[str, Any]) -> str:
    return f'"{urlsplit(repository["url"]).hostname or ""}"'
