"""What runs on a host: a desktop, systemd's units; and whether the host is a Jetson."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._root import Root


def look_at_display(root: Root) -> bool:
    """Whether people see a desktop of this host: a display manager is set up, or an X or Wayland session runs."""
    manager = "/etc/systemd/system/display-manager.service"
    if root.link(manager) is not None or root.exists("/etc/X11/default-display-manager"):
        return True
    # Virtual servers like Xvfb, which nobody sees, take numbers from 99 on.
    if any(re.fullmatch(r"X\d", name) for name in root.names("/tmp/.X11-unix")):  # noqa: S108 - where X has its sockets
        return True
    return any(
        name.startswith("wayland-") for user in root.names("/run/user") for name in root.names(f"/run/user/{user}")
    )


def look_at_jetson(root: Root) -> bool:
    """Whether this is a Jetson, whose driver is part of its L4T image."""
    compatible = root.data("/proc/device-tree/compatible", 4096) or b""
    return root.exists("/etc/nv_tegra_release") or b"nvidia,tegra" in compatible


def look_at_headers(root: Root) -> list[str]:
    """Return the kernels that modules can be built for; a link that leads nowhere stands for removed headers."""
    return [
        kernel for kernel in root.names("/lib/modules") if _leads_to_a_directory(root, f"/lib/modules/{kernel}/build")
    ]


def _leads_to_a_directory(root: Root, path: str) -> bool:
    target = root.link(path)
    if target is None:
        return bool(root.is_directory(path))
    return bool(root.is_directory(str(PurePosixPath(path).parent / target)))


def look_at_units(root: Root, service_manager: str, asked: list[str]) -> dict[str, dict[str, str | None]]:
    """Return the ``units`` fact; one command tells all, and none runs where systemd does not."""
    told = None
    if asked and service_manager == "systemd":
        told = root.command("systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", "--", *asked)
    return parse_units(told or "", asked)


def parse_units(text: str, asked: list[str]) -> dict[str, dict[str, str | None]]:
    """Return unit -> state from ``systemctl show``, which answers in the order of the question."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n")]
    known: list[dict[str, Any]] = blocks if len(blocks) == len(asked) else [{}] * len(asked)
    return {unit: _unit(block) for unit, block in zip(asked, known)}


def _unit(block: dict[str, str]) -> dict[str, str | None]:
    there = block.get("LoadState") not in (None, "not-found")
    return {
        "enabled": block.get("UnitFileState") or None,
        "active": block.get("ActiveState") if there else None,
    }
