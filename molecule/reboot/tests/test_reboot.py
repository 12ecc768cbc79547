"""What only a host with a kernel of its own shows: the module is loaded, and the host starts again once if it may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Again = Callable[..., Any]
OLD, NEW = "580.159.03", "580.178.04"


def loaded(host: Any) -> str:
    return str(host.run("cat /sys/module/nvidia/version").stdout.strip())


def on_disk(host: Any) -> str:
    return str(host.run("modinfo -F version nvidia").stdout.strip())


def boot(host: Any) -> str:
    return str(host.run("cat /proc/sys/kernel/random/boot_id").stdout.strip())


def test_first_driver_is_loaded_without_a_reboot(host: Any) -> None:
    assert loaded(host) == on_disk(host) == OLD
    assert host.run("test $(cut -d. -f1 /proc/uptime) -gt 60").rc == 0


def test_new_driver_waits_for_a_reboot_without_consent(host: Any, again: Again) -> None:
    before = boot(host)
    ran = again(nvidia_driver_version=NEW)
    assert ran.ok, ran.sentence
    assert "reboot" in str(ran.result).lower()
    assert (loaded(host), on_disk(host), boot(host)) == (OLD, NEW, before)
    assert again(nvidia_driver_version=NEW).changed == 0  # nothing more to do but the reboot


def test_busy_gpu_is_not_rebooted_under_its_user(host: Any, again: Again) -> None:
    before = boot(host)
    # A process that holds the GPU's device node, as one that trains does.
    busy = (
        "test -e /dev/nvidia0 || mknod /dev/nvidia0 c 1 3; setsid sleep 600 3<>/dev/nvidia0 >/dev/null 2>&1 & echo $!"
    )
    pid = host.run(f"sh -c '{busy}'").stdout.strip()
    ran = again(nvidia_driver_version=NEW, gpufleet_reboot="if_needed")
    assert boot(host) == before
    assert pid in str(ran.result)
    assert host.run(f"kill {pid}").rc == 0


def test_consent_reboots_once(host: Any, again: Again) -> None:
    before = boot(host)
    ran = again(nvidia_driver_version=NEW, gpufleet_reboot="if_needed")
    assert ran.ok, ran.sentence
    after = boot(host)
    assert after != before
    assert loaded(host) == on_disk(host) == NEW
    assert again(nvidia_driver_version=NEW, gpufleet_reboot="if_needed").changed == 0
    assert boot(host) == after
