"""One host's case as the driver's plan looks at it: facts, wishes, and what has been refused so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._driver_branches import (
    GENERATIONS,
    Generation,
    generation_of,
)

Facts = dict[str, Any]


def as_bool(value: Any) -> bool | None:
    """Return a boolean as Ansible means it, also from text such as ``-e name=false`` gives; None for anything else."""
    text = str(value).lower()
    return True if text in ("true", "yes", "on", "1") else False if text in ("false", "no", "off", "0") else None


class Case:
    """What one host is and wishes; facts that an older look did not have are unknown."""

    def __init__(self, facts: Facts, wishes: dict[str, Any], refuse: Callable[[str, str, str], None]) -> None:
        self.facts = facts
        self.wishes = wishes
        self.warnings: list[str] = []
        self.refused = 0
        self._refuse = refuse

    def refuse(self, found: str, wish: str, remedy: str) -> None:
        """Refuse in one sentence: what was found, the wish, and what to do."""
        self.refused += 1
        self._refuse(found, "nvidia_driver_state" if wish == "state" else f"driver_{wish}", remedy)

    def wish(self, name: str) -> Any:
        """Return the wish of the variable ``nvidia_driver_<name>``."""
        return self.wishes[f"driver_{name}"]

    def is_wished(self, name: str) -> bool:
        """Whether a wish is true."""
        return bool(as_bool(self.wish(name)))

    @property
    def system(self) -> Facts:
        """The ``system`` fact."""
        system: Facts = self.facts["system"]
        return system

    @property
    def driver(self) -> Facts:
        """The ``driver`` fact."""
        driver: Facts = self.facts["driver"]
        return driver

    @property
    def gpus(self) -> list[Facts]:
        """The GPUs that are this host's own; one bound to vfio-pci belongs to a virtual machine."""
        return [gpu for gpu in self.facts["gpus"] if gpu["kernel_driver"] != "vfio-pci"]

    def generation(self, gpu: Facts) -> Generation:
        """Return what a GPU needs of a driver."""
        return GENERATIONS[generation_of(gpu, self.system["architecture"])]

    @property
    def packages(self) -> dict[str, str]:
        """The installed packages of the driver and around it: name to full version."""
        return self.driver.get("packages") or {}

    @property
    def ours(self) -> bool:
        """Whether this role's own source or pin is on the host, so that the driver is its work."""
        return bool(self.driver.get("ours"))

    @property
    def release(self) -> tuple[str, str]:
        """Distribution and version as the tables have them: the major part, but for Ubuntu."""
        name, version = self.system["distribution"] or "", self.system["version_id"] or ""
        return name, version if name == "ubuntu" else version.split(".")[0]

    @property
    def pretty(self) -> str:
        """The system's name for a sentence."""
        return str(self.system["pretty_name"] or self.system["distribution"] or "an unknown system")

    @property
    def kernels(self) -> list[str]:
        """The kernels that must have the module at the end: running and newest; in a container all that are there."""
        installed: list[str] = self.system["kernels_installed"]
        if self.system["container"]:
            return sorted({*installed, *(self.system.get("headers") or [])})
        newest = [self.system["kernel_newest"]] if self.system["kernel_newest"] else []
        running = [self.system["kernel"]] if self.system["kernel"] in installed else []
        return list(dict.fromkeys(running + newest))

    def named(self, gpus: list[Facts]) -> str:
        """Return GPUs in words; eight alike are one item with a count."""
        counts: dict[str, int] = {}
        for gpu in gpus:
            what = gpu["name"] or f"{gpu['architecture'] or 'unknown'} GPU {gpu['device_id']}"
            counts[what] = counts.get(what, 0) + 1
        return " and ".join(what if count == 1 else f"{count} times {what}" for what, count in counts.items())
