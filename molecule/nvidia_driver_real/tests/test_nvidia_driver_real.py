"""Debian's own driver: the real sources, really built by DKMS for the kernel whose headers are installed."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

RELEASE = os.environ.get("GPUFLEET_TEST_RELEASE") or "debian13"
BRANCH = {"debian12": "535", "debian13": "550"}[RELEASE]


def test_the_module_is_built_for_every_kernel(host: Any) -> None:
    kernels = host.run("ls -d /lib/modules/*/build").stdout.split()
    status = host.run("dkms status").stdout
    assert kernels
    for kernel in (path.split("/")[3] for path in kernels):
        assert re.search(rf"nvidia-current/{BRANCH}\.[\d.]+, {re.escape(kernel)}, \w+: installed", status), status
        assert host.run("modinfo -k %s -F version nvidia-current", kernel).stdout.startswith(f"{BRANCH}.")
        assert host.run("modinfo -k %s -F license nvidia-current", kernel).stdout.strip() == "NVIDIA"


def test_the_user_space_is_of_the_same_version(host: Any) -> None:
    asked = host.run("nvidia-smi")
    assert asked.rc == 9
    assert "couldn't communicate with the NVIDIA driver" in asked.stdout
    packaged = host.run("dpkg-query -W -f '${Version}' libcuda1").stdout
    assert host.run("dkms status").stdout.split("/")[1].startswith(packaged.split("-")[0])


def test_nouveau_is_out_of_the_way(host: Any) -> None:
    assert {"blacklist nouveau", "blacklist nova_core"} <= set(host.run("modprobe --showconfig").stdout.splitlines())


@pytest.mark.skipif(RELEASE != "debian13", reason="the open module of Debian 12's 535 does build")
def test_a_module_that_does_not_build_is_told_in_one_sentence(host: Any) -> None:
    """Wished by prepare.yml on the bare host: Debian 13's 550 against its 6.12 kernel."""
    said = host.file("/root/said").content_string
    assert said.count("\n") == 1
    assert re.search(r"does not build for kernel 6\.12\.\S+: nv-pci\.c:\d+:\d+: error: too few arguments", said), said
    assert "nvidia_driver_source" in said
    assert host.run("diff /root/before /root/after").stdout == ""
