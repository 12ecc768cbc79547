"""MIG geometry, from what nvidia-smi lists to the commands that are left to run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils.mig_geometry import commands_for, geometry_of, modes_of

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
  MIG 1g.10gb     Device  0: (UUID: MIG-1)
  MIG 2g.20gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
"""
MODES = {"GPU-aaaa": True, "GPU-bbbb": False}
CUT_1 = ["nvidia-smi", "mig", "-i", "1"]


def wish(gpus: Any, *profiles: str) -> dict[str, Any]:
    return {"gpus": gpus, "profiles": list(profiles)}


def test_listing() -> None:
    assert geometry_of(LISTING) == [
        {"index": "0", "uuid": "GPU-aaaa", "profiles": ["1g.10gb", "2g.20gb"]},
        {"index": "1", "uuid": "GPU-bbbb", "profiles": []},
    ]


@pytest.mark.parametrize(
    ("wished", "commands"),
    [
        ([], []),
        ([wish([0], "2g.20gb", "1g.10gb")], []),
        ([wish(["GPU-bbbb"])], []),
        (
            [wish([1], "1g.10gb", "1g.10gb")],
            [["nvidia-smi", "-i", "1", "-mig", "1"], [*CUT_1, "-cgi", "1g.10gb,1g.10gb", "-C"]],
        ),
        (
            [wish([0], "7g.80gb")],
            [
                ["nvidia-smi", "mig", "-i", "0", "-dci"],
                ["nvidia-smi", "mig", "-i", "0", "-dgi"],
                ["nvidia-smi", "mig", "-i", "0", "-cgi", "7g.80gb", "-C"],
            ],
        ),
        (
            [wish("all")],
            [
                ["nvidia-smi", "mig", "-i", "0", "-dci"],
                ["nvidia-smi", "mig", "-i", "0", "-dgi"],
                ["nvidia-smi", "-i", "0", "-mig", "0"],
            ],
        ),
        ([wish("all", "7g.80gb"), wish([0], "1g.10gb", "2g.20gb"), wish([1])], []),
    ],
)
def test_commands(wished: list[dict[str, Any]], commands: list[list[str]]) -> None:
    assert commands_for(LISTING, wished, MODES) == commands


def test_modes() -> None:
    table = "GPU-aaaa, Enabled\nGPU-bbbb, Disabled\nGPU-cccc, [N/A]\n\n"
    assert modes_of(table) == {"GPU-aaaa": True, "GPU-bbbb": False, "GPU-cccc": None}
