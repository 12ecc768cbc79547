"""A virtual machine with a kernel of its own, for what no container can do: load a module, and start again.

It runs by qemu, as root, and is emulated unless GPUFLEET_TEST_ACCELERATOR=kvm: a /dev/kvm that is there need not work,
and then hangs. An emulated boot takes about a minute. The machine has one processor: with two, qemu 7.2's emulation has
spoilt a register in cmpxchg16b, and the kernel died of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from hosts import engine, images, mirror
from hosts.common import HostsError, cache, need, run, step, suffix

# What a server has, and what the driver's role would fetch for minutes in a machine that is emulated.
_PACKAGES = (
    "linux-image-amd64",
    "linux-headers-amd64",
    "openssh-server",
    "dkms",
    "ifupdown",
    "isc-dhcp-client",
    "kmod",
)
# The same files that the scenario's container shows: one GPU, an RTX 4090.
_GPU = {"vendor": "0x10de", "device": "0x2684", "class": "0x030000"}
_UNIT = """\
[Unit]
Description=Show a GPU where there is none
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
ExecStart=/bin/mount --bind /srv/pci /sys/bus/pci/devices

[Install]
WantedBy=sysinit.target
"""
_SETUP = f"""\
set -eu
cd "$1"
mkdir -p root/.ssh srv/pci/0000:01:00.0
cat > etc/systemd/system/show-gpu.service <<'UNIT'
{_UNIT}UNIT
ln -s ../show-gpu.service etc/systemd/system/sysinit.target.wants/show-gpu.service 2>/dev/null || {{
  mkdir -p etc/systemd/system/sysinit.target.wants
  ln -s ../show-gpu.service etc/systemd/system/sysinit.target.wants/show-gpu.service
}}
printf 'auto lo\\niface lo inet loopback\\nauto eth0\\niface eth0 inet dhcp\\n' > etc/network/interfaces
printf '/dev/vda / ext4 defaults 0 1\\n' > etc/fstab
echo gpu-vm > etc/hostname
: > etc/machine-id
# The role makes the initramfs anew, which an emulated machine does for minutes with all of Debian's modules in it.
cat > etc/initramfs-tools/conf.d/small <<'CONF'
MODULES=list
BUSYBOX=n
KEYMAP=n
COMPRESS=gzip
COMPRESSLEVEL=1
CONF
printf '%s\\n' virtio_pci virtio_blk ext4 crc32c_generic > etc/initramfs-tools/modules
# Nothing here outlives a power cut, and nobody else's apt is to hold the lock for minutes.
echo force-unsafe-io > etc/dpkg/dpkg.cfg.d/unsafe
ln -s /dev/null etc/systemd/system/apt-daily.timer
ln -s /dev/null etc/systemd/system/apt-daily-upgrade.timer
# depmod and the authorities' store are made anew by every run, and read thousands of files that nobody here needs.
# Of media, cec and rc stay: nouveau asks for them.
for folder in sound drivers/ata drivers/bluetooth drivers/hwmon drivers/iio drivers/infiniband drivers/input \
drivers/isdn \\
  drivers/media/dvb-frontends drivers/media/i2c drivers/media/pci drivers/media/platform drivers/media/radio \\
  drivers/media/rc/keymaps drivers/media/tuners drivers/media/usb \\
  drivers/mmc drivers/mtd drivers/net/ethernet drivers/net/wireless drivers/net/usb drivers/scsi \\
  drivers/staging drivers/target drivers/usb; do
  rm -rf lib/modules/*/kernel/"$folder"
done
for kernel in lib/modules/*; do chroot . depmod "${{kernel##*/}}"; done
: > etc/ca-certificates.conf
chroot . update-ca-certificates --fresh >/dev/null
chroot . update-initramfs -u
"""
_ACCELERATOR = os.environ.get("GPUFLEET_TEST_ACCELERATOR") or "tcg,thread=multi"
_BOOT_SECONDS = 600
_DISK = "8G"


def _place(release: images.Release) -> Path:
    recipe = hashlib.sha256(json.dumps([release.made, _PACKAGES, _SETUP, _GPU]).encode()).hexdigest()[:12]
    return cache() / "vm" / f"{release.name}-{recipe}"


def _machine() -> Path:
    return cache() / "vm" / f"running{suffix()}"


def up(release: images.Release) -> None:
    """Start a fresh machine, and write how to reach it to `vm<suffix>/running/inventory.json`.

    Raises:
        HostsError: not root, or the machine does not answer.
    """
    if os.geteuid() != 0:
        raise HostsError("a virtual machine's disk is made by root: run this as root.")
    need("mmdebstrap", "qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "mke2fs")
    down()
    base = _place(release)
    if not base.is_dir():
        with step(f"making the virtual machine of {release.name} (two minutes)"):
            _make(release, base)
    with step("starting the virtual machine"):
        _start(base)


def down() -> None:
    """Stop the machine and forget its disk; the base stays."""
    pid_file = _machine() / "pid"
    if pid_file.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    shutil.rmtree(_machine(), ignore_errors=True)


def _make(release: images.Release, base: Path) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
        made, tree = Path(scratch) / "made", Path(scratch) / "tree"
        made.mkdir()
        script = Path(scratch) / "setup"
        script.write_text(_SETUP)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", made / "key"])
        include = "--include=" + ",".join([*release.packages, *_PACKAGES])
        options = [*images.dpkg_options(), f'--customize-hook=sh {script} "$1"']
        words = ["mmdebstrap", "--quiet", "--variant=apt", "--format=directory", include, *options]
        run([*words, release.suite, tree, *images.sources_of(release)])
        for name, value in _GPU.items():
            (tree / "srv/pci/0000:01:00.0" / name).write_text(f"{value}\n")
        authorized = tree / "root/.ssh/authorized_keys"
        authorized.write_text((made / "key.pub").read_text())
        for path in (authorized.parent, authorized):
            path.chmod(0o700 if path.is_dir() else 0o600)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(next(tree.glob(f"boot/{name}-*")), made / name)
        run(["mke2fs", "-q", "-t", "ext4", "-d", tree, made / "disk", _DISK])
        made.rename(base)


def _start(base: Path) -> None:
    machine = _machine()
    machine.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base / "disk", machine / "disk.qcow2"])
    run(
        [
            *("qemu-system-x86_64", "-accel", _ACCELERATOR, "-cpu", "max,la57=off"),
            *("-m", "2048", "-display", "none", "-daemonize", "-pidfile", machine / "pid"),
            *("-serial", f"file:{machine / 'console.log'}"),
            *("-kernel", base / "vmlinuz", "-initrd", base / "initrd.img"),
            *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off"),
            *("-drive", f"file={machine / 'disk.qcow2'},if=virtio,cache=unsafe"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net,netdev=net"),
            *("-device", "virtio-rng"),
        ]
    )
    options = {
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(base / "key"),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=20",
        # What the mirror's names are here: the machine is on no container network.
        "mirror_address": _mirror_address(),
        "mirror_names": list(mirror.NAMES),
    }
    (machine / "inventory.json").write_text(json.dumps(options, indent=2) + "\n")
    _wait(options, machine / "console.log")


def _mirror_address() -> str:
    look = f'{{{{(index .NetworkSettings.Networks "{engine.NETWORK}").IPAddress}}}}'
    return engine.docker("container", "inspect", "-f", look, mirror.CONTAINER).strip()


def _wait(options: dict[str, object], console: Path) -> None:
    ssh = ["ssh", "-q", *str(options["ansible_ssh_common_args"]).split(), "-o", "BatchMode=yes"]
    ssh += ["-i", str(options["ansible_ssh_private_key_file"]), "-p", str(options["ansible_port"]), "root@127.0.0.1"]
    deadline = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < deadline:
        if subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(3)
    raise HostsError(f"the virtual machine does not answer; its console says: {console.read_text()[-500:]}")
