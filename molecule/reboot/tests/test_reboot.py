"""What only a host with a kernel of its own shows: the module is loaded, and the host starts again once if it may.

The tests run in order, as each changes the host. A run takes a minute or more: the machine is emulated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Again = Callable[..., Any]
# With the last the host computes wrong.
OLD, NEW, WRONG = "580.159.03", "580.178.04", "595.91.07"
CONSENT = {"gpufleet_reboot": "if_needed"}
OPTION = "NVreg_RestrictProfilingToAdminUsers"
DRIVEN = "/srv/pci/0000:01:00.0/driver"
# Written down once around each reboot.
NOTE = ["sh", "-c", "cat /proc/sys/kernel/random/boot_id >> /root/hooks"]


def loaded(host: Any) -> str:
    return str(host.run("cat /sys/module/nvidia/version").stdout.strip())


def on_disk(host: Any) -> str:
    return str(host.run("modinfo -F version nvidia").stdout.strip())


def boot(host: Any) -> str:
    return str(host.run("cat /proc/sys/kernel/random/boot_id").stdout.strip())


def said(run: Any, task: str = "Say that a reboot is due") -> str:
    """Return what the tasks of this name said."""
    tasks = [each for play in run.result["plays"] for each in play["tasks"]]
    return str([each["hosts"] for each in tasks if task in each["task"]["name"]])


def hold(host: Any) -> str:
    """Start a process that holds the GPU's device node, as one that trains does, and return its number."""
    node = "test -e /dev/nvidia0 || mknod /dev/nvidia0 c 1 3"
    return str(host.run(f"{node}; setsid sleep 600 3<>/dev/nvidia0 >/dev/null 2>&1 & echo $!").stdout.strip())


def test_first_driver_is_loaded_without_a_reboot(host: Any) -> None:
    assert loaded(host) == on_disk(host) == OLD
    assert host.run("test -d /sys/module/nvidia_uvm").rc == 0
    assert host.run("systemctl is-active nvidia-persistenced").stdout.strip() == "active"
    assert boot(host) == host.file("/root/boot.before").content_string.strip()


def test_early_userspace_keeps_nouveau_away_too(host: Any) -> None:
    assert "etc/modprobe.d/gpufleet-nvidia-driver.conf" in host.run("lsinitramfs /boot/initrd.img-$(uname -r)").stdout


def test_a_loaded_nouveau_is_left_to_a_reboot(host: Any, again: Again) -> None:
    """What a bare host has: here it is the kernel's own nouveau, which finds no GPU."""
    assert host.run("modprobe -r nvidia-uvm nvidia && modprobe nouveau").rc == 0
    ran = again()
    assert ran.ok, ran.sentence
    assert "nouveau is loaded" in said(ran)
    assert "then the same command again" in said(ran)
    assert loaded(host) == ""
    assert host.run("modprobe -r nouveau && modprobe --all nvidia nvidia-uvm").rc == 0


def test_new_driver_waits_for_a_reboot_without_consent(host: Any, again: Again) -> None:
    before = boot(host)
    ran = again(nvidia_driver_version=NEW)
    assert ran.ok, ran.sentence
    assert f"driver {OLD} is loaded, and {NEW} is on disk" in said(ran)
    assert "nvidia_driver_reboot is never" in said(ran)
    assert (loaded(host), on_disk(host), boot(host)) == (OLD, NEW, before)
    assert again(nvidia_driver_version=NEW).changed == 0  # nothing more to do but the reboot


def test_busy_gpu_is_not_rebooted_under_its_user(host: Any, again: Again) -> None:
    before = boot(host)
    pid = hold(host)
    ran = again(nvidia_driver_version=NEW, **CONSENT)
    assert ran.ok, ran.sentence
    assert f"process {pid} (sleep) of root" in said(ran)
    assert boot(host) == before
    assert host.run("kill %s", pid).rc == 0


def test_consent_reboots_once_between_drain_and_resume(host: Any, again: Again) -> None:
    before = boot(host)
    wishes = CONSENT | {"nvidia_driver_version": NEW, "nvidia_driver_module_options": {OPTION: 0}}
    ran = again(nvidia_driver_drain_command=NOTE, nvidia_driver_resume_command=NOTE, **wishes)
    assert ran.ok, ran.sentence
    after = boot(host)
    assert after != before
    assert host.file("/root/hooks").content_string.split() == [before, after]
    assert loaded(host) == on_disk(host) == NEW
    assert host.run("test -d /sys/module/nvidia_uvm").rc == 0
    assert host.run("cat /proc/driver/nvidia/params").stdout.strip() == "RmProfilingAdminOnly: 0"
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"
    assert host.run("systemctl is-active nvidia-persistenced").stdout.strip() == "active"
    assert again(**wishes).changed == 0
    assert boot(host) == after


def test_a_reboot_that_does_not_help_is_told(host: Any, again: Again) -> None:
    """Somebody else's file has the last word on the option, so that no reboot brings it."""
    host.run("echo options nvidia %s=1 > /etc/modprobe.d/zz-other.conf", OPTION)
    assert host.run("modprobe -r nvidia-uvm nvidia && modprobe --all nvidia nvidia-uvm && rm -f /root/hooks").rc == 0
    wishes = CONSENT | {"nvidia_driver_version": NEW, "nvidia_driver_module_options": {OPTION: 0}}
    ran = again(nvidia_driver_drain_command=NOTE, **wishes)
    assert not ran.ok
    assert f"runs without {OPTION}=0" in ran.sentence
    assert "another would not help" in ran.sentence
    assert len(host.file("/root/hooks").content_string.split()) == 1, "one reboot"
    assert loaded(host) == NEW
    assert host.run("rm /etc/modprobe.d/zz-other.conf").rc == 0


def upgrade(host: Any) -> Any:
    return json.loads(host.file("/var/lib/gpufleet/upgrade.json").content_string)


def test_upgrade_that_waited_for_its_reboot_goes_back_when_the_host_computes_wrong(host: Any, again: Again) -> None:
    """First without consent; then the new driver is started, found wrong, and the one of before is started again."""
    before = boot(host)
    ran = again(playbook="upgrade.yml", nvidia_driver_version=WRONG)
    assert ran.ok, ran.sentence
    assert (loaded(host), on_disk(host), boot(host)) == (NEW, WRONG, before)
    assert upgrade(host)["status"] == "pending_reboot"
    ran = again(playbook="upgrade.yml", nvidia_driver_version=WRONG, **CONSENT)
    assert not ran.ok
    assert "matmul.bf16.correct: a wrong product" in ran.sentence
    assert f"driver {NEW} is back" in ran.sentence
    assert boot(host) != before
    assert loaded(host) == on_disk(host) == NEW
    assert upgrade(host)["status"] == "rolled_back"
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"


def test_working_driver_of_another_hand_is_kept(host: Any, again: Again) -> None:
    ours = "/etc/apt/sources.list.d/gpufleet-nvidia-driver.sources /etc/apt/preferences.d/gpufleet-nvidia-driver"
    assert host.run(f"mkdir -p /root/ours && mv {ours} /root/ours").rc == 0
    # The made up GPU says what drives it, as a real one's link does.
    assert host.run("ln -s /sys/bus/pci/drivers/nvidia %s", DRIVEN).rc == 0
    ran = again(nvidia_driver_version=OLD)
    host.run("rm %s", DRIVEN)
    host.run("cd /root/ours && mv *.sources /etc/apt/sources.list.d && mv * /etc/apt/preferences.d")
    assert ran.ok, ran.sentence
    assert ran.changed == 0
    told = said(ran, "Say why this host gets no driver")
    assert f"driver {NEW} works and was not installed by this role" in told
    assert f"Driver {NEW} is loaded, and {OLD} is planned." in told


def test_absent_gives_nouveau_back_at_the_next_start(host: Any, again: Again) -> None:
    pid = hold(host)
    ran = again(nvidia_driver_state="absent")
    assert not ran.ok
    assert f"is in use by process {pid} (sleep) of root" in ran.sentence
    assert on_disk(host) == NEW
    assert host.run("kill %s", pid).rc == 0
    ran = again(nvidia_driver_state="absent")
    assert ran.ok, ran.sentence
    assert f"{NEW} stays loaded until gpu-vm starts again" in said(ran, "Say what a reboot is left to do")
    assert on_disk(host) == ""
    assert "blacklist nouveau" not in host.run("modprobe --showconfig").stdout.splitlines()
    assert "gpufleet" not in host.run("lsinitramfs /boot/initrd.img-$(uname -r)").stdout
