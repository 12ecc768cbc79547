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

from damage import Damage, found_and_mended, path

Again = Callable[..., Any]
Killed = Callable[..., None]
DRIVER = "nvidia-driver-cuda"
PREFERENCES = "/etc/apt/preferences.d/gpufleet-nvidia-driver"
RECORD = "/var/lib/gpufleet/nvidia_driver.json"
BUILDS = "nvidia_driver: Say in check mode what would be installed"
KEPT = "/var/cache/gpufleet/rollback"


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
    names = ["nvidia-driver-cuda", "libcuda1", "nvidia-container-toolkit", "dkms", "bash"]
    blocked = [name for name in names if any(re.match(pattern, name) for pattern in patterns)]
    assert blocked == ["nvidia-driver-cuda", "libcuda1"]


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


def test_drift_is_found_and_mended_and_nothing_else(host: Any, again: Again) -> None:
    ways = {
        "a pin": path("nvidia_driver", PREFERENCES, "sed -i s/1001/1/ %"),
        "nouveau let in again": path("nvidia_driver", "/etc/modprobe.d/gpufleet-nvidia-driver.conf", "sed -i 1d %"),
        "upgrades of others let in": path("nvidia_driver", "/etc/apt/apt.conf.d/90gpufleet-nvidia-driver", "rm %"),
        "a service that starts no more": Damage(
            "systemctl disable nvidia-persistenced", "nvidia_driver: Enable or disable the driver's services"
        ),
        "a module taken from the kernel": Damage(
            f"dkms uninstall $(dkms status | grep -o '^nvidia/[0-9.]*') -k {kernel(host)}",
            BUILDS,
        ),
    }
    found_and_mended(host, again, ways, left_out=("/var/lib/dkms",), whole=[BUILDS])


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_module_that_does_not_build_leaves_all_as_before(host: Any, again: Again) -> None:
    """The mirror's 590 has the mistake that Debian 13's own open 550 has against its kernel."""
    before = state(host)
    run = again(nvidia_driver_branch=590)
    assert not run.ok
    said = run.sentence.splitlines()[-1]
    assert re.search(r": nvidia\.c:\d+:\d+: error: .*pci_resize_resource", said), said
    assert f"for kernel {kernel(host)}" in said
    assert "as they were before" in said
    assert "nvidia_driver_branch" in said
    assert state(host) == before
    assert module(host, "version").startswith("580.")


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
    lock = "f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    hold = f"import fcntl, time; {lock}; time.sleep(25)"
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


def test_an_exact_version_in_spite_of_a_run_that_was_killed(host: Any, again: Again, killed: Killed) -> None:
    """The first run is killed with its apt and dpkg while they work; the same command again finishes it."""
    exact = known(host, "580")[0]
    wish = {"nvidia_driver_version": exact.partition("-")[0]}
    killed("Install the packages", **wish)
    for _attempt in range(100):
        if "dpkg" in host.run("cat /proc/[0-9]*/comm").stdout.split():
            break
        time.sleep(0.1)
    theirs = "apt-get|dpkg|dkms|make|cc1"
    host.run(f"for p in /proc/[0-9]*; do case $(cat $p/comm) in {theirs}) kill -9 ${{p#/proc/}};; esac; done")
    run = again(**wish)
    assert run.ok, run.sentence
    assert installed(host) == exact
    assert module(host, "version") == exact.partition("-")[0]
    assert f"Candidate: {exact}" in host.run("apt-cache policy %s", DRIVER).stdout
    assert host.run("dpkg --audit").stdout == ""


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


def test_a_half_configured_package_is_finished_on_the_way_back(host: Any, again: Again) -> None:
    package = "nvidia-persistenced"
    assert host.run(f"cd /tmp && apt-get download -q {package} && dpkg --unpack {package}_*.deb").rc == 0
    assert host.run("dpkg-query -W -f '${Status}' %s", package).stdout == "install ok unpacked"
    run = again()
    assert run.ok, run.sentence
    assert host.run("dpkg-query -W -f '${Status}' %s", package).stdout == "install ok installed"
    assert installed(host) == installed(host, package) == known(host, "580")[-1]
    assert module(host, "version").startswith("580.")


def test_a_kernel_that_came_later_gets_its_module(host: Any, again: Again) -> None:
    """Its headers are there, and nobody has told DKMS."""
    late = "6.99.0-test"
    assert host.run("mkdir -p /lib/modules/%s/kernel", late).rc == 0
    assert host.run("ln -s $(readlink -f /lib/modules/%s/build) /lib/modules/%s/build", kernel(host), late).rc == 0
    assert host.run("depmod %s", late).rc == 0
    run = again("--check")
    assert run.changed > 0, "check mode must announce it"
    run = again()
    assert run.ok, run.sentence
    assert module(host, "version", late) == module(host, "version")
    assert host.run("dkms remove nvidia/%s -k %s && rm -r /lib/modules/%s", module(host, "version"), late, late).rc == 0


# --- steps that a container cannot really take, on a host that is made up --------------------------------------------

BUSY = "process 4242 (python) of alice in container 0123456789ab"
TEXT = "driver 580.159.03 is loaded, and 580.178.04 is on disk"
DUE: dict[str, Any] = {"required": True, "reasons": [{"code": "loaded_differs", "text": TEXT}]}
ALONE = {"system": {"container": False, "boot_id": "of another machine"}}
REBOOTS: list[dict[str, Any]] = [
    {"facts": ALONE},
    {"facts": ALONE, "reboot": "if_needed", "blockers": [BUSY]},
    {"facts": ALONE, "reboot": "if_needed", "blockers": [BUSY], "force": True},
    {"reboot": "if_needed", "force": True},
]


def said(run: Any, task: str = "") -> str:
    """Return what the tasks of this name said, or all of them."""
    tasks = [each for play in run.result["plays"] for each in play["tasks"] if task in each["task"]["name"]]
    return json.dumps([each["hosts"] for each in tasks])


def test_a_reboot_is_made_with_consent_alone(again: Again) -> None:
    """In check mode: the last but one would do it."""
    steps = [
        {**row, "step": "reboot.yml", "plan": {"reboot": DUE | {"blockers": row.get("blockers", [])}}}
        for row in REBOOTS
    ]
    run = again("--check", playbook="trial.yml", trials=steps)
    assert run.ok, run.sentence
    assert run.changed == 1
    spoken = said(run, "Say that a reboot is due")
    assert spoken.count("then the same command again") == 3
    assert spoken.count(TEXT) == 3
    assert "because nvidia_driver_reboot is never" in spoken
    assert f"because the GPU is in use by {BUSY}" in spoken
    assert "because a container has no kernel of its own" in spoken


def test_this_machine_is_never_rebooted(again: Again) -> None:
    """Neither by a local connection nor by another one, which is what reaches this container."""
    step = {"step": "reboot.yml", "facts": ALONE, "plan": {"reboot": DUE}, "reboot": "if_needed", "force": True}
    itself = step | {"facts": {"system": {"container": False}}}
    for wishes in ({"trials": [step], "ansible_connection": "local"}, {"trials": [itself]}):
        run = again("--check", playbook="trial.yml", **wishes)
        assert run.ok, run.sentence
        assert run.changed == 0
        assert "this host is the machine that ansible runs on" in said(run)


def test_a_host_without_systemd_gets_the_rest(again: Again) -> None:
    """Here its drop-ins would go, as the host that is made up has nothing that reads them."""
    step = {"step": "present.yml", "facts": {"system": {"service_manager": "none"}}}
    run = again("--check", playbook="trial.yml", trials=[step])
    assert run.ok, run.sentence
    assert "services are left out, because this host has no systemd" in said(run)


def script(host: Any, path: str, *lines: str) -> None:
    assert host.run("printf '%%s\\n' '#!/bin/sh' %s > %s && chmod 755 %s", "\n".join(lines), path, path).rc == 0


def test_the_key_is_staged_and_its_password_is_nowhere(host: Any, again: Again) -> None:
    script(host, "/usr/local/bin/mokutil", 'echo "$@" > /root/mok.log; cat "$4" >> /root/mok.log')
    step = {"step": "secure_boot.yml", "plan": {"secure_boot": {"action": "stage"}}}
    step |= {"facts": {"mok": {"certificate": "/root/mok.der"}}}
    run = again("--check", playbook="trial.yml", trials=[step])
    assert "set nvidia_driver_mok_password" in run.sentence
    password = {"nvidia_driver_mok_password": "hunter2hunter2"}
    run = again("--diff", "-vvv", playbook="trial.yml", trials=[step], **password)
    assert run.ok, run.sentence
    assert "pending enrolment at console" in said(run)
    arguments, digest = host.file("/root/mok.log").content_string.splitlines()
    path = arguments.removeprefix("--import /root/mok.der --hash-file ")
    assert not host.file(path).exists
    salt = digest.split("$")[2]
    assert host.run("openssl passwd -6 -salt %s hunter2hunter2", salt).stdout.strip() == digest
    assert digest not in said(run) + run.stderr
    tasks = [host for play in run.result["plays"] for task in play["tasks"] for host in task["hosts"].values()]
    assert "hunter2" not in json.dumps(tasks)
    host.run("rm /usr/local/bin/mokutil /root/mok.log")


LISTING = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)"


def test_gpus_are_cut_between_drain_and_resume(host: Any, again: Again) -> None:
    answer = f'case "$*" in -L) echo "{LISTING}" ;; *) echo "$@" >> /root/mig.log ;; esac'
    script(host, "/usr/local/bin/nvidia-smi", answer)
    refresh = "[Service]\\nType=oneshot\\nExecStart=/bin/sh -c 'echo refresh >> /root/mig.log'"
    host.run(f'printf "{refresh}" > /etc/systemd/system/nvidia-cdi-refresh.service && systemctl daemon-reload')
    facts: dict[str, Any] = {"gpus": [{"uuid": "GPU-aaaa", "mig": False}]}
    facts |= {"units": {"nvidia-cdi-refresh.service": {"enabled": "enabled", "active": "inactive"}}}
    step = {"step": "mig.yml", "facts": facts}
    wishes = {
        "nvidia_driver_mig": [{"gpus": "all", "profiles": ["1g.10gb", "2g.20gb"]}],
        "nvidia_driver_drain_command": ["sh", "-c", "echo drain >> /root/mig.log"],
        "nvidia_driver_resume_command": ["sh", "-c", "echo resume >> /root/mig.log"],
    }
    busy = step | {"plan": {"reboot": {"blockers": [BUSY]}}}
    assert BUSY in again("--check", playbook="trial.yml", trials=[busy], **wishes).sentence
    run = again(playbook="trial.yml", trials=[step], **wishes)
    assert run.ok, run.sentence
    assert host.file("/root/mig.log").content_string.splitlines() == [
        "drain",
        "-i 0 -mig 1",
        "mig -i 0 -cgi 1g.10gb,2g.20gb -C",
        "refresh",
        "resume",
    ]
    slow = wishes | {"nvidia_driver_drain_command": ["sleep", "60"], "nvidia_driver_drain_timeout": 1}
    begun = time.monotonic()
    run = again(playbook="trial.yml", trials=[step], **slow)
    assert "nvidia_driver_drain_command (sleep 60) ended with no answer in 1 s" in run.sentence
    assert time.monotonic() - begun < 30
    host.run("rm /usr/local/bin/nvidia-smi /root/mig.log /etc/systemd/system/nvidia-cdi-refresh.service")
    host.run("systemctl daemon-reload")


def test_gpus_are_cut_again_when_the_host_starts(host: Any, again: Again) -> None:
    """The driver forgets instances; a unit knows them. Its run is a start's: after it nothing is left to cut."""
    wishes = {"nvidia_driver_mig": [{"gpus": "all", "profiles": ["1g.10gb", "1g.10gb"]}]}
    files = [{"step": "driver.yml", "plan": {"ready": {"packages": True, "modules": True}}}]
    run = again(playbook="trial.yml", trials=files, **wishes)
    assert run.ok, run.sentence
    assert host.service("gpufleet-mig").is_enabled
    verified = host.run("systemd-analyze verify gpufleet-mig.service")
    assert (verified.rc, verified.stderr) == (0, "")
    script(
        host,
        "/usr/local/bin/nvidia-smi",
        f"""case "$*" in
        -L) echo "{LISTING}"; cat /run/cut 2>/dev/null || true ;;
        --query-gpu*) echo "GPU-aaaa, Disabled" ;;
        *) echo "$@" >> /root/mig.log ;;
        esac""",
    )
    started = host.run("systemctl show --value --property ExecStart gpufleet-mig").stdout
    command = started.split("argv[]=")[1].split(" ;")[0]
    assert host.run(command).rc == 0
    assert host.file("/root/mig.log").content_string.splitlines() == ["-i 0 -mig 1", "mig -i 0 -cgi 1g.10gb,1g.10gb -C"]
    host.run("printf '  MIG 1g.10gb     Device  %s: (UUID: MIG-x)\\n' 0 1 > /run/cut; rm /root/mig.log")
    assert host.run(command).rc == 0
    assert not host.file("/root/mig.log").exists
    assert again(playbook="trial.yml", trials=files).ok
    assert host.run("systemctl cat gpufleet-mig").rc != 0, "not wished any more"
    host.run("rm /usr/local/bin/nvidia-smi /run/cut")


# --- taking it away --------------------------------------------------------------------------------------------------


def test_absent_leaves_the_host_as_it_was_found(host: Any, again: Again) -> None:
    run = again(nvidia_driver_state="absent")
    assert run.ok, run.sentence
    assert again(nvidia_driver_state="absent").changed == 0
    assert host.run("dpkg-query --show | diff /root/packages.before -").stdout == ""
    # But for the system groups that Debian's packages make and leave.
    find = "find /etc ! -type d ! -name ld.so.cache ! -name 'group*' ! -name 'gshadow*' -exec sha256sum {} + | sort"
    assert host.run(f"{find} | diff /root/etc.before -").stdout == ""
    assert host.run("find /etc -type d | sort | diff /root/folders.before -").stdout == ""
    assert not host.file(KEPT).exists
    assert not host.file(RECORD).exists
