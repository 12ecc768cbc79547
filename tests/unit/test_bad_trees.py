"""gpu_facts on damaged hosts: whatever stands in a file, the look ends, and the plan takes what it found."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils._fact_shapes import sound_facts
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from trees import KERNEL, Tree, kernel_module
from wicked import MORE, faults

DPKG = "Package: {}\nStatus: install ok installed\nVersion: 1:580.178.04-1\nArchitecture: amd64\n\n"
ASKED: dict[str, Any] = {
    "paths": ["/srv/ml", "/opt/uv", "/opt/uv/venv", "/opt/uv/cache", "/usr/local/bin/uv", "/usr"],
    "users": ["alice", "nobody-here"],
    "groups": ["ml"],
}
SEEDS = range(60 * MORE)


def whole(path: Path) -> Tree:
    """Return the tree of a host that has a bit of everything."""
    tree = Tree(path)
    for number in range(2):
        address = f"0000:0{number + 1}:00.0"
        tree.pci(address, "0x2330", "0x030200", "nvidia", numa_node="0", config="x" * 256)
        tree.information(address, number, "NVIDIA H100", f"GPU-{number}")
        tree.file(f"sys/bus/pci/devices/{address}/drm/card0/card0-DP-1/status", "connected")
    tree.pci("0000:a0:00.0", "0x22a3", "0x068000", "nvidia-nvswitch")
    tree.driver("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release Build")
    tree.module(KERNEL, "updates/dkms/nvidia.ko", kernel_module("580.178.04", "Dual MIT/GPL"))
    tree.file("usr/lib/x86_64-linux-gnu/libcuda.so.580.178.04")
    tree.link("usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.580.178.04")
    tree.file("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\x01")
    tree.file("var/lib/dpkg/status", "".join(map(DPKG.format, ("nvidia-open", "dkms", f"linux-image-{KERNEL}"))))
    tree.file(f"var/lib/dkms/nvidia/580.178.04/{KERNEL}/x86_64/module/nvidia.ko")
    tree.link("var/lib/dkms/nvidia/580.178.04/source", "/usr/src/nvidia-580.178.04")
    tree.file("var/lib/dkms/mok.pub", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    tree.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/bash\n")
    tree.file("etc/group", "root:x:0:\nalice:x:1000:\nml:x:990:alice\n")
    tree.file("etc/apt/sources.list", "deb http://archive.example/debian trixie main\n")
    tree.file("proc/self/mountinfo", "22 1 0:20 / / rw,relatime - ext4 /dev/sda1 rw\n")
    tree.file("proc/self/cgroup", "0::/user.slice\n")
    tree.file("proc/self/status", "Cpus_allowed_list:\t0-3\n")
    tree.file("sys/fs/cgroup/cpu.max", "200000 100000")
    tree.file("sys/fs/cgroup/memory.max", "max")
    tree.file("opt/uv/venv/pyvenv.cfg", "home = /opt/uv/python\nversion_info = 3.12.16\n")
    tree.folder("opt/uv/venv/lib/python3.12/site-packages/torch-2.14.1.dist-info")
    tree.file("opt/uv/venv/bin/python", "")
    tree.file("var/run/reboot-required", "*** System restart required ***\n")
    tree.folder("run/systemd/system")
    return tree


def damage(tree: Tree, chance: random.Random) -> list[str]:
    """Damage some files; return which and how."""
    files = sorted(path for path in tree.path.rglob("*") if path.is_file() or path.is_symlink())
    done = []
    for path in chance.sample(files, chance.randint(1, 6)):
        way = chance.choice(["junk", "empty", "numbers", "long", "cut", "folder", "loop", "gone", "nowhere"])
        text = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)
        if way == "folder":
            path.mkdir()
        elif way == "loop":
            path.symlink_to(path.name)
        elif way == "nowhere":
            path.symlink_to("/nowhere/at/all")
        elif way != "gone":
            content = {
                "junk": chance.randbytes(300),
                "empty": b"",
                "numbers": b"-1 99999999999999999999999 0x 4-1,9-,- nan",
                "long": b"a:b=c " * 50_000,
                "cut": text[: len(text) // 2] + b"\xff\0",
            }[way]
            path.write_bytes(content)
        done.append(f"{way} {path.relative_to(tree.path)}")
    return done


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_host(seed: int, tmp_path: Path) -> None:
    tree = whole(tmp_path)
    done = damage(tree, random.Random(seed))  # noqa: S311 - the same on each run, and no secret
    facts = {**tree.look(**ASKED), "addresses": {}}
    assert sound_facts(facts)[1] == [], done
    for sentence in make_plan(facts, {"users": ["alice"]})["refusals"]:
        assert faults(sentence) == [], done


def test_the_whole_host_is_seen(tmp_path: Path) -> None:
    facts = whole(tmp_path).look(**ASKED)
    assert len(facts["gpus"]) == 2
    assert facts["driver"]["loaded"] == facts["driver"]["user_space"] == "580.178.04"
    assert facts["driver"]["on_disk"] == {KERNEL: "580.178.04"}
    assert facts["venv"]["torch"] == "2.14.1"


@pytest.mark.parametrize("folder", ["sys", "proc", "etc", "var", "lib", "usr", "opt"])
def test_a_host_without_one_of_its_trees(folder: str, tmp_path: Path) -> None:
    tree = whole(tmp_path)
    shutil.rmtree(tmp_path / folder)
    facts = {**tree.look(**ASKED), "addresses": {}}
    assert sound_facts(facts)[1] == []
    assert [faults(sentence) for sentence in make_plan(facts, {})["refusals"] if faults(sentence)] == []
