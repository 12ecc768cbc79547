"""The driver's plan as one table: GPU times distribution times wish, with the plan or the sentence that must come out.

The tag of a row says where its expectation is from: F1.2 is section 1.2 of the project's notes on installation facts
(NVIDIA's guides and the archives themselves), P6 the users' pain number 6 of its notes on peers, D the design.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import _driver_branches as branches
from ansible_collections.gpufleet.host.plugins.module_utils import _driver_sources as sources
from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import Case
from ansible_collections.gpufleet.host.plugins.module_utils._gpu_ids import chip_of
from ansible_collections.gpufleet.host.plugins.module_utils.driver_plan import plan_driver
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import WISHES, make_plan
from host_facts import (
    A100,
    B200,
    GB10,
    GTX_1080,
    H100,
    K80,
    RTX_4090,
    RTX_5090,
    T4,
    TITAN_X,
    V100,
    gpu,
    host,
)

GH200, GB200, B300, GB300, RTX_PRO_6000 = "0x2342", "0x2941", "0x3182", "0x31c2", "0x2bb1"
FERMI, OLD, UNLISTED_PASCAL, UNLISTED, NEWER = "0x1200", "0x0dc4", "0x1500", "0x2a00", "0x3400"
SWITCHES = [{"pci_address": f"0000:a{number}:00.0", "device_id": "0x22a3"} for number in range(4)]
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
DEBIAN_KEY = "02182E60104FCDC26EAE1B8597A5D4CB8793F200"
OLD_KEY = "EB693B3035CD5710E231E123A4B469963BF863CC"

Facts = dict[str, Any]


def bare(*devices: str, **changes: Any) -> Facts:
    """Return a Debian 13 host with no driver yet, its GPUs held by nobody."""
    return host(*devices, **{"driver": None, "held": None, **changes})


def debian(version: str, *devices: str, **changes: Any) -> Facts:
    name = {"12": "Debian GNU/Linux 12 (bookworm)", "13": "Debian GNU/Linux 13 (trixie)"}[version]
    kernel = {"12": "6.1.0-50-amd64", "13": "6.12.107+deb13-amd64"}[version]
    return bare(*devices, **{**on("debian", version, name, kernel, ["linux-image-amd64"]), **changes})


def ubuntu(version: str, *devices: str, meta: str | None = "generic", **changes: Any) -> Facts:
    """Return an Ubuntu host whose kernel came by this meta package."""
    kernel = {"22.04": "5.15.0-160-generic", "24.04": "6.8.0-90-generic", "26.04": "7.0.0-20-generic"}[version]
    metas = [f"linux-image-{meta}", f"linux-headers-{meta}"] if meta else []
    return bare(*devices, **{**on("ubuntu", version, f"Ubuntu {version} LTS", kernel, metas), **changes})


def enterprise(name: str, version: str, *devices: str, **changes: Any) -> Facts:
    system = on(name, version, f"{name} {version}", "5.14.0-570.el9.x86_64", [])
    return bare(*devices, **{**system, "system__os_family": "RedHat", **changes})


def on(distribution: str, version: str, pretty: str, kernel: str, metas: list[str]) -> Facts:
    return {
        "system__distribution": distribution,
        "system__version_id": version,
        "system__pretty_name": pretty,
        "system__kernel": kernel,
        "system__kernels_installed": [kernel],
        "system__kernel_newest": kernel,
        "system__kernel_packages": sorted(metas),
    }


ARM = {"system__architecture": "aarch64"}
OWN = {"driver_source": "distribution"}
NVIDIAS = {"driver_source": "nvidia"}
FOREIGN: Facts = {"driver__origin": "package", "driver__packages": {"nvidia-driver-cuda": "570.211.01-1"}}


class Row(NamedTuple):
    """One host with its wishes, and what must come out."""

    tag: str
    facts: Facts
    wishes: Facts
    plan: str  # "branch flavour source set", or the action
    pieces: tuple[str, ...] = ()  # packages that must be planned, or pieces of the refusal or the reason


def row(tag: str, facts: Facts, wishes: Facts, plan: str, *pieces: str) -> Row:
    return Row(tag, facts, wishes, plan, pieces)


TABLE: dict[str, Row] = {
    # --- GPUs on Debian 13, all by default
    "rtx 4090": row(
        "F1.2 F2.2", debian("13", RTX_4090), {}, "580 open nvidia compute", "nvidia-kernel-open-dkms=580.*",
        "nvidia-driver-cuda=580.*", "nvidia-persistenced=580.*", "linux-headers-amd64", "dkms",
        "linux-headers-6.12.107+deb13-amd64",
    ),
    "a100": row("F1.2", debian("13", A100), {}, "580 open nvidia compute"),
    "t4": row("F1.2", debian("13", T4), {}, "580 open nvidia compute"),
    "h100 alone": row("F2.5", debian("13", H100), {}, "580 open nvidia compute"),
    "h100 x8": row(
        "F2.5 P9", debian("13", *[H100] * 8, nvswitches=SWITCHES), {}, "580 open nvidia compute",
        "nvidia-fabricmanager=580.*",
    ),
    "b200 x8": row(
        "F2.5", debian("13", *[B200] * 8), {}, "580 open nvidia compute", "nvidia-fabricmanager=580.*", "nvlsm"
    ),
    "b300 x8": row("F2.5", debian("13", *[B300] * 8), {}, "580 open nvidia compute", "nvlsm"),
    "b200 alone": row("F2.5", debian("13", B200), {}, "580 open nvidia compute"),
    "gb200 x4": row(
        "F2.5", debian("13", *[GB200] * 4, **ARM), {}, "580 open nvidia compute", "nvidia-imex=580.*",
        "linux-headers-amd64",
    ),
    "gb300": row("F2.5", debian("13", GB300, **ARM), {}, "580 open nvidia compute", "nvidia-imex=580.*"),
    "rtx 5090": row("F1.2 P6", debian("13", RTX_5090), {}, "580 open nvidia compute"),
    "rtx pro 6000 x4": row("F1.2", debian("13", *[RTX_PRO_6000] * 4), {}, "580 open nvidia compute"),
    "gb10": row("F1.2 P6", debian("13", GB10, **ARM), {}, "580 open nvidia compute"),
    "gh200": row("F1.2", debian("13", GH200, **ARM), {}, "580 open nvidia compute"),
    "gtx 1080": row(
        "F1.2 F0.2", debian("13", GTX_1080), {}, "580 proprietary nvidia compute", "nvidia-kernel-dkms=580.*"
    ),
    "titan x": row("F1.2", debian("13", TITAN_X), {}, "580 proprietary nvidia compute"),
    "v100 x4": row("F1.2", debian("13", *[V100] * 4), {}, "580 proprietary nvidia compute"),
    "k80": row("F1.2", debian("13", K80), {}, "refuse", "kepler GPU 0x102d", "last driver 470", "vfio-pci"),
    "fermi": row("F1.2", debian("13", FERMI), {}, "refuse", "fermi GPU 0x1200", "390"),
    "an id older than the table": row("F1.2", debian("13", OLD), {}, "refuse", "0x0dc4", "gets no more fixes"),
    "an unlisted id below turing": row("F1.2", debian("13", UNLISTED_PASCAL), {}, "580 proprietary nvidia compute"),
    "an unlisted id above turing": row("F1.2", debian("13", UNLISTED), {}, "580 open nvidia compute"),
    "an id newer than the table": row("F1.1 F1.2", debian("13", NEWER), {}, "595 open nvidia compute"),
    "an id that is none": row("D", debian("13", "junk"), {}, "580 open nvidia compute"),
    # --- mixed boxes
    "gtx 1080 and rtx 4090": row("F1.2", debian("13", GTX_1080, RTX_4090), {}, "580 proprietary nvidia compute"),
    "a100 and rtx 5090": row("F1.2", debian("13", A100, RTX_5090), {}, "580 open nvidia compute"),
    "gtx 1080 and rtx 5090": row(
        "F1.2 P6", debian("13", GTX_1080, RTX_5090), {}, "refuse", "pascal GPU 0x1b80, which only the proprietary",
        "blackwell GPU 0x2b85", "vfio-pci",
    ),
    "v100 and b200": row("F1.2", debian("13", V100, V100, B200), {}, "refuse", "2 times volta GPU 0x1db6"),
    "gtx 1080 for a guest, rtx 5090 here": row(
        "D", debian("13", gpus=[gpu(GTX_1080, 1, "vfio-pci"), gpu(RTX_5090, 2, None)]), {}, "580 open nvidia compute"
    ),
    # --- places
    "no gpu": row("D", debian("13"), {}, "none", "no NVIDIA GPU"),
    "every gpu for guests": row("D", debian("13", A100, held="vfio-pci"), {}, "skip", "vfio-pci"),
    "a vgpu": row("D", debian("13", gpus=[{**gpu(A100), "vgpu": True}]), {}, "skip", "licensed guest driver"),
    "a jetson": row("D", debian("13", system__jetson=True, **ARM), {}, "skip", "L4T"),
    "wsl": row("D", host(RTX_4090, system__wsl=True, held="dxgkrnl"), {}, "skip", "Windows"),
    "a container": row("D", debian("13", A100, system__container=True), {}, "skip", "nvidia_driver_in_container"),
    "a container on a host without a gpu": row("D", debian("13", system__container=True), {}, "none", "no NVIDIA GPU"),
    "a container that shall have it": row(
        "D", debian("13", system__container=True, system__kernel_packages=[], system__kernels_installed=[]),
        {"driver_in_container": True}, "580 open nvidia compute", "linux-headers-amd64", "nvidia-driver-cuda=580.*",
    ),
    "no kernel on disk": row(
        "D", debian("13", A100, system__kernels_installed=[], system__kernel_newest=None), {}, "refuse",
        "no kernel on disk", "nvidia_driver_state=present",
    ),
    # --- sets
    "a desktop": row(
        "F2.2", debian("13", RTX_4090, system__display=True), {}, "580 open nvidia full", "nvidia-open=580.*"
    ),
    "an old desktop": row(
        "F2.2", debian("13", GTX_1080, system__display=True), {}, "580 proprietary nvidia full", "cuda-drivers=580.*"
    ),
    "a desktop for computing": row(
        "F2.2", debian("13", RTX_4090, system__display=True), {"driver_set": "compute"}, "580 open nvidia compute"
    ),
    "a server with everything": row("F2.2", debian("13", A100), {"driver_set": "full"}, "580 open nvidia full"),
    # --- branches and versions
    "595": row(
        "F1.1", debian("13", A100), {"driver_branch": 595}, "595 open nvidia compute", "nvidia-driver-cuda=595.*"
    ),
    "615": row("F1.2", debian("13", A100), {"driver_branch": "615"}, "615 open nvidia compute"),
    "615, proprietary": row(
        "F1.2 F0.2", debian("13", A100), {"driver_branch": "615", "driver_flavour": "proprietary"}, "refuse",
        "no proprietary module in driver 615", "nvidia_driver_flavour=proprietary", "580",
    ),
    "615 on pascal": row(
        "F0.2", debian("13", GTX_1080), {"driver_branch": "615"}, "refuse", "whose last driver is 580",
        "nvidia_driver_branch=615",
    ),
    "595 on volta": row("F1.2", debian("13", V100), {"driver_branch": "595"}, "refuse", "whose last driver is 580"),
    "620": row("F1.1", debian("13", A100), {"driver_branch": "620"}, "refuse", "no packages of driver 620"),
    "600": row("F1.1", debian("13", A100), {"driver_branch": "600"}, "refuse", "no driver branch 600", "580"),
    "latest": row("D", debian("13", A100), {"driver_branch": "latest"}, "refuse", "nvidia_driver_branch=latest"),
    "570 on debian 13": row("F2.1", debian("13", A100), {"driver_branch": "570"}, "refuse", "no driver 570", "580"),
    "570 on debian 12": row("F2.1", debian("12", A100), {"driver_branch": "570"}, "570 open nvidia compute"),
    "535 on debian 12": row("F1.1", debian("12", A100), {"driver_branch": "535"}, "refuse", "no driver 535"),
    "570 on gb10": row(
        "F1.1", ubuntu("24.04", GB10, **ARM), {**NVIDIAS, "driver_branch": "570"}, "refuse", "first driver is 580"
    ),
    "an exact version": row(
        "F2.2", debian("13", A100), {"driver_version": "580.95.05"}, "580 open nvidia compute",
        "nvidia-driver-cuda=580.95.05-*",
    ),
    "an exact version of another branch": row(
        "D", debian("13", A100), {"driver_version": "595.45.04"}, "595 open nvidia compute"
    ),
    "a version against the branch": row(
        "D", debian("13", A100), {"driver_version": "595.45.04", "driver_branch": "580"}, "refuse", "of branch 595"
    ),
    "half a version": row("D", debian("13", A100), {"driver_version": "580"}, "refuse", "nvidia_driver_version=580"),
    # --- flavours
    "open on volta": row(
        "F1.2", debian("13", V100), {"driver_flavour": "open"}, "refuse", "volta GPU 0x1db6", "only the proprietary"
    ),
    "proprietary on blackwell": row(
        "F1.2 P6", debian("13", RTX_5090), {"driver_flavour": "proprietary"}, "refuse", "only the open module"
    ),
    "proprietary on grace hopper": row(
        "F1.2", debian("13", GH200, **ARM), {"driver_flavour": "proprietary"}, "refuse", "only the open module"
    ),
    "proprietary on ampere": row(
        "F1.2", debian("13", A100), {"driver_flavour": "proprietary"}, "580 proprietary nvidia compute"
    ),
    "another flavour": row("D", debian("13", A100), {"driver_flavour": "nouveau"}, "refuse", "proprietary"),
    # --- Debian's own
    "debian 12's own": row(
        "F2.4", debian("12", A100), OWN, "535 proprietary distribution compute", "nvidia-kernel-dkms=535.*",
        "libcuda1=535.*", "nvidia-smi=535.*", "nvidia-persistenced",
    ),
    "debian 13's own": row("F2.4", debian("13", A100), OWN, "550 proprietary distribution compute"),
    "debian 13's own, open": row(
        "F2.4", debian("13", A100), {**OWN, "driver_flavour": "open"}, "550 open distribution compute",
        "nvidia-open-kernel-dkms=550.*",
    ),
    "debian 13's own, full": row(
        "F2.4", debian("13", RTX_4090, system__display=True), OWN, "550 proprietary distribution full",
        "nvidia-driver=550.*",
    ),
    "debian 13's own on blackwell": row(
        "F2.4", debian("13", RTX_5090), OWN, "refuse", "first driver is 570", "nvidia_driver_source=distribution"
    ),
    "debian 13's own, 580": row(
        "F2.4", debian("13", A100), {**OWN, "driver_branch": 580}, "refuse", "Found 550 among", "and no 580"
    ),
    "debian 13's own with nvswitches": row(
        "F2.5", debian("13", *[H100] * 8, nvswitches=SWITCHES), OWN, "refuse", "no Fabric Manager",
        "set nvidia_driver_source to nvidia",
    ),
    "debian 12, pascal": row("F2.1", debian("12", GTX_1080), {}, "580 proprietary nvidia compute"),
    # --- Ubuntu
    "ubuntu 24.04": row(
        "F2.3", ubuntu("24.04", A100), {}, "580 open distribution compute",
        "linux-modules-nvidia-580-server-open-generic", "nvidia-headless-no-dkms-580-server-open=580.*",
        "nvidia-utils-580-server=580.*",
    ),
    "ubuntu 24.04, hwe kernel": row(
        "F2.3", ubuntu("24.04", RTX_4090, meta="generic-hwe-24.04"), {}, "580 open distribution compute",
        "linux-modules-nvidia-580-server-open-generic-hwe-24.04",
    ),
    "ubuntu 22.04 on aws": row(
        "F2.3", ubuntu("22.04", T4, meta="aws"), {}, "580 open distribution compute",
        "linux-modules-nvidia-580-server-open-aws",
    ),
    "ubuntu 24.04 in a virtual machine": row(
        "F2.3", ubuntu("24.04", T4, meta="virtual"), {}, "580 open distribution compute",
        "linux-modules-nvidia-580-server-open-generic",
    ),
    "ubuntu 24.04, volta": row(
        "F2.3", ubuntu("24.04", V100), {}, "580 proprietary distribution compute",
        "linux-modules-nvidia-580-server-generic", "nvidia-headless-no-dkms-580-server=580.*",
    ),
    "ubuntu 24.04 desktop": row(
        "F2.3", ubuntu("24.04", RTX_4090, system__display=True), {}, "580 open distribution full",
        "linux-modules-nvidia-580-open-generic", "nvidia-driver-580-open=580.*",
    ),
    "ubuntu 26.04": row("F2.3", ubuntu("26.04", RTX_5090), {}, "580 open distribution compute"),
    "ubuntu, two kernels": row(
        "F2.3",
        ubuntu("24.04", A100, system__kernel_packages=["linux-image-generic", "linux-image-generic-hwe-24.04"]),
        {}, "580 open distribution compute", "linux-modules-nvidia-580-server-open-generic",
        "linux-modules-nvidia-580-server-open-generic-hwe-24.04",
    ),
    "ubuntu, a kernel of one's own": row(
        "F2.3", ubuntu("24.04", A100, meta=None), {}, "580 open distribution compute",
        "nvidia-dkms-580-server-open=580.*", "linux-headers-6.8.0-90-generic", "dkms",
    ),
    "ubuntu, 615": row(
        "F2.3", ubuntu("24.04", A100), {"driver_branch": 615}, "615 open distribution compute",
        "linux-modules-nvidia-615-server-open-generic",
    ),
    "ubuntu, 610": row(
        "F2.3", ubuntu("24.04", A100), {"driver_branch": 610}, "610 open distribution compute",
        "linux-modules-nvidia-610-open-generic", "nvidia-headless-no-dkms-610-open=610.*",
    ),
    "ubuntu, 570": row("F0.4", ubuntu("26.04", A100), {"driver_branch": 570}, "refuse", "that name brings 580 there"),
    "ubuntu, 590": row("F0.4", ubuntu("26.04", A100), {"driver_branch": 590}, "refuse", "that name brings 595 there"),
    "ubuntu with nvswitches": row(
        "F2.5", ubuntu("24.04", *[H100] * 8, nvswitches=SWITCHES), {}, "580 open distribution compute",
        "nvidia-fabricmanager-580=580.*",
    ),
    "ubuntu, 610 with nvswitches": row(
        "F2.5", ubuntu("24.04", *[H100] * 8, nvswitches=SWITCHES), {"driver_branch": 610}, "refuse",
        "no Fabric Manager 610", "nvidia_driver_source",
    ),
    "ubuntu, b200 x8": row(
        "F2.5", ubuntu("24.04", *[B200] * 8), {}, "580 open nvidia compute", "nvlsm", "nvidia-fabricmanager=580.*"
    ),
    "ubuntu's own, b200 x8": row("F2.5", ubuntu("24.04", *[B200] * 8), OWN, "refuse", "no nvlsm"),
    "ubuntu from nvidia": row(
        "F2.2", ubuntu("24.04", A100), NVIDIAS, "580 open nvidia compute", "nvidia-dkms-580-open=580.*",
        "libnvidia-compute-580=580.*", "nvidia-utils-580=580.*", "linux-headers-generic",
    ),
    "ubuntu from nvidia, 595": row(
        "F2.2 F0.3", ubuntu("24.04", A100), {**NVIDIAS, "driver_branch": 595}, "595 open nvidia compute",
        "nvidia-dkms-open=595.*", "libnvidia-compute=595.*",
    ),
    "ubuntu from nvidia, desktop": row(
        "F2.2", ubuntu("22.04", RTX_4090, system__display=True), NVIDIAS, "580 open nvidia full",
        "nvidia-open-580=580.*",
    ),
    "ubuntu 26.04 from nvidia": row(
        "F2.1", ubuntu("26.04", A100), NVIDIAS, "refuse", "no published fingerprint",
        "set nvidia_driver_repository_fingerprints",
    ),
    "ubuntu 26.04 from nvidia, with a fingerprint": row(
        "F2.1", ubuntu("26.04", A100), {**NVIDIAS, "driver_repository_fingerprints": [FINGERPRINT]},
        "580 open nvidia compute",
    ),
    "ubuntu 22.04 with its first kernel, b200 x8": row(
        "F2.5", ubuntu("22.04", *[B200] * 8), {}, "refuse", "the kernel 5.15.0-160-generic", "need 5.17 or newer"
    ),
    # --- RHEL and its kin
    "rocky 9": row(
        "F2.2", enterprise("rocky", "9.6", A100), {}, "580 open nvidia compute", "kmod-nvidia-open-dkms-580.*",
        "nvidia-driver-cuda-580.*", "kernel-devel-matched",
    ),
    "rhel 9, volta": row(
        "F2.2", enterprise("rhel", "9.4", V100), {}, "580 proprietary nvidia compute", "kmod-nvidia-latest-dkms-580.*"
    ),
    "oracle 9 with its own kernel": row(
        "F2.2", enterprise("ol", "9.6", A100, system__kernel="5.15.0-310.el9uek.x86_64"), {}, "580 open nvidia compute",
        "kernel-uek-devel",
    ),
    "alma 10": row("F2.1", enterprise("almalinux", "10.1", A100), {}, "refuse", "CDF6BA43.pub", "fingerprints"),
    "alma 10, with a fingerprint": row(
        "F2.1", enterprise("almalinux", "10.1", A100), {"driver_repository_fingerprints": [FINGERPRINT]},
        "580 open nvidia compute",
    ),
    "rocky 9's own": row("F2.2", enterprise("rocky", "9.6", A100), OWN, "refuse", "no NVIDIA driver of its own"),
    "an unknown system": row(
        "D", debian("13", A100) | {"system": {**debian("13", A100)["system"], "distribution": "gentoo"}},
        {"allow_unknown_platform": True}, "refuse", "no driver packages are known", "nvidia_driver_source",
    ),
    # --- repositories
    "a key that sqv refuses": row(
        "F2.1", debian("13", A100), {"driver_repository_fingerprints": [OLD_KEY]}, "refuse", "bound by SHA-1"
    ),
    "half a fingerprint": row(
        "D", debian("13", A100), {"driver_repository_fingerprints": ["3BF863CC"]}, "refuse", "gpg --show-keys"
    ),
    "a fingerprint as text": row(
        "D", debian("13", A100), {"driver_repository_fingerprints": FINGERPRINT}, "refuse", "no list"
    ),
    "a password in the address": row(
        "D", debian("13", A100), {"driver_repository_url": "https://me:secret@mirror/d"}, "refuse", "auth.conf.d"
    ),
    "no address": row("D", debian("13", A100), {"driver_repository_url": "mirror/d"}, "refuse", "write it whole"),
    # --- what is there already
    "a driver that works": row("D", host(A100, driver="570.211.01", **FOREIGN), {}, "keep", "570.211.01 works"),
    "a driver that works, on an unknown system": row(
        "D", host(A100, driver="570.211.01", system__distribution="gentoo"), {"allow_unknown_platform": True}, "keep"
    ),
    "a .run driver that works": row("D", host(A100, driver="580.1", driver__origin="runfile"), {}, "keep"),
    "a .run driver that does not": row(
        "D", debian("13", A100, driver__origin="runfile"), {}, "refuse", "nvidia-uninstall", "nvidia_driver_adopt=True"
    ),
    "a .run driver to be replaced": row(
        "D", host(A100, driver__origin="runfile"), {"driver_adopt": "false"}, "refuse", "nvidia-uninstall"
    ),
    "a driver to be replaced": row(
        "D", host(A100, driver="570.211.01", **FOREIGN), {"driver_adopt": False}, "580 open nvidia compute"
    ),
    "a driver that drives only one of two": row(
        "D", host(driver="580.178.04", gpus=[gpu(A100), gpu(RTX_5090, 2, None)], driver__loaded="580.178.04"), {},
        "580 open nvidia compute",
    ),
    "our driver": row("D", host(A100, driver__ours=True), {}, "580 open nvidia compute"),
    "a held package": row(
        "D",
        debian("13", A100, driver__packages={"nvidia-driver-cuda": "570.1-1"}, driver__held=["nvidia-driver-cuda"]),
        {}, "refuse", "apt-mark unhold nvidia-driver-cuda",
    ),
    "to be absent": row("D", debian("13", GTX_1080, RTX_5090), {"nvidia_driver_state": "absent"}, "remove", "absent"),
    # --- Fabric Manager and MIG by wish
    "fabric manager without nvswitch": row(
        "F2.5 P9", debian("13", A100), {"driver_fabric_manager": True}, "refuse", "no NVSwitch", "auto"
    ),
    "fabric manager for one b200": row(
        "F2.5", debian("13", B200), {"driver_fabric_manager": "true"}, "580 open nvidia compute", "nvlsm"
    ),
    "mig on a gpu that has none": row(
        "D", debian("13", RTX_4090), {"driver_mig": [{"gpus": "all", "profiles": ["1g.5gb"]}]}, "refuse", "0x2684",
        "cannot be cut",
    ),
    "mig on a gpu that is not there": row(
        "D", debian("13", A100), {"driver_mig": [{"gpus": [3], "profiles": []}]}, "refuse", "Found no GPU 3"
    ),
    "mig in odd words": row("D", debian("13", A100), {"driver_mig": [{"gpus": "all"}]}, "refuse", "nvidia_driver_mig"),
    "options in odd words": row(
        "D", debian("13", A100), {"driver_module_options": ["NVreg_X=1"]}, "refuse", "nvidia_driver_module_options"
    ),
}  # fmt: skip


def driver_of(facts: Facts, wishes: Facts) -> Facts:
    plan: Facts = make_plan(facts, wishes)["driver"]
    return plan


@pytest.mark.parametrize("case", TABLE)
def test_plan(case: str) -> None:
    tag, facts, wishes, expected, pieces = TABLE[case]
    assert tag
    whole = make_plan(facts, wishes)
    plan, refusals = whole["driver"], whole["refusals_of"]["nvidia_driver"]
    if expected == "refuse":
        (sentence,) = refusals
        assert plan["action"] == "refuse"
        assert [piece for piece in pieces if piece not in sentence] == []
        return
    assert refusals == []
    if " " not in expected:
        assert plan["action"] == expected
        assert [piece for piece in pieces if piece not in plan["reason"]] == []
        return
    assert plan["action"] == "install"
    assert f"{plan['branch']} {plan['flavour']} {plan['source']} {plan['set']}" == expected
    assert [piece for piece in pieces if piece not in plan["packages"]] == []


@pytest.mark.parametrize("case", [case for case, row in TABLE.items() if row.plan == "refuse"])
def test_every_refusal_says_what_was_found_wished_and_to_do(case: str) -> None:
    (sentence,) = make_plan(TABLE[case].facts, TABLE[case].wishes)["refusals_of"]["nvidia_driver"]
    found, wished, remedy = sentence.split("; ", 2)
    assert found.startswith("Found ")
    assert re.match(r"wished is nvidia_driver_\w+=", wished)
    assert remedy.startswith(("set ", "use ", "take ", "write ", "install ", "leave "))
    assert sentence.endswith(".")
    assert "secret" not in sentence


# --- what holds for every host ---------------------------------------------------------------------------------------

DEVICES: list[tuple[str, ...]] = [
    (), (GTX_1080,), (V100,), (T4,), (A100,), (RTX_4090,), (*[H100] * 8,), (B200,), (*[B200] * 8,), (RTX_5090,),
    (GB10,), (UNLISTED,), (NEWER,), (GTX_1080, RTX_4090), (GTX_1080, RTX_5090), (K80,),
]  # fmt: skip
SYSTEMS: list[Facts] = [
    debian("12")["system"],
    debian("13")["system"],
    ubuntu("22.04", meta="aws")["system"],
    ubuntu("24.04")["system"],
    ubuntu("24.04", meta=None)["system"],
    ubuntu("26.04", meta="generic-hwe-26.04")["system"],
    enterprise("rocky", "9.6")["system"],
    enterprise("rhel", "10.1")["system"],
]
MACHINES: list[Facts] = [{}, {"display": True}, {"architecture": "aarch64"}]
GRID_WISHES: list[Facts] = [
    {"driver_branch": branch, "driver_flavour": flavour, "driver_source": source}
    for branch in ("auto", 550, 580, 595, 610, 615)
    for flavour in ("auto", "open", "proprietary")
    for source in ("auto", "nvidia", "distribution")
] + [{"driver_version": "580.95.05"}, {"driver_version": "595.45.04", "driver_source": "nvidia"}]
KEY = {"driver_repository_fingerprints": [FINGERPRINT]}


def quick(facts: Facts, wishes: Facts) -> tuple[Facts, list[str]]:
    """Return the driver's plan and its refusals without the rest of the host's plan."""
    whole = {name: wishes.get(name, default) for name, (_variable, default) in WISHES.items()}
    refusals: list[str] = []
    case = Case(facts, whole, lambda found, wish, _remedy: refusals.append(f"{found}; {WISHES[wish][0]}"))
    return plan_driver(case), refusals


def grid() -> list[tuple[Facts, Facts]]:
    """Return every system with every kind of GPU and every wish."""
    hosts = []
    for devices, system, machine in itertools.product(DEVICES, SYSTEMS, MACHINES):
        facts = bare(*devices)
        facts["system"] = {**system, **machine}
        facts["nvswitches"] = SWITCHES if devices.count(H100) > 1 else []
        hosts.append(facts)
    return [(facts, {**wishes, **KEY}) for facts in hosts for wishes in GRID_WISHES]


def test_no_plan_breaks_a_rule_of_the_hardware_or_mixes_sources() -> None:
    """Some ten thousand hosts: what is planned fits the GPUs, and comes from one source."""
    planned = refused = 0
    for facts, wishes in grid():
        plan, refusals = quick(facts, wishes)
        if plan["action"] == "refuse":
            refused += 1
            assert refusals
            assert plan["packages"] == plan["changes"] == []
            assert all("; nvidia_driver_" in sentence for sentence in refusals)
        elif plan["action"] == "install":
            planned += 1
            assert refusals == []
            check_rules(facts, plan)
            check_one_source(facts, plan)
            check_pins(plan)
    assert planned > 4000
    assert refused > 4000


def check_rules(facts: Facts, plan: Facts) -> None:
    kinds = {branches.generation_of(gpu, facts["system"]["architecture"]) for gpu in facts["gpus"]}
    if kinds & {"blackwell", "late blackwell", "grace hopper", "newer than the table"} or plan["branch"] >= 615:
        assert plan["flavour"] == "open"
    if kinds & {"maxwell", "pascal", "volta", "older than Turing"}:
        assert (plan["flavour"], plan["branch"] <= 580) == ("proprietary", True)
    assert not kinds & {"kepler", "fermi"}
    names = " ".join(plan["packages"])
    wrong = r"-open\b|open-dkms|open-kernel" if plan["flavour"] == "proprietary" else r"cuda-drivers|nvidia-kernel-dkms"
    assert not re.search(wrong, names), names
    for item in plan["packages"]:
        _name, equals, version = item.partition("=")
        assert not equals or version.startswith(f"{plan['branch']}."), item
    assert plan["fabric_manager"]["wished"] == any("fabricmanager" in item for item in plan["packages"])
    assert plan["kernels"] == facts["system"]["kernels_installed"]


def check_one_source(facts: Facts, plan: Facts) -> None:
    names = [item.partition("=")[0] for item in plan["packages"]]
    distribution = facts["system"]["distribution"]
    if plan["source"] == "nvidia":
        assert plan["repository"]["fingerprints"]
        assert not [name for name in names if "-server" in name or name.startswith("linux-modules-nvidia")]
        assert not set(names) & set(sources.ONLY_DEBIAN)
        assert plan["module"] == "nvidia"
        suffixed = [name for name in names if re.search(r"nvidia.*-\d{3}(-|$)", name)]
        assert not suffixed or (distribution == "ubuntu" and plan["branch"] <= 580)
    else:
        assert plan["repository"] is None
        assert not set(names) & set(sources.ONLY_NVIDIA_DEBIAN)
        assert plan["branch"] in sources.OWN_BRANCHES[distribution, facts["system"]["version_id"]]
        assert plan["components"]["needed"]
    assert (distribution == "debian" and plan["source"] == "distribution") == ("current" in plan["module"])


def check_pins(plan: Facts) -> None:
    """Every package of the driver's version is pinned, by pins of one kind; the toolkit and the rest are not."""
    if plan["streams"] is not None:
        assert plan["pins"] == []
        return
    for item in plan["packages"]:
        name, equals, _version = item.partition("=")
        hits = [pin for pin in plan["pins"] if any(fnmatchcase(name, glob) for glob in pin["packages"])]
        assert len({pin["pin"].split()[0] == "version" for pin in hits}) <= 1, (name, hits)
        assert not equals or [pin for pin in hits if pin["priority"] > 1000], name
    for foreign in (
        "nvidia-gds",
        "nvidia-fs-dkms",
        "nvidia-cudnn",
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "nvidia-cuda-toolkit",
        "vim",
        "linux-image-amd64",
    ):
        hits = [pin for pin in plan["pins"] for glob in pin["packages"] if fnmatchcase(foreign, glob)]
        assert hits == [], foreign


def converge(facts: Facts, plan: Facts) -> Facts:
    """Return the facts of the host after the role has done all of the plan and a reboot."""
    after = copy.deepcopy(facts)
    system, driver = after["system"], after["driver"]
    version = plan["version"] or f"{plan['branch']}.178.04"
    for item in plan["packages"]:
        name, _equals, glob = item.partition("=")
        if system["os_family"] == "RedHat":
            driver["packages"][re.sub(r"-\d{3}\..*", "", name)] = f"{version}-1.el9"
            continue
        installed = glob.replace(f"{plan['branch']}.*", f"{version}-1").replace("*", "1ubuntu1")
        driver["packages"][name] = installed or "1:1.0-1"
        kernel = name.removeprefix("linux-headers-")
        if name != kernel:
            system["headers" if kernel[0].isdigit() else "kernel_packages"].append(
                kernel if kernel[0].isdigit() else name
            )
    for name in plan["conflicts"]:
        driver["packages"].pop(name, None)
    driver.update(
        loaded=version, flavour=plan["flavour"], user_space=version, ours=True, origin="package", nouveau=False
    )
    driver["on_disk"] = dict.fromkeys(plan["kernels"], version)
    driver["on_disk_flavour"] = dict.fromkeys(plan["kernels"], plan["flavour"])
    after["gpus"] = [{**gpu, "kernel_driver": "nvidia"} for gpu in after["gpus"]]
    after["units"] = {
        unit: {"enabled": "enabled" if wished else "disabled", "active": "active" if wished else "inactive"}
        for unit, wished in plan["services"].items()
    }
    return after


def test_a_host_that_has_it_all_is_ready_and_has_nothing_to_do() -> None:
    """The plan of a converged host: everything is true, nothing is left, no reboot, no download."""
    converged = 0
    for facts, wishes in grid():
        plan = quick(facts, wishes)[0]
        if plan["action"] != "install":
            continue
        assert plan["ready"]["all"] is False
        assert plan["changes"]
        again = quick(converge(facts, plan), wishes)[0]
        assert again["ready"] == dict.fromkeys(again["ready"], True), (plan["packages"], again)
        assert again["changes"] == again["differs"] == again["conflicts"] == []
        assert again["reboot"]["required"] is False
        assert again["downloads"] == {"bytes": 0, "unpacked_bytes": 0}
        same = ("branch", "version", "flavour", "source", "set", "module", "kernels", "services", "expect", "pins")
        assert {key: again[key] for key in same} == {key: plan[key] for key in same}
        converged += 1
    assert converged > 4000


@pytest.mark.parametrize("drift", ["package", "module", "flavour", "loaded", "service", "source", "broken", "conflict"])
def test_whatever_drifts_is_seen(drift: str) -> None:
    facts = debian("13", A100)
    after = converge(facts, driver_of(facts, {}))
    part = {"flavour": "modules", "broken": "packages", "conflict": "packages"}.get(drift, f"{drift}s")
    part = {"loadeds": "loaded", "sources": "source"}.get(part, part)
    driver, kernel = after["driver"], after["system"]["kernel"]
    if drift == "package":
        driver["packages"]["nvidia-driver-cuda"] = "610.57.04-1"
    elif drift == "module":
        driver["on_disk"].pop(kernel)
        driver["loaded"] = "580.178.04"
    elif drift == "flavour":
        driver["on_disk_flavour"][kernel] = "proprietary"
    elif drift == "loaded":
        driver["loaded"] = "580.95.05"
    elif drift == "service":
        after["units"]["nvidia-persistenced.service"]["active"] = "failed"
    elif drift == "source":
        driver["ours"] = False
        driver["loaded"] = None
    elif drift == "broken":
        after["system"]["packages_broken"] = ["nvidia-driver-cuda"]
    else:
        driver["packages"]["nvidia-kernel-dkms"] = "580.178.04-1"
    ready = driver_of(after, {})["ready"]
    assert ready[part] is False
    assert ready["all"] is False


def test_every_plan_has_the_documented_fields_and_is_json() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text()
    table = page.split("### The driver's plan")[1].split("\n## ")[0]
    names = {
        name.strip(" `").removesuffix("[]")
        for line in table.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].split(",")
    }
    actions = set()
    for _tag, facts, wishes, _expected, _pieces in TABLE.values():
        before = copy.deepcopy((facts, wishes))
        plan = driver_of(facts, wishes)
        assert (facts, wishes) == before
        assert set(plan) == names
        assert json.loads(json.dumps(plan)) == plan
        actions.add(plan["action"])
    assert actions == {"none", "skip", "keep", "install", "remove", "refuse"}


def test_the_table_is_as_large_as_promised() -> None:
    assert len(TABLE) >= 60
    assert all(re.fullmatch(r"((F\d+\.\d+|P\d+|D) ?)+", row.tag) for row in TABLE.values())


def test_every_wish_of_the_plan_is_one_of_the_preflight() -> None:
    assert {name for name in WISHES if name.startswith("driver_")} >= {"driver_branch", "driver_mig", "driver_reboot"}


# --- single parts ----------------------------------------------------------------------------------------------------


def test_the_repository_is_what_apt_source_takes() -> None:
    assert driver_of(debian("13", A100), {})["repository"] == {
        "name": "gpufleet-nvidia-driver",
        "url": "https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/",
        "suites": ["/"],
        "components": [],
        "architectures": ["amd64"],
        "key_url": "https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/8793F200.pub",
        "fingerprints": [DEBIAN_KEY],
    }


@pytest.mark.parametrize(
    ("facts", "folder", "key", "fingerprint"),
    [
        (debian("12", A100), "debian12/x86_64/", "3bf863cc.pub", OLD_KEY),
        (debian("13", GB10, **ARM), "debian13/sbsa/", "8793F200.pub", DEBIAN_KEY),
        (ubuntu("22.04", A100), "ubuntu2204/x86_64/", "3bf863cc.pub", OLD_KEY),
        (ubuntu("24.04", GB10, **ARM), "ubuntu2404/sbsa/", "3bf863cc.pub", OLD_KEY),
    ],
)
def test_each_release_has_its_own_key(facts: Facts, folder: str, key: str, fingerprint: str) -> None:
    found = driver_of(facts, NVIDIAS)["repository"]
    assert found["url"].endswith(folder)
    assert found["key_url"] == found["url"] + key
    assert found["fingerprints"] == [fingerprint]


def test_a_mirror_and_a_key_of_ones_own() -> None:
    wishes = {
        "driver_repository_url": "http://mirror/debian13",
        "driver_repository_fingerprints": [FINGERPRINT.lower()],
    }
    found = driver_of(debian("13", A100), wishes)["repository"]
    assert (found["url"], found["key_url"]) == ("http://mirror/debian13/", "http://mirror/debian13/8793F200.pub")
    assert found["fingerprints"] == [FINGERPRINT]
    elsewhere = driver_of(debian("13", A100), {**wishes, "driver_repository_key_url": "file:///k.asc"})["repository"]
    assert elsewhere["key_url"] == "file:///k.asc"


def test_the_yum_repository_and_the_module_stream() -> None:
    plan = driver_of(enterprise("rocky", "9.6", A100), {})
    base = "https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64/"
    assert plan["repository"] == {
        "name": "gpufleet-nvidia-driver",
        "baseurl": base,
        "gpgkey": f"{base}D42D0685.pub",
        "fingerprints": ["610C7B14E068A878070DA4E99CD0A493D42D0685"],
    }
    assert plan["streams"] == {"module": "nvidia-driver:580-open", "versionlock": []}
    assert driver_of(enterprise("rhel", "9", V100), {})["streams"]["module"] == "nvidia-driver:580-dkms"
    lock = driver_of(enterprise("ol", "10", A100), {**KEY, "driver_version": "580.95.05"})["streams"]
    assert lock == {"module": None, "versionlock": ["*nvidia*580.95.05*"]}


@pytest.mark.parametrize(
    ("facts", "wishes", "pins"),
    [
        (debian("13", A100), {}, [("version 580.*", 1001)]),
        (debian("13", A100), {"driver_version": "580.95.05"}, [("version 580.95.05-*", 1001)]),
        (
            debian("12", A100),
            {"driver_branch": 595},
            [('origin "developer.download.nvidia.com"', 1001), ("version 595.*", 1001)],
        ),
        (debian("13", A100), OWN, [("release o=Debian", 1001), ("release l=NVIDIA CUDA", -1)]),
        (ubuntu("24.04", A100), {}, [("release o=Ubuntu", 1001), ("release l=NVIDIA CUDA", -1)]),
        (ubuntu("24.04", A100), {"driver_version": "580.95.05"}, [("version 580.95.05-*", 1001)]),
        (
            ubuntu("24.04", A100),
            {**NVIDIAS, "driver_repository_url": "https://mirror/x"},
            [('origin "mirror"', 1001), ("release o=Ubuntu", -1), ('origin "mirror"', 1001), ("version 580.*", 1001)],
        ),
        (
            ubuntu("26.04", A100),
            {**NVIDIAS, **KEY, "driver_branch": 595},
            [("version 595.*", 1001)],
        ),
    ],
)
def test_pins(facts: Facts, wishes: Facts, pins: list[tuple[str, int]]) -> None:
    assert [(pin["pin"], pin["priority"]) for pin in driver_of(facts, wishes)["pins"]] == pins


@pytest.mark.parametrize(
    ("facts", "wishes", "installed", "conflicts"),
    [
        (
            debian("13", A100),
            {},
            {
                "nvidia-smi": "550.163.01-2",
                "nvidia-kernel-dkms": "550.163.01-2",
                "libcuda1": "550.163.01-2",
                "dkms": "3",
            },
            ["nvidia-kernel-dkms", "nvidia-smi"],
        ),
        (debian("13", A100), {}, {"nvidia-smi": "580.178.04-1"}, None),  # it is in nvidia-driver-cuda
        (debian("13", A100), OWN, {"nvidia-driver-cuda": "580.1-1", "nvidia-kernel-open-dkms": "580.1-1"}, None),
        (debian("13", A100), {}, {"nvidia-driver-pinning-595": "595-1"}, ["nvidia-driver-pinning-595"]),
        (debian("13", A100), {}, {"nvidia-driver-pinning-580": "580-1"}, []),
        (
            debian("13", A100),
            {"driver_version": "580.95.05"},
            {"nvidia-driver-pinning-580.159.03": "580-1"},
            ["nvidia-driver-pinning-580.159.03"],
        ),
        (debian("13", A100), {"driver_version": "580.95.05"}, {"nvidia-driver-pinning-580.95.05": "580-1"}, []),
        (
            ubuntu("24.04", A100),
            {},
            {"nvidia-driver-570-server-open": "570.1", "libnvidia-compute-570-server": "570.1", "nvidia-settings": "1"},
            ["libnvidia-compute-570-server", "nvidia-driver-570-server-open"],
        ),
        (
            ubuntu("24.04", A100),
            {},
            {"nvidia-dkms-580-server-open": "580.1", "nvidia-kernel-source-580-server-open": "580.1"},
            ["nvidia-dkms-580-server-open"],
        ),
        (ubuntu("24.04", V100), {}, {"linux-modules-nvidia-580-server-open-generic": "6"}, None),
        (ubuntu("24.04", A100), {}, {"linux-modules-nvidia-580-open-generic": "6"}, None),
        (ubuntu("24.04", A100), {**NVIDIAS, "driver_branch": 595}, {"libnvidia-compute-595": "595.1"}, None),
        (ubuntu("24.04", A100), {}, {"nvidia-container-toolkit": "1", "libnvidia-egl-wayland1": "1"}, []),
    ],
)
def test_conflicts(facts: Facts, wishes: Facts, installed: dict[str, str], conflicts: list[str] | None) -> None:
    facts = copy.deepcopy(facts)
    facts["driver"]["packages"] = installed
    assert driver_of(facts, wishes)["conflicts"] == (sorted(installed) if conflicts is None else conflicts)


@pytest.mark.parametrize(
    ("facts", "wishes", "module"),
    [
        (debian("13", A100), {}, "nvidia"),
        (debian("13", A100), OWN, "nvidia-current"),
        (debian("13", A100), {**OWN, "driver_flavour": "open"}, "nvidia-current-open"),
        (ubuntu("24.04", A100), {}, "nvidia"),
    ],
)
def test_the_modules_name(facts: Facts, wishes: Facts, module: str) -> None:
    assert driver_of(facts, wishes)["module"] == module


@pytest.mark.parametrize("device", [B200, B300, H100, A100])
def test_one_gpu_alone_needs_no_fabric(device: str) -> None:
    plan = driver_of(debian("13", device), {})
    assert plan["fabric_manager"]["wished"] is False
    assert not [name for name in plan["packages"] if "fabric" in name or "nvlsm" in name or "imex" in name]


def test_components_that_are_off_are_named() -> None:
    archive = {"uri": "http://archive.example/debian", "suite": "trixie", "components": ["main", "non-free-firmware"]}
    facts = debian("13", A100, system__archive=archive)
    assert driver_of(facts, {})["components"] == {"needed": ["contrib"], "missing": ["contrib"]}
    assert driver_of(facts, OWN)["components"]["missing"] == ["contrib", "non-free"]
    assert driver_of(ubuntu("24.04", A100), {"driver_branch": 595})["components"]["needed"] == [
        "restricted",
        "multiverse",
    ]


def test_dnf_sees_another_branch_too() -> None:
    facts = enterprise("rocky", "9.6", A100)
    after = converge(facts, driver_of(facts, {}))
    assert driver_of(after, {})["ready"]["packages"] is True
    assert driver_of(after, {"driver_branch": 595})["ready"]["packages"] is False


def test_fabric_manager_equals_the_driver_that_stays() -> None:
    facts = debian("13", *[H100] * 8, nvswitches=SWITCHES)
    after = converge(facts, driver_of(facts, {}))
    after["driver"]["user_space"] = after["driver"]["loaded"] = "580.95.05"
    del after["driver"]["packages"]["nvidia-fabricmanager"]
    plan = driver_of(after, {})
    assert "nvidia-fabricmanager=580.95.05-*" in plan["packages"]
    assert plan["fabric_manager"] == {"wished": True, "version": "580.95.05"}
    assert plan["units_conditions"] == {
        "nvidia-fabricmanager.service": ["ConditionPathExists=/proc/driver/nvidia/version"]
    }


@pytest.mark.parametrize(
    ("branch", "time", "warning"),
    [
        (580, "2026-11-24", None),
        (580, "2028-05-01", "in 60 days"),
        (580, "2028-07-01", "has ended driver branch 580"),
        (595, "2026-11-24", None),
        (595, "2026-12-31", "ends driver branch 595 on 2027-03-31, in 90 days"),
        (595, "2026-12-30", None),
        (610, "2026-11-24", "has ended driver branch 610"),
        (615, "2026-11-24", None),  # nobody has said when
    ],
)
def test_the_end_of_a_branch_is_warned_of(branch: int, time: str, warning: str | None) -> None:
    whole = make_plan(debian("13", A100, time=f"{time}T00:00:00+00:00"), {"driver_branch": branch})
    found = [sentence for sentence in whole["warnings"] if "driver branch" in sentence]
    assert len(found) == (0 if warning is None else 1)
    assert warning is None or warning in found[0]
    assert whole["driver"]["end_of_life"]["warning"] == (found[0] if found else None)


def test_an_ended_branch_is_warned_of_also_where_it_is_kept() -> None:
    whole = make_plan(host(A100, driver="550.163.01"), {})
    assert any("has ended driver branch 550" in sentence for sentence in whole["warnings"])


def test_a_kept_driver_is_told_to_differ() -> None:
    facts = host(RTX_4090, driver="570.211.01", driver__flavour="proprietary", **FOREIGN)
    plan = driver_of(facts, {})
    assert len(plan["differs"]) == 2
    assert "branch 580 is planned" in plan["differs"][0]
    assert plan["expect"] == {"branch": 570, "version": "570.211.01", "flavour": "proprietary"}
    assert plan["packages"] == plan["changes"] == []


@pytest.mark.parametrize(
    ("packages", "piece"),
    [
        ({}, "no Fabric Manager"),
        ({"nvidia-fabricmanager": "580.95.05-1"}, "Fabric Manager is 580.95.05-1"),
        ({"nvidia-fabricmanager-580": "580.178.04-0ubuntu1"}, None),
    ],
)
def test_a_kept_driver_with_nvswitches_needs_its_fabric_manager(packages: dict[str, str], piece: str | None) -> None:
    facts = host(*[H100] * 8, nvswitches=SWITCHES, driver__packages=packages)
    differs = driver_of(facts, {})["differs"]
    assert len(differs) == (0 if piece is None else 1)
    assert piece is None or piece in differs[0]


def test_debians_known_build_failure_is_told_before_the_build() -> None:
    wishes = {**OWN, "driver_flavour": "open"}
    facts = debian("13", A100)
    assert any("does not build" in sentence for sentence in make_plan(facts, wishes)["warnings"])
    older = {"system__kernel_newest": "6.12.48", "system__kernels_installed": ["6.12.48"], "system__kernel": "6.12.48"}
    assert not any("not build" in sentence for sentence in make_plan(debian("13", A100, **older), wishes)["warnings"])
    assert not any("not build" in sentence for sentence in make_plan(facts, OWN)["warnings"])


def test_a_kernel_without_signed_modules_is_told() -> None:
    whole = make_plan(ubuntu("24.04", A100, meta="gke"), {})
    assert any("built here by DKMS" in sentence for sentence in whole["warnings"])
    assert "linux-headers-gke" in whole["driver"]["packages"]


@pytest.mark.parametrize(
    ("facts", "mok", "expected"),
    [
        (debian("13", A100), {}, ("none", "none")),
        (debian("13", A100, secure_boot=True), {}, ("mok", "stage")),
        (debian("13", A100, secure_boot=True), {"enrolled": True}, ("mok", "none")),
        (debian("13", A100, secure_boot=True), {"enrolled": False, "pending": True}, ("mok", "pending")),
        (ubuntu("24.04", A100, secure_boot=True), {}, ("distribution", "none")),
        (debian("13", A100, secure_boot=True, system__container=True), {}, ("none", "none")),
        (ubuntu("24.04", A100, secure_boot=True, meta=None), {}, ("mok", "stage")),
    ],
)
def test_secure_boot(facts: Facts, mok: Facts, expected: tuple[str, str]) -> None:
    facts = {**facts, "mok": {"certificate": "/k", "enrolled": None, "pending": None, **mok}}
    found = driver_of(facts, {"driver_in_container": True})["secure_boot"]
    assert (found["signed_by"], found["action"]) == expected


def after_install(**changes: Any) -> Facts:
    facts = debian("13", A100)
    after = converge(facts, driver_of(facts, {}))
    for name, value in changes.items():
        fact, _separator, field = name.partition("__")
        if field:
            after[fact][field] = value
        else:
            after[fact] = value
    return after


@pytest.mark.parametrize(
    ("facts", "codes"),
    [
        (after_install(), []),
        (after_install(driver__loaded="570.211.01"), ["loaded_differs"]),
        (after_install(driver__loaded=None), ["not_loaded"]),
        (after_install(driver__loaded=None, driver__nouveau=True), ["nouveau_loaded"]),
        (after_install(system__kernel="6.12.1"), ["kernel_removed"]),
        (
            after_install(
                driver__loaded=None,
                system__kernel="6.12.1",
                system__kernels_installed=["6.12.1", "6.12.107+deb13-amd64"],
            ),
            ["other_kernel"],
        ),
        (
            after_install(secure_boot=True, driver__loaded=None, mok={"enrolled": False, "pending": True}),
            ["not_loaded", "mok_pending"],
        ),
        (after_install(system__container=True, driver__loaded=None), []),
    ],
)
def test_reboot_reasons(facts: Facts, codes: list[str]) -> None:
    found = driver_of(facts, {"driver_in_container": True})["reboot"]
    assert [reason["code"] for reason in found["reasons"]] == codes
    assert found["required"] is bool(codes)


PROFILING = "NVreg_RestrictProfilingToAdminUsers"


@pytest.mark.parametrize(
    ("shown", "wished", "codes"),
    [
        ({"RmProfilingAdminOnly": "1"}, {PROFILING: 0}, ["options_differ"]),
        ({"RestrictProfilingToAdminUsers": "1"}, {PROFILING: 0}, ["options_differ"]),
        ({"RmProfilingAdminOnly": "0"}, {PROFILING: False}, []),
        ({"RmProfilingAdminOnly": "1"}, {}, []),
        ({"EnableGpuFirmware": "18"}, {"NVreg_EnableGpuFirmware": "0x12"}, []),
        ({"ResmanDebugLevel": "4294967295"}, {"NVreg_ResmanDebugLevel": -1}, []),
        ({"RegistryDwords": '""'}, {"NVreg_RegistryDwords": "PowerMizerEnable=0x1"}, []),
        ({}, {PROFILING: 0}, []),
    ],
)
def test_options_that_the_loaded_module_lacks_wait_for_a_reboot(shown: Facts, wished: Facts, codes: list[str]) -> None:
    found = driver_of(after_install(driver__parameters=shown), {"driver_module_options": wished})["reboot"]
    assert [reason["code"] for reason in found["reasons"]] == codes


def test_an_option_is_a_number_where_a_bool_is_wished() -> None:
    """`options nvidia NVreg_X=True` is refused by the kernel, and the module does not load."""
    options = driver_of(debian("13", A100), {"driver_module_options": {PROFILING: False}})["modprobe"]["options"]
    assert str(options[PROFILING]) == "0"


def process(name: str, user: str | None = "alice", container: str | None = None) -> Facts:
    return {"pid": 42, "name": name, "uid": 1000, "user": user, "container": container}


@pytest.mark.parametrize(
    ("who", "wishes", "blockers", "allowed"),
    [
        (None, {}, [], False),
        (None, {"driver_reboot": "if_needed"}, [], True),
        (process("python"), {"driver_reboot": "if_needed"}, ["process 42 (python) of alice"], False),
        (
            process("python"),
            {"driver_reboot": "if_needed", "driver_force": True},
            ["process 42 (python) of alice"],
            True,
        ),
        (process("python", None), {}, ["process 42 (python) of user 1000"], False),
        (process("python", "root", "ab" * 32), {}, ["process 42 (python) of root in container abababababab"], False),
        (process("nvidia-persiste", "root"), {"driver_reboot": "if_needed"}, [], True),
        (process("nv-fabricmanage", "root"), {"driver_reboot": "if_needed"}, [], True),
        (process("gnome-shell", "gdm"), {"driver_reboot": "if_needed"}, [], True),
        (process("gnome-shell"), {"driver_reboot": "if_needed"}, ["process 42 (gnome-shell) of alice"], False),
    ],
)
def test_a_reboot_waits_for_consent_and_for_who_works(
    who: Facts | None, wishes: Facts, blockers: list[str], allowed: bool
) -> None:
    found = driver_of(after_install(gpu_processes=[who] if who else []), wishes)["reboot"]
    assert (found["blockers"], found["allowed"]) == (blockers, allowed)


def test_mig_changes() -> None:
    facts = debian("13", gpus=[{**gpu(A100, 1), "mig": True}, {**gpu(A100, 2), "mig": False, "uuid": "GPU-b"}])
    one = {"driver_mig": [{"gpus": [0], "profiles": ["1g.5gb+me", "2g.10gb"]}, {"gpus": ["GPU-b"], "profiles": []}]}
    assert driver_of(facts, one)["mig"]["changes"] == []
    every = driver_of(facts, {"driver_mig": [{"gpus": "all", "profiles": ["1g.5gb"] * 7}]})
    assert every["mig"]["changes"] == ["turn MIG on on the GPU at 0000:02:00.0"]
    assert every["ready"]["mig"] is False


def test_module_options_and_what_is_kept_away() -> None:
    options = {"NVreg_RestrictProfilingToAdminUsers": 0}
    modprobe = driver_of(debian("13", A100), {"driver_module_options": options})["modprobe"]
    assert modprobe["options"] == options
    assert {"nouveau", "nova_core"} <= set(modprobe["blacklist"])


@pytest.mark.parametrize(
    ("name", "blocked"),
    [
        ("nvidia-driver-cuda", True),
        ("libnvidia-compute-580-server", True),
        ("linux-modules-nvidia-580-server-open-generic", True),
        ("libcuda1", True),
        ("libcudadebugger1", True),
        ("nvlsm", True),
        ("nvidia-container-toolkit", False),
        ("libnvidia-container1", False),
        ("nvidia-cuda-toolkit", False),
        ("linux-image-amd64", False),
        ("openssl", False),
    ],
)
def test_unattended_upgrades_leaves_the_driver_alone_and_nothing_else(name: str, blocked: bool) -> None:
    assert any(re.match(pattern, name) for pattern in driver_of(debian("13", A100), {})["block"]) is blocked


def test_signed_modules_wait_with_their_kernel() -> None:
    block = driver_of(ubuntu("24.04", A100, meta="generic-hwe-24.04"), {})["block"]
    for name in ("linux-image-generic-hwe-24.04", "linux-headers-generic-hwe-24.04", "linux-generic-hwe-24.04"):
        assert any(re.match(pattern, name) for pattern in block), name
    assert not any(re.match(pattern, "linux-image-generic") for pattern in block)


def test_the_torch_channel_follows_the_driver_that_will_be_there() -> None:
    assert make_plan(debian("13", A100), OWN)["torch"]["channel"] == "cu128"  # 550 cannot serve CUDA 13
    assert make_plan(debian("13", A100), {})["torch"]["channel"] == "cu13"
    refused = make_plan(debian("13", A100), {**OWN, "channel": "cu13"})["refusals_of"]["uv_python"]
    assert len(refused) == 1
    assert "driver 550 planned" in refused[0]
    assert "580" in refused[0]
    replaced = host(A100, driver="550.163.01", **FOREIGN)
    assert make_plan(replaced, {})["torch"]["channel"] == "cu128"
    assert make_plan(replaced, {"driver_adopt": False})["torch"]["channel"] == "cu13"


def test_the_driver_counts_in_the_forecast() -> None:
    facts = debian("13", A100)
    facts["paths"]["/usr"] = {**facts["paths"]["/opt/uv"], "free_bytes": 500_000_000, "mount": "/usr"}
    whole = make_plan(facts, {})
    assert whole["downloads"][0]["what"].startswith("NVIDIA driver 580")
    (sentence,) = whole["refusals_of"]["nvidia_driver"]
    assert "0.5 GB free on /usr, where 1.1 GB are needed" in sentence
    assert sentence.endswith("free 0.6 GB there.")


def test_the_summary_tells_what_becomes_of_the_driver() -> None:
    def lines(facts: Facts, wishes: Facts) -> str:
        return "\n".join(line for line in make_plan(facts, wishes)["summary"] if line.startswith("driver"))

    assert "planned: 580 (open), compute set, from NVIDIA's repository" in lines(debian("13", A100), {})
    assert "planned: 550 (proprietary), compute set, from the distribution" in lines(debian("13", A100), OWN)
    assert "kept: driver 570.211.01 works" in lines(host(A100, driver="570.211.01", **FOREIGN), {})
    assert "left alone: a Jetson" in lines(debian("13", system__jetson=True), {})


def test_a_branch_knows_its_facts() -> None:
    assert max(number for number in range(0x10000) if chip_of(hex(number))) == branches._NEWEST_KNOWN
    numbers = [branch.number for branch in branches.BRANCHES]
    assert numbers == sorted(set(numbers))
    assert branches.newest_production() == 595
    assert all(branch.flavours for branch in branches.BRANCHES)
    assert all(re.fullmatch(r"20\d\d-\d\d", branch.first) for branch in branches.BRANCHES)
    assert branches.branch_number("580.178.04") == 580
    assert branches.branch_number("weird") is None
