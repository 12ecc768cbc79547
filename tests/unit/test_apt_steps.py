"""What a package transaction does, how it is undone, and why a module did not build, in apt's and DKMS's own words."""

from __future__ import annotations

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import apt_steps

SIMULATION = """\
Reading package lists...
The following packages will be REMOVED:
  nvidia-kernel-dkms
Remv nvidia-kernel-dkms [535.261.03-1~deb12u1]
Purg nvidia-kernel-support [535.261.03-1~deb12u1] [nvidia-driver:amd64 ]
Inst libkmod2 (34.2-2 Debian:13.8/stable [amd64])
Inst libnvidia-ml1 [535.261.03-1~deb12u1] (580.178.04-1 NVIDIA:stable [amd64]) []
Inst libc6:i386 (2.41-12 Debian:13.8/stable [i386])
Conf libkmod2 (34.2-2 Debian:13.8/stable [amd64])
"""
STEPS = {
    "new": {"libkmod2": "34.2-2", "libc6:i386": "2.41-12"},
    "changed": {"libnvidia-ml1": {"from": "535.261.03-1~deb12u1", "to": "580.178.04-1"}},
    "removed": {"nvidia-kernel-dkms": "535.261.03-1~deb12u1", "nvidia-kernel-support": "535.261.03-1~deb12u1"},
}
NOTHING: dict[str, dict[str, str]] = {"new": {}, "changed": {}, "removed": {}}
KEPT = "/var/cache/gpufleet/rollback"


def test_simulation() -> None:
    assert apt_steps.steps_of(SIMULATION) == STEPS
    assert apt_steps.steps_of("0 upgraded, 0 newly installed") == NOTHING


def test_undoing_takes_the_kept_file_where_there_is_one() -> None:
    files = [f"{KEPT}/libnvidia-ml1_535.261.03-1~deb12u1_amd64.deb", f"{KEPT}/dkms_3.2.2-1_all.deb"]
    assert apt_steps.undo_of(STEPS, files) == [
        "libkmod2-",
        "libc6:i386-",
        f"{KEPT}/libnvidia-ml1_535.261.03-1~deb12u1_amd64.deb",
        "nvidia-kernel-dkms=535.261.03-1~deb12u1",
        "nvidia-kernel-support=535.261.03-1~deb12u1",
    ]
    assert apt_steps.undo_of({}, files) == []


def test_epoch_in_a_files_name() -> None:
    assert apt_steps.package_of(f"{KEPT}/dkms_1%3a3.2.2-1_all.deb") == ("dkms", "1:3.2.2-1")
    assert apt_steps.files_for({"dkms": "1:3.2.2-1", "a": "1"}, [f"{KEPT}/dkms_1%3a3.2.2-1_all.deb"]) == [
        "a=1",
        f"{KEPT}/dkms_1%3a3.2.2-1_all.deb",
    ]


def test_two_runs_are_undone_as_one() -> None:
    """The first was killed after it had moved a and removed b; the second moves a on and brings b back."""
    first = {"new": {"n": "1"}, "changed": {"a": {"from": "1", "to": "2"}}, "removed": {"b": "1"}}
    moves = {"a": {"from": "2", "to": "3"}, "n": {"from": "1", "to": "2"}}
    second = {"new": {"b": "2"}, "changed": moves, "removed": {}}
    both = apt_steps.joined(first, second)
    assert both == {"new": {"n": "1"}, "changed": {"a": {"from": "1", "to": "3"}}, "removed": {"b": "1"}}
    assert apt_steps.undo_of(both, []) == ["n-", "a=1", "b=1"]
    assert apt_steps.joined({}, second) == second


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"new": {"linux-image-6.12.107+deb13-amd64": "6.12.107-1"}}, ["bring linux-image-6.12.107+deb13-amd64"]),
        ({"new": {"linux-image-6.12.48+deb13-amd64": "6.12.48-1"}}, []),
        ({"new": {"linux-modules-nvidia-580-open-6.8.0-90-generic": "1"}}, []),
        ({"new": {"linux-modules-extra-6.8.0-90-generic": "1"}}, ["bring linux-modules-extra-6.8.0-90-generic"]),
        ({"new": {"linux-headers-6.12.107+deb13-amd64": "1"}}, []),
        ({"changed": {"linux-image-6.12.48+deb13-amd64": {}}}, ["replace linux-image-6.12.48+deb13-amd64"]),
        ({"removed": {"linux-image-6.12.48+deb13-amd64": "1"}}, ["remove linux-image-6.12.48+deb13-amd64"]),
        ({"changed": {"linux-image-amd64": {}}}, []),
    ],
)
def test_a_kernel_that_would_change(steps: dict[str, object], said: list[str]) -> None:
    assert apt_steps.kernels_in({**NOTHING, **steps}, ["6.12.48+deb13-amd64"]) == said
    assert apt_steps.kernels_in({**NOTHING, **steps}, []) == []


HEAD = "DKMS make.log for nvidia-current-550.163.01 for kernel 6.12.107+deb13-amd64 (x86_64)\nMon Nov 23 10:00:00 UTC\n"
NEW_HEAD = "DKMS (dkms-3.2.2) make.log for nvidia-580.178.04 for kernel 6.1.0-50-amd64 (x86_64)\n"
COMPILER = (
    "make -C /lib/modules/6.12.107+deb13-amd64/build modules\n"
    "make[2]: *** [Makefile:1] Error 2\n"
    "/var/lib/dkms/nvidia-current/550.163.01/build/nvidia/nv-pci.c:237:9: error: too few arguments to function "
    "'pci_resize_resource'\n  237 |   r = pci_resize_resource(\n/x.c:2:1: error: second\n"
)


@pytest.mark.parametrize(
    ("log", "module", "kernel", "line"),
    [
        (
            HEAD + COMPILER,
            "nvidia-current-550.163.01",
            "6.12.107+deb13-amd64",
            "nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'",
        ),
        (
            NEW_HEAD + "make[1]: gcc-12: No such file or directory\n",
            "nvidia-580.178.04",
            "6.1.0-50-amd64",
            "make[1]: gcc-12: No such file or directory",
        ),
        ("", None, None, None),
        (NEW_HEAD + "all is well\n", "nvidia-580.178.04", "6.1.0-50-amd64", None),
    ],
)
def test_why_a_module_did_not_build(log: str, module: str | None, kernel: str | None, line: str | None) -> None:
    assert apt_steps.build_error(log) == {"module": module, "kernel": kernel, "line": line}


def test_kept_files_of_no_set() -> None:
    files = [f"{KEPT}/a_2_amd64.deb", f"{KEPT}/a_1_amd64.deb", f"{KEPT}/a_0_amd64.deb", f"{KEPT}/gcc_12_amd64.deb"]
    assert apt_steps.entries_without(files, [{"a": "2"}, {"a": "1"}]) == [
        {"path": f"{KEPT}/a_0_amd64.deb", "state": "absent"},
        {"path": f"{KEPT}/gcc_12_amd64.deb", "state": "absent"},
    ]


def test_pins_of_a_set() -> None:
    assert apt_steps.pins_of({"b": "2", "a": "1", "c": "1"}) == [
        {"packages": ["a", "c"], "pin": "version 1", "priority": 1001},
        {"packages": ["b"], "pin": "version 2", "priority": 1001},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Reading...\nE: Unable to locate package nosuch\n", "Unable to locate package nosuch"),
        (
            "dpkg: error processing package x (--configure):\n installed x script failed\nE: Sub-process returned 1\n",
            "Sub-process returned 1; dpkg could not process x",
        ),
        ("only this\n\n", "only this"),
        ("", "no message"),
    ],
)
def test_errors_in_one_piece(text: str, said: str) -> None:
    assert apt_steps.errors_of(text) == said
