"""A host with a real GPU: the driver is loaded, all its parts are of one version, and the probe has measured."""

from __future__ import annotations

import json
import re
from typing import Any


def record(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file("/var/lib/gpufleet/record.json").content_string)
    return found


def test_no_reboot_is_due(host: Any) -> None:
    due = record(host)["plan"]["driver"]["reboot"]
    assert not due["required"], f"reboot the host, then run this again: {due['reasons']}"


def test_loaded_on_disk_and_user_space_are_one_version(host: Any) -> None:
    module = record(host)["plan"]["driver"]["module"] or "nvidia"
    loaded = host.run(f"cat /sys/module/{module.replace('-', '_')}/version").stdout.strip()
    asked = host.run("nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    assert asked.rc == 0, asked.stdout
    assert set(asked.stdout.split()) == {loaded}
    assert host.run("/usr/sbin/modinfo -F version %s", module).stdout.strip() == loaded


def test_nouveau_is_not_loaded(host: Any) -> None:
    assert not [name for name in ("nouveau", "nova_core") if host.file(f"/sys/module/{name}").exists]


def test_every_gpu_is_there(host: Any) -> None:
    listed = [line for line in host.run("nvidia-smi -L").stdout.splitlines() if line.startswith("GPU ")]
    assert len(listed) == record(host)["plan"]["gpu"]["count"] > 0


def test_the_probe_computed_on_it(host: Any) -> None:
    report = json.loads(host.file("/var/lib/gpufleet/probe.json").content_string)
    assert report["status"] in ("pass", "warn"), report["summary"]
    checks = {check["id"]: check["status"] for check in report["checks"]}
    products = {name: status for name, status in checks.items() if re.fullmatch(r"matmul\..*\.correct", name)}
    assert set(products.values()) == {"pass"}, products
