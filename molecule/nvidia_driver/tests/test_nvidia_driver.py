"""The driver as its user and its administrator see it: DKMS, modinfo, apt, and what a failure leaves.

The packages are stand-ins with NVIDIA's names and versions; their kernel module is tiny, and DKMS really builds it. The
tests run in order, as each changes the host.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Again = Callable[..., Any]
DRIVER = "nvidia-driver-cuda"
PREFERENCES = "/etc/apt/preferences.d/gpufleet-nvidia-driver"
RECORD = "/var/lib/gpufleet/nvidia_driver.json"
KEPT = "/var/cache/gpufleet/rollback"
COMPILER = "nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'"


def kernel(host: Any) -> str:
    """Return the kernel whose headers are installed."""
    return str(host.run("basename $(dirname $(ls -d /lib/modules/*/build | grep -v test))").stdout.strip())


def module(host: Any, field: str, of: str | None = None) -> str:
    return str(host.run("modinfo -k %s -F %s nvidia", of or kernel(host), field).stdout.strip())


def installed(host: Any, name: str = DRIVER) -> str:
    return str(host.run("dpkg-query -W -f '${Version}' %s", name).stdout)


def state(host: Any) -> tuple[str, str]:
    """Return every package with its version and status, and every file of /etc."""
    files = "find /etc ! -type d ! -name ld.so.cache ! -path '/etc/dkms/*' -exec sha256sum {} + | sort"
    return str(host.run("dpkg -l").stdout), str(host.run(files).stdout)


def in_order(*versions: str) -> str:
    """Return the newest of the versions."""
    return max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])


def known(host: Any, branch: str) -> list[str]:
    """Return the versions of a branch that the mirror has, oldest first."""
    table = host.run("apt-cache madison %s", DRIVER).stdout
    found = {line.split("|")[1].strip() for line in table.splitlines() if f"| {branch}." in line}
    return sorted(found, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])


# --- the first installation ------------------------------------------------------------------------------------------


def test_every_kernel_has_the_open_module(host: Any) -> None:
    status = host.run("dkms status").stdout
    assert re.search(rf"nvidia/580\.[\d.]+, {re.escape(kernel(host))}, x86_64: installed", status), status
    assert module(host, "version").startswith("580.")
    assert module(host, "license") == "Dual MIT/GPL"
    assert installed(host).startswith(f"{module(host, 'version')}-")


def test_the_pin_holds_against_a_full_upgrade(host: Any) -> None:
    assert in_order(*known(host, "580"), *known(host, "595")) == known(host, "595")[-1], "a newer branch must be there"
    policy = host.run("apt-cache policy %s", DRIVER).stdout
    assert f"Candidate: {known(host, '580')[-1]}" in policy
    upgrade = host.run("apt-get --simulate full-upgrade").stdout
    assert not [line for line in upgrade.splitlines() if re.match(r"(Inst|Remv) \S*(nvidia|cuda)", line)]


def test_the_pin_is_narrow(host: Any) -> None:
    """NVIDIA's own would put everything of its repository before the distribution's."""
    assert "Package: *\n" not in host.file(PREFERENCES).content_string
    assert "Pin-Priority: 1001" in host.file(PREFERENCES).content_string


def test_a_keyring_by_hand_is_no_second_source(host: Any) -> None:
    assert host.run("apt-get update").rc == 0
    lists = host.run("grep -rl developer.download.nvidia.com /etc/apt/sources.list.d").stdout.split()
    assert lists == ["/etc/apt/sources.list.d/gpufleet-nvidia-driver.sources"]


def test_nouveau_and_nova_are_out_of_the_way(host: Any) -> None:
    settings = host.run("modprobe --showconfig").stdout.splitlines()
    assert {"blacklist nouveau", "blacklist nova", "blacklist nova_core"} <= set(settings)


def test_unattended_upgrades_leaves_the_driver_alone(host: Any) -> None:
    """By the patterns as apt hands them over, matched as unattended-upgrades does."""
    told = host.run("apt-config dump Unattended-Upgrade::Package-Blacklist").stdout
    patterns = re.findall(r'Package-Blacklist:: "(.*)";', told)
    assert [
        name for name in ("nvidia-driver-cuda", "libcuda1", "bash") if any(re.match(p, name) for p in patterns)
    ] == [
        "nvidia-driver-cuda",
        "libcuda1",
    ]
    assert not [name for name in ("nvidia-container-toolkit", "dkms") if any(re.match(p, name) for p in patterns)]


def test_the_persistence_daemon_starts_with_the_host(host: Any) -> None:
    assert host.run("systemctl is-enabled nvidia-persistenced").stdout.strip() == "enabled"
    assert "After=systemd-modules-load.service" in host.run("systemctl cat nvidia-persistenced").stdout


def test_a_converged_host_is_left_alone_in_few_steps(host: Any, again: Again) -> None:
    run = again("--check", "--diff")
    assert run.ok, run.sentence
    assert run.changed == 0
    count = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "module-count.txt"
    before = len(count.read_text().splitlines())
    run = again()
    assert run.ok, run.sentence
    assert run.changed == 0
    executed = count.read_text().splitlines()[before + 1 :]
    assert 0 < len(executed) <= 4, executed


# --- what goes wrong -------------------------------------------------------------------------------------------------


def break_the_build(host: Any, version: str) -> str:
    """Let the module of one version fail to build, as 550 does with newer kernels; return the file that does it."""
    path = f"/etc/dkms/nvidia-{version.partition('-')[0]}.conf"
    make = f'MAKE[0]="echo \\"{COMPILER}\\"; false"\n'
    assert host.run("printf %s %s > %s", "%s", make, path).rc == 0
    return path


def test_a_module_that_does_not_build_leaves_all_as_before(host: Any, again: Again) -> None:
    before = state(host)
    broken = break_the_build(host, known(host, "595")[-1])
    run = again(nvidia_driver_branch=595)
    assert not run.ok
    said = run.sentence.splitlines()[-1]
    assert COMPILER in said
    assert f"for kernel {kernel(host)}" in said
    assert "as they were before" in said
    assert "nvidia_driver_branch" in said
    assert state(host) == before
    assert module(host, "version").startswith("580.")
    host.run("rm %s", broken)


def test_no_space_left_leaves_all_as_before(host: Any, again: Again) -> None:
    before = state(host)
    assert host.run("mkdir -p /mnt/small && mount -t tmpfs -o size=8k tmpfs /mnt/small").rc == 0
    run = again(nvidia_driver_branch=595, nvidia_driver_rollback_path="/mnt/small/rollback")
    host.run("umount /mnt/small && rmdir /mnt/small")
    assert not run.ok
    assert re.search(r"free space|No space left", run.sentence), run.sentence
    assert state(host) == before


# --- other versions --------------------------------------------------------------------------------------------------


def test_another_branch_waits_for_a_held_lock(host: Any, again: Again) -> None:
    """Somebody else's apt runs at the same time; then the driver moves in one transaction."""
    hold = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(25)"
    begun = time.monotonic()
    holder = threading.Thread(target=host.run, args=("python3 -c %s", hold))
    holder.start()
    run = again(nvidia_driver_branch=595)
    holder.join()
    assert run.ok, run.sentence
    assert time.monotonic() - begun > 25
    assert module(host, "version").startswith("595.")
    assert installed(host) == known(host, "595")[-1]
    assert "580." not in host.run("dkms status").stdout


def test_an_exact_version_of_the_old_branch(host: Any, again: Again) -> None:
    exact = known(host, "580")[0]
    run = again(nvidia_driver_version=exact.partition("-")[0])
    assert run.ok, run.sentence
    assert installed(host) == exact
    assert module(host, "version") == exact.partition("-")[0]
    assert f"Candidate: {exact}" in host.run("apt-cache policy %s", DRIVER).stdout


def test_the_packages_of_two_drivers_are_kept(host: Any) -> None:
    kept = host.run("ls %s/*.deb", KEPT).stdout
    versions = {name.split("_")[1] for name in kept.split() if f"/{DRIVER}_" in name}
    assert versions == {known(host, "580")[0], known(host, "595")[-1]}
    assert not re.search(r"/(gcc|linux-headers|make)", kept), "only the driver's own are kept"
    record = json.loads(host.file(RECORD).content_string)
    assert record["working"][DRIVER] == known(host, "580")[0]
    assert record["previous"][DRIVER] == known(host, "595")[-1]


def test_a_set_of_before_comes_back_without_the_mirror(host: Any, again: Again) -> None:
    previous = json.loads(host.file(RECORD).content_string)["previous"]
    host.run("cp -a /etc/hosts /root/hosts && sed 's/^/#/' /root/hosts > /etc/hosts")
    assert host.run("mv /var/lib/apt/lists /root/lists && mkdir -p /var/lib/apt/lists/partial").rc == 0
    run = again(playbook="rollback.yml", nvidia_driver_rollback_set=previous)
    host.run("rm -r /var/lib/apt/lists && mv /root/lists /var/lib/apt/lists && cat /root/hosts > /etc/hosts")
    assert run.ok, run.sentence
    assert installed(host) == previous[DRIVER]
    assert module(host, "version").startswith("595.")
    assert f"Candidate: {previous[DRIVER]}" in host.run("apt-cache policy %s", DRIVER).stdout


# --- what others leave behind ----------------------------------------------------------------------------------------


def test_a_run_that_was_killed_is_finished_by_the_next(host: Any, again: Again, killed: Callable[..., None]) -> None:
    """Back to 580, killed with its apt and dpkg while they work; the next run finishes it."""
    killed("Install the packages")
    for _attempt in range(100):
        if host.run("dpkg --audit").stdout.strip() or "dpkg" in host.run("cat /proc/[0-9]*/comm").stdout.split():
            break
        time.sleep(0.1)
    host.run(
        "for p in /proc/[0-9]*; do case $(cat $p/comm) in apt-get|dpkg|dkms|make|cc1) kill -9 ${p#/proc/};; esac; done"
    )
    run = again()
    assert run.ok, run.sentence
    assert installed(host) == known(host, "580")[-1]
    assert module(host, "version").startswith("580.")
    assert host.run("dpkg --audit").stdout == ""


def test_a_half_configured_package_is_finished(host: Any, again: Again) -> None:
    assert (
        host.run("cd /tmp && apt-get download -q nvidia-persistenced && dpkg --unpack nvidia-persistenced_*.deb").rc
        == 0
    )
    assert host.run("dpkg-query -W -f '${Status}' nvidia-persistenced").stdout == "install ok unpacked"
    run = again()
    assert run.ok, run.sentence
    assert host.run("dpkg-query -W -f '${Status}' nvidia-persistenced").stdout == "install ok installed"


def test_a_kernel_that_came_later_gets_its_module(host: Any, again: Again) -> None:
    """Its headers are there, and nobody has told DKMS."""
    late = "6.99.0-test"
    assert host.run("mkdir -p /lib/modules/%s/kernel", late).rc == 0
    assert host.run("ln -s $(readlink -f /lib/modules/%s/build) /lib/modules/%s/build", kernel(host), late).rc == 0
    run = again("--check")
    assert run.changed > 0, "check mode must announce it"
    run = again()
    assert run.ok, run.sentence
    assert module(host, "version", late) == module(host, "version")
    assert again().changed == 0
    host.run("dkms uninstall nvidia/%s -k %s", module(host, "version"), late)
    host.run("rm -rf /lib/modules/%s /var/lib/dkms/nvidia/*/%s", late, late)


# --- taking it away --------------------------------------------------------------------------------------------------


def test_absent_leaves_the_host_as_it_was_found(host: Any, again: Again) -> None:
    run = again(nvidia_driver_state="absent")
    assert run.ok, run.sentence
    assert again(nvidia_driver_state="absent").changed == 0
    assert host.run("dpkg-query --show | diff /root/packages.before -").stdout == ""
    find = "find /etc ! -type d ! -name ld.so.cache -exec sha256sum {} + | sort"
    assert host.run(f"{find} | diff /root/etc.before -").stdout == ""
    assert host.run("find /etc -type d | sort | diff /root/folders.before -").stdout == ""
    assert not host.file(KEPT).exists
    assert not host.file(RECORD).exists
