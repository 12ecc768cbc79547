"""gpu_facts on the trees of real kinds of hosts, each built here file by file."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
import json
import lzma
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import _look_gpu as look_gpu
from ansible_collections.gpufleet.host.plugins.module_utils import _look_system as look_system
from ansible_collections.gpufleet.host.plugins.module_utils._gpu_ids import chip_of
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root, version_key
from ansible_collections.gpufleet.host.plugins.modules import gpu_facts
from trees import KERNEL, Tree, kernel_module

REPOSITORY = Path(__file__).resolve().parents[2]
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release Build  (dvs-builder@U22)"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.178.04  Mon Nov  2 10:00:00 UTC 2026"
EFI_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.mark.parametrize(
    ("text", "record"),
    [
        (None, None),
        ('{"time": "2026-11-24T03:00:00Z", "collection": "0.2.0", "facts": {}}',
         {"time": "2026-11-24T03:00:00Z", "collection": "0.2.0"}),
        ('{"time": 5}', {"time": None, "collection": None}),
        ("[1]", {"time": None, "collection": None}),
        ("{", {"time": None, "collection": None}),
    ],
)  # fmt: skip
def test_the_last_record_is_told_by_its_time(tree: Tree, text: str | None, record: Any) -> None:
    if text is not None:
        tree.file("var/lib/gpufleet/record.json", text)
    assert tree.look()["record"] == record


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# --- kinds of hosts --------------------------------------------------------------------------------------------------


def test_no_gpu(tree: Tree) -> None:
    facts = tree.look()
    assert facts["gpus"] == []
    assert facts["nvswitches"] == []
    assert facts["driver"] == {
        "loaded": None,
        "flavour": None,
        "on_disk": {},
        "on_disk_flavour": {},
        "user_space": None,
        "nouveau": False,
        "parameters": {},
        "device_nodes": [],
        "packages": {},
        "held": [],
        "origin": None,
        "ours": False,
        "dkms": [],
    }
    assert facts["reboot"] == {"required": False, "reasons": []}
    assert facts["gpu_processes"] == []
    assert facts["secure_boot"] is False


def test_the_options_of_the_loaded_module(tree: Tree) -> None:
    tree.driver(OPEN)
    tree.file("proc/driver/nvidia/params", 'RmProfilingAdminOnly: 1\nRegistryDwords: ""\n')
    assert tree.look()["driver"]["parameters"] == {"RmProfilingAdminOnly": "1", "RegistryDwords": '""'}


def test_workstation_with_a_display(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "0x2684", "0x030000", "nvidia", boot_vga="1", numa_node="-1")
    tree.pci("0000:01:00.1", "0x22ba", "0x040300", "snd_hda_intel")  # the card's sound function is no GPU
    tree.file("sys/bus/pci/devices/0000:01:00.0/drm/card1/card1-DP-1/status", "connected")
    tree.file("sys/bus/pci/devices/0000:01:00.0/drm/card1/card1-DP-2/status", "disconnected")
    tree.driver(OPEN)
    tree.information("0000:01:00.0", 0, "NVIDIA GeForce RTX 4090", "GPU-a1b2")
    tree.file("usr/lib/x86_64-linux-gnu/libcuda.so.580.178.04")
    tree.link("usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.580.178.04")
    tree.file(EFI_SECURE_BOOT, b"\x06\0\0\0\x01")
    tree.folder("run/systemd/system")
    facts = tree.look()
    assert facts["gpus"] == [
        {
            "pci_address": "0000:01:00.0",
            "device_id": "0x2684",
            "class": "0x030000",
            "name": "NVIDIA GeForce RTX 4090",
            "architecture": "ada",
            "compute_capability": "8.9",
            "kernel_driver": "nvidia",
            "display": True,
            "numa_node": None,
            "uuid": "GPU-a1b2",
            "mig": False,
            "vgpu": None,
        }
    ]
    assert facts["driver"]["loaded"] == facts["driver"]["user_space"] == "580.178.04"
    assert facts["driver"]["flavour"] == "open"
    assert facts["secure_boot"] is True
    assert facts["system"]["service_manager"] == "systemd"
    assert facts["system"]["virtualization"] == "none"
    assert (facts["cpu"]["cores"], facts["cpu"]["vcpus"], facts["cpu"]["numa_nodes"]) == (16, 32, 1)


def test_a_card_without_a_screen_drives_none(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "0x2684", "0x030000", "nvidia", boot_vga="1")
    tree.file("sys/bus/pci/devices/0000:01:00.0/drm/card0/card0-DP-1/status", "disconnected")
    assert tree.look()["gpus"][0]["display"] is False


def test_eight_h100_with_nvswitches(tree: Tree) -> None:
    for number in range(8):
        tree.pci(f"0000:{number + 1:02x}:00.0", "0x2330", "0x030200", "nvidia", numa_node=str(number // 4))
    for number in range(4):
        tree.pci(f"0000:a{number}:00.0", "0x22a3", "0x068000", "nvidia-nvswitch")
    tree.driver(OPEN)
    facts = tree.look()
    assert [gpu["compute_capability"] for gpu in facts["gpus"]] == ["9.0"] * 8
    assert [gpu["numa_node"] for gpu in facts["gpus"]] == [0] * 4 + [1] * 4
    assert facts["nvswitches"][0] == {"pci_address": "0000:a0:00.0", "device_id": "0x22a3"}
    assert len(facts["nvswitches"]) == 4


@pytest.mark.parametrize(
    ("device", "pci_class", "architecture", "capability"),
    [
        ("0x2901", "0x030200", "blackwell", "10.0"),  # B200
        ("0x1db6", "0x030200", "volta", "7.0"),  # V100 PCIe 32 GB
        ("0x3182", "0x030200", "blackwell", "10.3"),  # B300
        ("0x102d", "0x030200", "kepler", "3.7"),  # K80
        ("0x0dc4", "0x030000", None, None),  # older than this collection cares for
        ("0x4242", "0x030200", None, None),  # newer than this collection
    ],
)
def test_models_without_a_driver(
    tree: Tree, device: str, pci_class: str, architecture: str | None, capability: str | None
) -> None:
    tree.pci("0000:17:00.0", device, pci_class)
    gpu = tree.look()["gpus"][0]
    assert (gpu["architecture"], gpu["compute_capability"]) == (architecture, capability)
    assert (gpu["kernel_driver"], gpu["name"], gpu["uuid"]) == (None, None, None)


def test_t4_in_a_virtual_machine(tree: Tree) -> None:
    tree.pci("0000:00:04.0", "0x1eb8", "0x030200")
    tree.file("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 hypervisor\n")
    tree.file("sys/class/dmi/id/sys_vendor", "Google")
    tree.file("sys/class/dmi/id/product_name", "Google Compute Engine")
    facts = tree.look()
    assert facts["system"]["virtualization"] == "kvm"
    assert facts["system"]["container"] is False
    assert facts["gpus"][0]["architecture"] == "turing"


def test_mixed_pascal_and_blackwell_under_nouveau(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "0x1b80", "0x030000", "nouveau", boot_vga="1")
    tree.pci("0000:02:00.0", "0x2b85", "0x030000", boot_vga="0")
    tree.folder("sys/module/nouveau")
    facts = tree.look()
    assert [gpu["compute_capability"] for gpu in facts["gpus"]] == ["6.1", "12.0"]
    assert [gpu["display"] for gpu in facts["gpus"]] == [True, False]
    assert facts["driver"]["nouveau"] is True


def test_gb10_on_arm(tree: Tree) -> None:
    tree.file("proc/sys/kernel/arch", "aarch64")
    tree.file("proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 2000.00\nFeatures\t: fp asimd\n")
    tree.pci("000f:01:00.0", "0x2e12", "0x030200", "nvidia")
    facts = tree.look()
    assert facts["system"]["architecture"] == "aarch64"
    assert facts["gpus"][0]["compute_capability"] == "12.1"
    assert facts["system"]["virtualization"] == "none"
    assert facts["cpu"]["model"] is None


def test_gpu_bound_to_vfio(tree: Tree) -> None:
    tree.pci("0000:41:00.0", "0x2204", "0x030000", "vfio-pci")
    assert tree.look()["gpus"][0]["kernel_driver"] == "vfio-pci"


def test_virtual_functions_are_not_counted_twice(tree: Tree) -> None:
    tree.pci("0000:41:00.0", "0x20b5", "0x030200", "nvidia")
    tree.pci("0000:41:00.4", "0x20b5", "0x030200", "nvidia")
    tree.link("sys/bus/pci/devices/0000:41:00.4/physfn", "../0000:41:00.0")
    assert [gpu["pci_address"] for gpu in tree.look()["gpus"]] == ["0000:41:00.0"]


def test_a100_in_mig_slices(tree: Tree) -> None:
    tree.pci("0000:07:00.0", "0x20b0", "0x030200", "nvidia")
    tree.pci("0000:0f:00.0", "0x20b0", "0x030200", "nvidia")
    tree.driver(OPEN)
    tree.information("0000:07:00.0", 0, "NVIDIA A100-SXM4-40GB", "GPU-a")
    tree.information("0000:0f:00.0", 1, "NVIDIA A100-SXM4-40GB", "GPU-????????-????-????-????-????????????")
    tree.file("proc/driver/nvidia/capabilities/gpu0/mig/gi1/access")
    first, second = tree.look()["gpus"]
    assert (first["mig"], first["uuid"]) == (True, "GPU-a")
    # Only nvidia-smi could tell these two, and a tree has none.
    assert (second["mig"], second["uuid"]) == (None, None)


def test_loaded_module_older_than_on_disk(tree: Tree) -> None:
    tree.pci("0000:01:00.0", "0x2684", "0x030000", "nvidia")
    tree.driver(PROPRIETARY, "580.95.05")
    tree.module(KERNEL, "updates/dkms/nvidia.ko", kernel_module("580.178.04", "Dual MIT/GPL"))
    facts = tree.look()
    assert facts["driver"]["loaded"] == "580.95.05"
    assert facts["driver"]["flavour"] == "proprietary"
    assert facts["driver"]["on_disk"] == {KERNEL: "580.178.04"}
    assert facts["driver"]["on_disk_flavour"] == {KERNEL: "open"}
    assert facts["reboot"] == {
        "required": True,
        "reasons": ["the loaded NVIDIA driver is 580.95.05, the one on disk is 580.178.04"],
    }


def test_wsl2(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.file("proc/sys/kernel/osrelease", "6.6.87.2-microsoft-standard-WSL2")
    tree.file("run/systemd/container", "wsl")
    tree.file("dev/dxg")
    tree.file("usr/lib/wsl/lib/nvidia-smi")
    answer = "00000000:01:00.0, 0x268410DE, NVIDIA GeForce RTX 4090, GPU-w, 8.9, [N/A], 581.29\n"
    monkeypatch.setattr(Root, "command", lambda _root, *_argv: answer)
    facts = tree.look()
    assert facts["system"]["wsl"] is True
    assert facts["system"]["container"] is False
    assert facts["system"]["virtualization"] == "wsl"
    assert facts["driver"]["loaded"] == "581.29"
    assert facts["driver"]["device_nodes"] == ["/dev/dxg"]
    (gpu,) = facts["gpus"]
    assert gpu["device_id"] == "0x2684"
    assert gpu["kernel_driver"] == "dxgkrnl"
    assert (gpu["name"], gpu["uuid"], gpu["mig"]) == ("NVIDIA GeForce RTX 4090", "GPU-w", None)


def test_wsl2_without_a_gpu(tree: Tree) -> None:
    tree.file("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2")
    facts = tree.look()
    assert facts["gpus"] == []
    assert facts["driver"]["loaded"] is None


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("run/.containerenv", "", "podman"),
        (".dockerenv", "", "docker"),
        ("run/systemd/container", "systemd-nspawn", "systemd-nspawn"),
        ("proc/1/environ", "PATH=/bin\0container=lxc\0", "lxc"),
        ("proc/1/cgroup", "0::/kubepods/besteffort/pod1", "kubernetes"),
    ],
)
def test_container(tree: Tree, path: str, content: str, kind: str) -> None:
    tree.file(path, content)
    tree.pci("0000:01:00.0", "0x2684", "0x030000", "nvidia")
    tree.driver(PROPRIETARY, "580.95.05")
    tree.module(KERNEL, "updates/dkms/nvidia.ko", kernel_module("580.178.04", "NVIDIA"))
    facts = tree.look()
    assert facts["system"]["container"] is True
    assert facts["system"]["virtualization"] == kind
    assert facts["reboot"]["required"] is False  # it has no kernel of its own


def test_amd_gpu_only(tree: Tree) -> None:
    tree.pci("0000:03:00.0", "0x744c", "0x030000", "amdgpu", vendor="0x1002")
    assert tree.look()["gpus"] == []


# --- single facts ----------------------------------------------------------------------------------------------------


def test_nvidia_smi_fills_the_gaps_only(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.pci("0000:01:00.0", "0x4242", "0x030200", "nvidia")
    tree.driver(OPEN)
    tree.file("usr/bin/nvidia-smi")
    answer = "00000000:01:00.0, 0x424210DE, NVIDIA R100, GPU-r, 14.0, Disabled, 700.1\ngarbage\n"
    monkeypatch.setattr(Root, "command", lambda _root, *_argv: answer)
    gpu = tree.look()["gpus"][0]
    assert (gpu["name"], gpu["compute_capability"], gpu["mig"]) == ("NVIDIA R100", "14.0", False)
    assert gpu["device_id"] == "0x4242"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("nvidia.ko", bytes),
        ("nvidia-current.ko", bytes),
        ("nvidia-current.ko.xz", lzma.compress),
        ("nvidia.ko.gz", gzip.compress),
    ],
)
def test_module_on_disk(tree: Tree, name: str, pack: Any) -> None:
    tree.module(KERNEL, f"updates/dkms/{name}", pack(kernel_module("550.163.01", "NVIDIA")))
    driver = tree.look()["driver"]
    assert driver["on_disk"] == {KERNEL: "550.163.01"}
    assert driver["on_disk_flavour"] == {KERNEL: "proprietary"}


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 90, b"plain text"],
    ids=["empty", "cut off", "overflowing", "text"],
)
def test_a_damaged_module_is_there_and_unknown(tree: Tree, content: bytes) -> None:
    for name in ("nvidia.ko", "nvidia.ko.xz", "nvidia.ko.zst"):
        tree.module(KERNEL, f"updates/dkms/{name}", content)
        assert tree.look()["driver"]["on_disk"] == {KERNEL: None}


def test_each_kernel_has_its_own_module(tree: Tree) -> None:
    tree.module("6.9.1-old", "extra/nvidia.ko", kernel_module("580.95.05", "Dual MIT/GPL"))
    tree.module(KERNEL, "extra/nvidia.ko", kernel_module("580.178.04", "Dual MIT/GPL"))
    tree.file("lib/modules/6.13.0-new/modules.dep", "kernel/nvidia-not.ko:\nkernel/nvidia-drm.ko:\n")
    tree.folder("lib/modules/6.14-leftover/updates")
    facts = tree.look()
    assert facts["system"]["kernels_installed"] == ["6.9.1-old", KERNEL, "6.13.0-new"]
    assert facts["system"]["kernel_newest"] == "6.13.0-new"
    assert facts["driver"]["on_disk"] == {"6.9.1-old": "580.95.05", KERNEL: "580.178.04"}


def test_reboot_reasons(tree: Tree) -> None:
    tree.file("lib/modules/6.13.0-new/modules.dep", "")
    tree.file("run/reboot-required")
    tree.file("run/reboot-required.pkgs", "linux-image\ndbus\ndbus\n")
    assert tree.look()["reboot"]["reasons"] == [
        f"the running kernel {KERNEL} has been removed from disk",
        "the system asks for it (for dbus, linux-image)",
    ]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
        ({"sys/fs/cgroup/user.slice/cpu.max": "400000 100000", "proc/self/cgroup": "0::/user.slice/a.scope"}, 4.0),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        (
            {
                "sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us": "100000",
                "proc/self/cgroup": "4:cpu,cpuacct:/jobs\n0::/\n",
            },
            1.5,
        ),
        ({"proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3,8\n"}, 5.0),
        ({"proc/self/status": "Cpus_allowed_list:\t0-31\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_cpu_quota(tree: Tree, files: dict[str, str], quota: float | None) -> None:
    for path, content in files.items():
        tree.file(path, content)
    assert tree.look()["cpu"]["quota_cpus"] == quota


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({}, 65536000 * 1024),
        ({"sys/fs/cgroup/memory.max": "max"}, 65536000 * 1024),
        ({"sys/fs/cgroup/memory.max": "8589934592"}, 8589934592),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 65536000 * 1024),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296"}, 4294967296),
        ({"proc/meminfo": "nothing"}, None),
    ],
)
def test_memory(tree: Tree, files: dict[str, str], size: int | None) -> None:
    for path, content in files.items():
        tree.file(path, content)
    assert tree.look()["memory_bytes"] == size


@pytest.mark.parametrize(
    ("flags", "vendor", "product", "kind"),
    [
        ("fpu", "Supermicro", "SYS-821GE", "none"),
        ("fpu hypervisor", "QEMU", "Standard PC (Q35 + ICH9, 2009)", "qemu"),
        ("fpu hypervisor", "VMware, Inc.", "VMware7,1", "vmware"),
        ("fpu hypervisor", "Amazon EC2", "p5.48xlarge", "amazon"),
        ("fpu", "Amazon EC2", "p5.metal", "none"),
        ("fpu hypervisor", "Microsoft Corporation", "Virtual Machine", "microsoft"),
        ("fpu hypervisor", "", "", "vm"),
        ("fpu", "Oracle Corporation", "ORACLE SERVER E5-2L", "none"),
    ],
)
def test_virtual_machines(tree: Tree, flags: str, vendor: str, product: str, kind: str) -> None:
    tree.file("proc/cpuinfo", f"processor\t: 0\nflags\t\t: {flags}\n")
    tree.file("sys/class/dmi/id/sys_vendor", vendor)
    tree.file("sys/class/dmi/id/product_name", product)
    assert tree.look()["system"]["virtualization"] == kind


def test_engines_from_the_package_database(tree: Tree) -> None:
    stanza = "Package: {}\nStatus: {}\nPriority: optional\nVersion: {}"
    stanzas = [
        stanza.format("docker-ce", "install ok installed", "5:29.2.1-1~debian.13~trixie"),
        stanza.format("containerd.io", "install ok installed", "2.1.4-1"),
        stanza.format("podman", "deinstall ok config-files", "5.4.2+ds1-1"),
        stanza.format("nvidia-container-toolkit", "install ok installed", "1.20.1-1"),
    ]
    tree.file("var/lib/dpkg/status", "\n\n".join(stanzas) + "\n")
    facts = tree.look()
    assert facts["engines"] == {"docker": "29.2.1", "podman": None, "containerd": "2.1.4"}
    assert facts["toolkit"] == "1.20.1"


@pytest.mark.parametrize(
    ("said", "version"),
    [("Docker version 26.1.5+dfsg1, build a72d7cd", "26.1.5+dfsg1"), ("podman version 4.3.1", None), ("", None)],
)
def test_docker_of_no_package_is_asked_and_podman_under_its_name_is_none(
    tmp_path: Path, said: str, version: str | None
) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/docker").touch()
    root = Root(str(tmp_path))
    root.command = lambda *_words: said
    assert look_system.look_at_engines(root, [])["docker"] == version


def test_gpu_processes(tree: Tree) -> None:
    tree.file("dev/nvidia0")
    tree.link("proc/4242/fd/3", "/dev/nvidia0")
    tree.file("proc/4242/comm", "python\n")
    tree.file("proc/4242/status", "Name:\tpython\nUid:\t1000\t1000\t1000\t1000\n")
    tree.link("proc/4243/fd/3", "/dev/nvidiactl")
    process = {"pid": 4242, "name": "python", "uid": 1000, "user": None, "container": None}
    assert tree.look()["gpu_processes"] == [process]


def test_paths(tree: Tree) -> None:
    tree.folder("srv/ml")
    tree.file("srv/file")
    tree.link("srv/dangling", "/nowhere")
    tree.file(
        "proc/self/mountinfo",
        "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        "22 21 8:2 / /srv rw,relatime shared:5 - btrfs /dev/sda2 rw\n"
        "23 22 8:3 / /srv/read\\040only ro,noexec - xfs /dev/sda3 ro\n"
        "short line\n",
    )
    asked = ["/srv/ml", "/srv/file", "/srv/file/below", "/srv/dangling", "/srv/new/one", "/srvx", "/srv/read only/x"]
    paths = tree.look(paths=asked)["paths"]
    assert {path: value["kind"] for path, value in paths.items()} == {
        "/srv/ml": "directory",
        "/srv/file": "file",
        "/srv/file/below": "none",
        "/srv/dangling": "other",
        "/srv/new/one": "none",
        "/srvx": "none",
        "/srv/read only/x": "none",
    }
    assert (paths["/srv/ml"]["mount"], paths["/srv/ml"]["filesystem"]) == ("/srv", "btrfs")
    assert (paths["/srvx"]["mount"], paths["/srvx"]["filesystem"]) == ("/", "ext4")
    assert (paths["/srv/file/below"]["ancestor"], paths["/srv/file/below"]["ancestor_kind"]) == ("/srv/file", "file")
    assert (paths["/srv/new/one"]["ancestor"], paths["/srv/new/one"]["read_only"]) == ("/srv", False)
    assert paths["/srv/ml"]["free_bytes"] > 0


def test_a_mount_point_with_a_space(tree: Tree) -> None:
    tree.folder("srv/read only")
    tree.file("proc/self/mountinfo", "23 22 8:3 / /srv/read\\040only ro,noexec - xfs /dev/sda3 ro\n")
    value = tree.look(paths=["/srv/read only"])["paths"]["/srv/read only"]
    assert (value["mount"], value["read_only"], value["noexec"]) == ("/srv/read only", True, True)


@pytest.mark.parametrize(
    ("error", "acl"), [(None, True), ("ENODATA", True), ("EOPNOTSUPP", False), ("EACCES", None), ("EIO", None)]
)
def test_acl(tree: Tree, monkeypatch: pytest.MonkeyPatch, error: str | None, acl: bool | None) -> None:
    def getxattr(_path: str, _name: str) -> bytes:
        if error:
            raise OSError(getattr(errno, error), error)
        return b"\2\0\0\0"

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert tree.look(paths=["/"])["paths"]["/"]["acl"] is acl


def test_accounts(tree: Tree) -> None:
    tree.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000:A:/home/alice:/bin/bash\nbroken line\n")
    tree.file("etc/group", "root:x:0:\nalice:x:1000:\nml:x:900:alice,bob\nodd:x:nan:\n")
    facts = tree.look(users=["alice", "bob"], groups=["ml", "odd", "none"])
    alice = {"uid": 1000, "gid": 1000, "group": "alice", "home": "/home/alice", "groups": ["alice", "ml"]}
    bare = {"home_exists": False, "home_links": {}, "rootless_docker": False}
    assert facts["users"] == {"alice": {**alice, **bare}, "bob": None}
    tree.link("home/alice/.cache/huggingface", "/big/alice")
    tree.folder("home/alice/.kaggle")
    tree.file("home/alice/.config/systemd/user/docker.service", "[Service]\n")
    made = tree.look(users=["alice"])["users"]["alice"]
    assert (made["home_exists"], made["home_links"]) == (True, {".cache/huggingface": "/big/alice"})
    assert made["rootless_docker"]
    assert facts["groups"] == {"ml": {"gid": 900, "members": ["alice", "bob"]}, "odd": None, "none": None}


def test_a_package_that_lost_a_file(tree: Tree) -> None:
    library = "opt/uv/venv/lib/python3.12/site-packages"
    tree.file(f"{library}/torch/__init__.py")
    record = 'torch/__init__.py,sha256=x,1\n"torch/a,b.txt",sha256=x,1\ntorch/__pycache__/a.pyc,,\n../../../bin/t,,\n'
    tree.file(f"{library}/torch-2.14.1.dist-info/RECORD", record)
    tree.file(f"{library}/torch/a,b.txt")
    assert tree.look()["venv"]["incomplete"] == ["torch"]
    tree.file("opt/uv/venv/bin/t")
    assert tree.look()["venv"]["incomplete"] == []
    (tree.path / library / "torch/a,b.txt").unlink()
    assert tree.look()["venv"]["incomplete"] == ["torch"]


def test_uv_and_environment(tree: Tree) -> None:
    tree.file("usr/local/bin/uv", "program")
    tree.file("opt/uv/venv/pyvenv.cfg", "home = /opt/uv/python/bin\nuv = 0.13.9\nversion_info = 3.12.16\n")
    tree.file("opt/uv/python/bin/python3.12")
    tree.link("opt/uv/venv/bin/python", "/opt/uv/python/bin/python3.12")
    tree.folder("opt/uv/venv/lib/python3.12/site-packages/torch-2.14.1.dist-info")
    tree.folder("opt/uv/venv/lib/python3.12/site-packages/torchaudio-2.11.0.dist-info")
    facts = tree.look()
    digest = hashlib.sha256(b"program").hexdigest()
    assert facts["uv"] == {"path": "/usr/local/bin/uv", "version": None, "sha256": digest}
    assert facts["venv"] == {
        "path": "/opt/uv/venv",
        "python": "3.12.16",
        "torch": "2.14.1",
        "base": "/opt/uv/python",
        "incomplete": [],
        "writable_by_others": False,
    }
    (tree.path / "opt/uv/venv/lib/python3.12/site-packages").chmod(0o777)
    assert tree.look()["venv"]["writable_by_others"] is True


def test_an_environment_whose_python_has_gone_has_none(tree: Tree) -> None:
    tree.file("opt/uv/venv/pyvenv.cfg", "version_info = 3.12.16\n")
    tree.link("opt/uv/venv/bin/python", "/opt/uv/python/bin/python3.12")
    assert tree.look()["venv"]["python"] is None


def test_odd_input_never_raises(tree: Tree) -> None:
    odd = b"\xff\xfe\0\n:::\n= =\n\n - \n"
    for path in (
        "etc/os-release",
        "etc/passwd",
        "etc/group",
        "proc/cpuinfo",
        "proc/meminfo",
        "proc/self/cgroup",
        "proc/self/status",
        "proc/self/mountinfo",
        "proc/driver/nvidia/version",
        "proc/driver/nvidia/params",
        "proc/driver/nvidia/gpus/0000:01:00.0/information",
        "sys/devices/system/cpu/online",
        "sys/fs/cgroup/cpu.max",
        "sys/fs/cgroup/memory.max",
        "var/lib/dpkg/status",
        "opt/uv/venv/pyvenv.cfg",
        "etc/apt/sources.list",
        "etc/apt/sources.list.d/odd.sources",
        "etc/dkms/framework.conf",
        "var/lib/dkms/mok.pub",
        "sys/bus/pci/devices/0000:01:00.0/config",
        EFI_SECURE_BOOT,
    ):
        tree.file(path, odd)
    tree.pci("0000:01:00.0", "junk", "0x0302", "nvidia", numa_node="x")
    tree.folder("sys/bus/pci/devices/empty")
    facts = tree.look(paths=["/a\0b", "/x", "relative"], users=["", "a:b"], groups=[""], uv_path="/", venv_path="")
    assert facts["gpus"][0]["architecture"] is None
    assert facts["paths"]["/a\0b"]["kind"] == "none"


def test_an_empty_tree_is_all_unknown(tmp_path: Path) -> None:
    facts = gpu_facts.look(Root(str(tmp_path)), ["/srv"], ["root"], ["ml"], "/usr/local/bin/uv", "/opt/uv/venv")
    assert facts["system"]["distribution"] is None
    assert facts["cpu"] == {"model": None, "vcpus": None, "cores": None, "quota_cpus": None, "numa_nodes": None}
    assert facts["memory_bytes"] is None
    assert facts["users"] == {"root": None}


def test_this_host_can_be_looked_at() -> None:
    facts = gpu_facts.look(Root("/"), ["/tmp"], ["root"], ["root"], "/usr/local/bin/uv", "/opt/uv/venv")
    assert facts["users"]["root"]["uid"] == 0
    assert facts["groups"]["root"]["gid"] == 0
    assert facts["system"]["kernel"] == os.uname().release  # files below /proc/sys refuse large reads
    assert facts["paths"]["/tmp"]["kind"] == "directory"


def test_a_command_never_runs_in_a_tree(tmp_path: Path) -> None:
    assert Root(str(tmp_path)).command("true") is None
    assert Root("/").command("true") == ""
    assert Root("/").command("false") is None
    assert Root("/").command("/no/such/command") is None


@pytest.mark.parametrize(
    ("older", "newer"),
    [("6.9.1-amd64", "6.12.3-amd64"), ("6.12.0-rc1", "6.12.0"), ("6.12.48+deb13-amd64", "6.12.57+deb13-amd64")],
)
def test_versions_sort_as_numbers(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


def test_the_table_of_chips_agrees_with_the_probe() -> None:
    """Every architecture has one major compute capability but Turing, which shares Volta's."""
    majors: dict[str, set[str]] = {}
    for number in range(0x10000):
        chip = chip_of(hex(number))
        if chip and chip.compute_capability:
            majors.setdefault(chip.architecture, set()).add(chip.compute_capability.split(".")[0])
    assert majors == {
        "kepler": {"3"},
        "maxwell": {"5"},
        "pascal": {"6"},
        "volta": {"7"},
        "turing": {"7"},
        "ampere": {"8"},
        "ada": {"8"},
        "hopper": {"9"},
        "blackwell": {"10", "12"},
    }


def test_malformed_smi_rows_are_dropped() -> None:
    assert look_gpu.parse_smi("Failed to initialize NVML: Driver/library version mismatch\n") == []
    assert look_gpu.parse_smi(None) == []


def test_cpu_lists() -> None:
    assert look_system._cpu_count("0-3,8,10-11") == 7
    assert look_system._cpu_count("3-1") is None


@pytest.mark.parametrize("version", ["3.9.18", "3.13.0"])
def test_runs_on_the_oldest_and_the_newest_python(tree: Tree, version: str) -> None:
    """The module's own code on a host's Python, with AnsibleModule's import kept out of it."""
    python = Path(f"/root/.pyenv/versions/{version}/bin/python")
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    tree.pci("0000:01:00.0", "0x2684", "0x030000", "nvidia")
    tree.module(KERNEL, "updates/dkms/nvidia.ko", kernel_module("580.178.04", "Dual MIT/GPL"))
    script = (
        "import sys, types, json\n"
        "basic = types.ModuleType('ansible.module_utils.basic'); basic.AnsibleModule = object\n"
        "for name in ('ansible', 'ansible.module_utils'): sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules['ansible.module_utils.basic'] = basic\n"
        "from ansible_collections.gpufleet.host.plugins.modules import gpu_facts\n"
        "from ansible_collections.gpufleet.host.plugins.module_utils import host_plan\n"
        f"root = gpu_facts.Root({str(tree.path)!r})\n"
        "facts = gpu_facts.look(root, ['/srv'], ['root'], ['root'], '/usr/local/bin/uv', '/opt/uv/venv')\n"
        "print(json.dumps([facts, host_plan.make_plan(facts, {})]))\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY / "collections"), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin"}
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == ""
    facts, plan = json.loads(done.stdout)
    assert facts["gpus"][0]["compute_capability"] == "8.9"
    assert facts["driver"]["on_disk"] == {KERNEL: "580.178.04"}
    assert plan["torch"]["channel"] == "cu13"


def test_the_documented_fields_are_the_facts(tree: Tree) -> None:
    """docs/data.md names the fields that the roles rely on; each has to be there under its name."""
    page = (REPOSITORY / "docs/data.md").read_text().split("## Facts:")[1].split("\n## ")[0]
    names = [line.split("`")[1].removesuffix("[]") for line in page.splitlines() if line.startswith("| `")]
    assert len(names) > 10
    assert set(names) - {"addresses"} <= set(tree.look())  # those are asked by the module itself


def test_the_module_imports() -> None:
    assert importlib.import_module(gpu_facts.__name__).DOCUMENTATION
