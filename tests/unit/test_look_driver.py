"""gpu_facts on what the driver's plan needs: packages, DKMS, Secure Boot's keys, desktops, units, vGPUs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import _look_gpu as look_gpu
from ansible_collections.gpufleet.host.plugins.module_utils import _look_session as look_session
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root
from trees import DEBIAN_13, KERNEL, Tree, kernel_module

EFIVARS = "sys/firmware/efi/efivars"
MOK_LIST = f"{EFIVARS}/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
MOK_NEW = f"{EFIVARS}/MokNew-605dab50-e046-4300-abb6-3dd810dd8b23"
DATABASE = f"{EFIVARS}/db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
CERTIFICATE = b"\x30\x82\x03\x11 a certificate in DER"
UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def installed(tree: Tree, *packages: str) -> None:
    """Write dpkg's status file from lines of ``name version [state]``."""
    stanzas = []
    for line in packages:
        name, version, *state = line.split()
        status = f"install ok {state[0] if state else 'installed'}"
        stanzas.append(f"Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}")
    tree.file("var/lib/dpkg/status", "\n\n".join(stanzas) + "\n")


def test_the_drivers_packages_are_told_with_their_whole_versions(tree: Tree) -> None:
    installed(
        tree,
        "nvidia-driver-cuda 580.178.04-1",
        "libcuda1 580.178.04-1",
        "linux-modules-nvidia-580-server-open-generic 6.8.0-90.91+2",
        "nvidia-driver-pinning-580 580-1",
        "cuda-keyring 1.1-1",
        "dkms 1:3.2.2-1",
        "nvlsm 2025.10.1-1",
        "nvidia-container-toolkit 1.20.1-1",
        "libnvidia-container1 1.20.1-1",
        "nvidia-cuda-toolkit 12.4.1-2",
        "nvidia-smi 550.163.01-2 config-files",
        "vim 9",
    )
    driver = tree.look()["driver"]
    assert driver["packages"] == {
        "nvidia-driver-cuda": "580.178.04-1",
        "libcuda1": "580.178.04-1",
        "linux-modules-nvidia-580-server-open-generic": "6.8.0-90.91+2",
        "nvidia-driver-pinning-580": "580-1",
        "cuda-keyring": "1.1-1",
        "dkms": "1:3.2.2-1",
        "nvlsm": "2025.10.1-1",
    }
    assert driver["origin"] == "package"


def test_rpm_is_asked_where_there_is_no_dpkg(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.file("usr/bin/rpm")
    asked: list[tuple[str, ...]] = []

    def command(_root: Root, *argv: str) -> str:
        asked.append(argv)
        return "nvidia-driver-cuda 580.178.04-1.el9\ndkms 3.2.2-1.el9\nodd\n"

    monkeypatch.setattr(Root, "command", command)
    driver = tree.look()["driver"]
    assert driver["packages"] == {"nvidia-driver-cuda": "580.178.04-1.el9", "dkms": "3.2.2-1.el9"}
    assert [argv[0] for argv in asked] == ["rpm"]


@pytest.mark.parametrize(
    ("files", "packages", "origin"),
    [
        ((), (), None),
        ((), ("dkms 3.2.2-1", "cuda-keyring 1.1-1", "nvidia-driver-pinning-580 580-1"), None),
        ((), ("libnvidia-compute-580 580.178.04-0ubuntu1",), "package"),
        (("usr/bin/nvidia-uninstall",), (), "runfile"),
        (("usr/bin/nvidia-installer",), ("libcuda1 550.163.01-2",), "runfile"),
    ],
)
def test_where_the_driver_is_from(
    tree: Tree, files: tuple[str, ...], packages: tuple[str, ...], origin: str | None
) -> None:
    for path in files:
        tree.file(path)
    installed(tree, *packages)
    assert tree.look()["driver"]["origin"] == origin


@pytest.mark.parametrize(
    "path",
    ["etc/apt/sources.list.d/gpufleet-nvidia-driver.sources", "etc/apt/preferences.d/gpufleet-nvidia-driver"],
)
def test_a_driver_is_ours_where_our_files_are(tree: Tree, path: str) -> None:
    assert tree.look()["driver"]["ours"] is False
    tree.file(path)
    assert tree.look()["driver"]["ours"] is True


@pytest.mark.parametrize(
    "state", ["half-installed", "half-configured", "unpacked", "triggers-awaited", "triggers-pending"]
)
def test_broken_packages(tree: Tree, state: str) -> None:
    installed(tree, f"nvidia-kernel-open-dkms 580.178.04-1 {state}", "vim 9", "old 1 config-files")
    facts = tree.look()
    assert facts["system"]["packages_broken"] == ["nvidia-kernel-open-dkms"]
    assert facts["driver"]["packages"] == {}


def test_a_held_package_is_installed_and_told(tree: Tree) -> None:
    held = "Package: libcuda1\nStatus: hold ok installed\nVersion: 570.211.01-1"
    engine = "Package: docker-ce\nStatus: hold ok installed\nVersion: 5:29.2.1-1"
    tree.file("var/lib/dpkg/status", f"{held}\n\n{engine}\n")
    facts = tree.look()
    assert facts["driver"]["held"] == ["libcuda1"]
    assert facts["driver"]["packages"] == {"libcuda1": "570.211.01-1"}
    assert facts["engines"]["docker"] == "29.2.1"


def test_the_metas_of_kernels_are_told_and_the_kernels_are_not(tree: Tree) -> None:
    installed(
        tree,
        "linux-image-generic-hwe-24.04 6.14",
        "linux-headers-generic-hwe-24.04 6.14",
        "linux-image-6.14.0-33-generic 6.14",
        "linux-image-unsigned-6.14.0-33-generic 6.14",
        "linux-headers-6.14.0-33 6.14",
        "linux-image-amd64-dbg 6.12",
        "linux-image-amd64 6.12 config-files",
    )
    metas = ["linux-headers-generic-hwe-24.04", "linux-image-generic-hwe-24.04"]
    assert tree.look()["system"]["kernel_packages"] == metas


def test_headers_count_only_where_their_link_leads_somewhere(tree: Tree) -> None:
    tree.link("lib/modules/6.12.1-there/build", "/usr/src/linux-headers-6.12.1-there")
    tree.folder("usr/src/linux-headers-6.12.1-there")
    tree.link("lib/modules/6.12.2-gone/build", "/usr/src/linux-headers-6.12.2-gone")
    tree.link("lib/modules/6.12.3-relative/build", "../../../usr/src/linux-headers-6.12.1-there")
    tree.folder("lib/modules/6.12.4-own/build")
    tree.folder("lib/modules/6.12.5-none")
    assert tree.look()["system"]["headers"] == ["6.12.1-there", "6.12.3-relative", "6.12.4-own"]


# --- DKMS and Secure Boot --------------------------------------------------------------------------------------------


def test_dkms(tree: Tree) -> None:
    place = "var/lib/dkms/nvidia/580.178.04"
    tree.link(f"{place}/source", "/usr/src/nvidia-580.178.04")
    tree.file(f"{place}/6.12.48/x86_64/module/nvidia.ko")
    tree.file(f"{place}/6.12.57/x86_64/module/nvidia.ko")
    tree.file(f"{place}/build/make.log")
    tree.link("var/lib/dkms/nvidia/kernel-6.12.48-x86_64", "580.178.04/6.12.48/x86_64")
    tree.link("var/lib/dkms/nvidia-current-open/550.163.01/source", "/usr/src/nvidia-current-open-550.163.01")
    tree.file("var/lib/dkms/nvidia-current-open/550.163.01/6.12.48/x86_64/log/make.log")
    tree.folder("var/lib/dkms/leftover/1.0/6.12.48")
    tree.file("var/lib/dkms/mok.pub")
    assert tree.look()["driver"]["dkms"] == [
        {"module": "nvidia", "version": "580.178.04", "kernel": "6.12.48", "state": "installed"},
        {"module": "nvidia", "version": "580.178.04", "kernel": "6.12.57", "state": "built"},
        {"module": "nvidia-current-open", "version": "550.163.01", "kernel": None, "state": "added"},
    ]


def test_debians_open_module_is_found_under_its_name(tree: Tree) -> None:
    tree.module(KERNEL, "updates/dkms/nvidia-current-open.ko", kernel_module("550.163.01", "Dual MIT/GPL"))
    tree.file("sys/module/nvidia_current_open/version", "550.163.01")
    driver = tree.look()["driver"]
    assert driver["on_disk"] == {KERNEL: "550.163.01"}
    assert driver["on_disk_flavour"] == {KERNEL: "open"}
    assert driver["loaded"] == "550.163.01"


def secure(tree: Tree, *files: str, system: str = DEBIAN_13, content: bytes = CERTIFICATE) -> dict[str, Any]:
    """Return the ``mok`` fact of a host with Secure Boot, where the certificate stands in these files."""
    tree.file("etc/os-release", system)
    tree.file(f"{EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\x01")
    for path in files:
        tree.file(path, b"\x06\0\0\0 before " + content + b" after")
    fact: dict[str, Any] = tree.look()["mok"]
    return fact


def test_a_key_is_looked_up_only_where_secure_boot_is_on(tree: Tree) -> None:
    tree.file("var/lib/dkms/mok.pub", CERTIFICATE)
    unknown = {"certificate": None, "enrolled": None, "pending": None}
    assert tree.look()["mok"] == unknown
    assert secure(tree)["certificate"] == "/var/lib/dkms/mok.pub"
    (tree.path / "var/lib/dkms/mok.pub").unlink()
    assert secure(tree) == unknown


@pytest.mark.parametrize(
    ("files", "enrolled", "pending"),
    [
        ((), None, False),
        ((MOK_LIST,), True, False),
        ((DATABASE,), True, False),
        (("sys/firmware/efi/mok-variables/MokListRT1",), True, False),
        ((MOK_NEW,), None, True),
    ],
)
def test_enrolment(tree: Tree, files: tuple[str, ...], enrolled: bool | None, pending: bool) -> None:
    tree.file("var/lib/dkms/mok.pub", CERTIFICATE)
    mok = secure(tree, *files)
    assert (mok["enrolled"], mok["pending"]) == (enrolled, pending)


def test_another_key_in_the_list_is_not_ours(tree: Tree) -> None:
    tree.file("var/lib/dkms/mok.pub", CERTIFICATE)
    assert secure(tree, MOK_LIST, content=b"another")["enrolled"] is False


def test_ubuntus_key_and_a_key_of_ones_own(tree: Tree) -> None:
    tree.file("var/lib/shim-signed/mok/MOK.der", CERTIFICATE)
    assert secure(tree, MOK_LIST, system=UBUNTU)["certificate"] == "/var/lib/shim-signed/mok/MOK.der"
    text = base64.encodebytes(CERTIFICATE).decode()
    tree.file("root/own.pem", f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    tree.file("etc/dkms/framework.conf", "# mok_certificate=/no\n")
    tree.file("etc/dkms/framework.conf.d/own.conf", 'mok_certificate="/root/own.pem"\n')
    mok = secure(tree, MOK_LIST, system=UBUNTU)
    assert (mok["certificate"], mok["enrolled"]) == ("/root/own.pem", True)


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "display"),
    [
        ("etc/X11/default-display-manager", True),
        ("tmp/.X11-unix/X0", True),
        ("tmp/.X11-unix/X99", False),  # Xvfb
        ("run/user/1000/wayland-0", True),
        ("run/user/1000/bus", False),
    ],
)
def test_display(tree: Tree, path: str, display: bool) -> None:
    tree.file(path)
    assert tree.look()["system"]["display"] is display


def test_a_display_manager_that_systemd_starts(tree: Tree) -> None:
    tree.link("etc/systemd/system/display-manager.service", "/lib/systemd/system/gdm.service")
    assert tree.look()["system"]["display"] is True


@pytest.mark.parametrize(
    ("path", "content"),
    [("etc/nv_tegra_release", "# R36"), ("proc/device-tree/compatible", "nvidia,p3768\0nvidia,tegra234\0")],
)
def test_jetson(tree: Tree, path: str, content: str) -> None:
    assert tree.look()["system"]["jetson"] is False
    tree.file(path, content)
    assert tree.look()["system"]["jetson"] is True


def config(*capabilities: bytes, listed: bool = True) -> bytes:
    """Return a PCI configuration space with these capabilities, each as its id and what comes after the link."""
    space = bytearray(256)
    space[0x06] = 0x10 if listed else 0
    at = 0x60
    space[0x34] = at
    for number, capability in enumerate(capabilities):
        after = at + 0x30
        space[at] = capability[0]
        space[at + 1] = after if number + 1 < len(capabilities) else 0
        space[at + 2 : at + 1 + len(capability)] = capability[1:]
        at = after
    return bytes(space)


@pytest.mark.parametrize(
    ("space", "vgpu"),
    [
        (None, None),
        (b"\xde\x10" + bytes(62), None),  # what a user other than root may read
        (config(b"\x01\x00"), False),
        (config(b"\x01\x00", b"\x09\x1bVF\x00"), True),
        (config(b"\x09\x14xx"), False),  # a whole GPU has a capability of the vendor's too
        (config(b"\x09\x1bVF", listed=False), False),
        (bytes(0x06) + b"\x10" + bytes(0x2D) + b"\x40" + bytes(0x0B) + b"\x01\x40" + bytes(190), False),  # a ring
        (b"\xff" * 256, False),  # a device that has gone
    ],
)
def test_vgpu(tree: Tree, space: bytes | None, vgpu: bool | None) -> None:
    tree.pci("0000:02:00.0", "0x2236", "0x030200")
    if space is not None:
        tree.file("sys/bus/pci/devices/0000:02:00.0/config", space)
    assert tree.look()["gpus"][0]["vgpu"] is vgpu


def test_processes_have_a_user_and_a_container(tree: Tree) -> None:
    name = "3f" * 32
    tree.file("dev/nvidia0")
    tree.file("etc/passwd", "alice:x:1000:1000:A:/home/alice:/bin/bash\n")
    tree.link("proc/42/fd/3", "/dev/nvidia0")
    tree.file("proc/42/comm", "python\n")
    tree.file("proc/42/status", "Uid:\t1000\t1000\t1000\t1000\n")
    tree.file("proc/42/cgroup", f"0::/system.slice/docker-{name}.scope\n")
    (process,) = tree.look()["gpu_processes"]
    assert (process["user"], process["container"]) == ("alice", name)


@pytest.mark.parametrize(
    ("groups", "container"),
    [
        (None, None),
        ("0::/user.slice/user-1000.slice/session-3.scope", None),
        (f"0::/docker/{'a1' * 32}", "a1" * 32),
        (f"0::/kubepods/pod{'b' * 64}/{'c3' * 32}", "c3" * 32),
        (f"0::/machine.slice/libpod-{'d4' * 32}.scope/container", "d4" * 32),
        ("0::/lxc.payload.box/init.scope", "box"),
        ("12:cpu:/lxc/box\n0::/", "box"),
        ("0::/machine.slice/machine-train.scope", "train"),
    ],
)
def test_container_of(groups: str | None, container: str | None) -> None:
    assert look_gpu.container_of(groups) == container


# --- archive and units -----------------------------------------------------------------------------------------------

STANZA = """\
# the release
Types: deb deb-src
URIs: http://archive.example/debian
Suites: trixie trixie-updates
Components: main
 non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian/
Suites: trixie
Components: contrib

Types: deb
Enabled: no
URIs: http://archive.example/debian
Suites: trixie
Components: non-free

Types: deb
URIs: https://other/debian
Suites: trixie
Components: extra
"""


def test_the_archive_from_stanzas(tree: Tree) -> None:
    tree.file("etc/apt/sources.list.d/debian.sources", STANZA)
    tree.file("etc/apt/sources.list.d/debian.sources.bak", STANZA.replace("Enabled: no", ""))
    assert tree.look()["system"]["archive"] == {
        "uri": "http://archive.example/debian",
        "suite": "trixie",
        "components": ["main", "non-free-firmware", "contrib"],
        "signed_by": "/usr/share/keyrings/debian-archive-keyring.gpg",
    }


def test_the_archive_from_lines(tree: Tree) -> None:
    tree.file(
        "etc/apt/sources.list",
        "# deb http://archive.example/debian trixie non-free\n"
        "deb http://security.debian.org/debian-security trixie-security main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian trixie main contrib # comment\n"
        "deb-src http://mirror/debian trixie main\n",
    )
    assert tree.look()["system"]["archive"] == {
        "uri": "http://mirror/debian",
        "suite": "trixie",
        "components": ["main", "contrib"],
        "signed_by": "/k.gpg",
    }


def test_no_archive(tree: Tree) -> None:
    assert tree.look()["system"]["archive"] is None


TWO_UNITS = """\
LoadState=loaded
ActiveState=active
UnitFileState=enabled

LoadState=not-found
ActiveState=inactive
UnitFileState=
"""


def test_units(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["nvidia-persistenced.service", "nvidia-fabricmanager.service"]
    unknown = {"enabled": None, "active": None}
    assert tree.look(units=asked)["units"] == dict.fromkeys(asked, unknown)
    assert tree.look()["units"] == {}
    calls: list[tuple[str, ...]] = []

    def command(_root: Root, *argv: str) -> str:
        calls.append(argv)
        return TWO_UNITS.strip()

    monkeypatch.setattr(Root, "command", command)
    assert tree.look(units=asked)["units"] == dict.fromkeys(asked, unknown)  # systemd does not run there
    assert calls == []
    tree.folder("run/systemd/system")
    assert tree.look(units=asked)["units"] == {asked[0]: {"enabled": "enabled", "active": "active"}, asked[1]: unknown}
    assert len(calls) == 1
    tree.look()
    assert len(calls) == 1


def test_an_answer_that_does_not_fit_the_question_says_nothing() -> None:
    assert look_session.parse_units("LoadState=loaded", ["a", "b"])["a"] == {"enabled": None, "active": None}
