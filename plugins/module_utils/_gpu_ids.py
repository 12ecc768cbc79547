"""PCI device ids of NVIDIA GPUs: which chip, which architecture, which compute capability.

Sources:

* 0x1e00 and above: the "compatible GPUs" table of NVIDIA's open-gpu-kernel-modules README (newest copy seen has
  0x31c3 as its last row).
* below 0x1e00: the chip names of the pci.ids database (Debian package pci.ids 0.0~2023.04.11).
* chip to compute capability: NVIDIA's "CUDA GPU Compute Capability" table.

Device ids are handed out in blocks, one block a chip, so ranges also hold for models that came after this file.
An id outside all ranges is unknown (None), never guessed: a driver, once loaded, can still say it.
"""

from __future__ import annotations

from typing import NamedTuple

NVIDIA_VENDOR = "0x10de"


class Chip(NamedTuple):
    """What a device id says about a GPU."""

    architecture: str
    compute_capability: str | None
    mig_capable: bool = False


# (first id, last id, chip); the first row that holds wins.
_BLOCKS: tuple[tuple[int, int, Chip], ...] = (
    (0x0FC0, 0x0FFF, Chip("kepler", "3.0")),  # GK107
    (0x102D, 0x102D, Chip("kepler", "3.7")),  # GK210, Tesla K80
    (0x1001, 0x103F, Chip("kepler", "3.5")),  # GK110, GK180
    (0x1040, 0x109B, Chip("fermi", None)),  # GF119, GF110, GF100
    (0x1140, 0x117F, Chip("fermi", None)),  # GF117
    (0x1180, 0x11FF, Chip("kepler", "3.0")),  # GK104, GK106
    (0x1200, 0x127F, Chip("fermi", None)),  # GF114, GF116
    (0x1280, 0x12BF, Chip("kepler", "3.5")),  # GK208
    (0x1340, 0x13BF, Chip("maxwell", "5.0")),  # GM108, GM107
    (0x13C0, 0x14FF, Chip("maxwell", "5.2")),  # GM204, GM206
    (0x15F0, 0x15FF, Chip("pascal", "6.0")),  # GP100
    (0x1600, 0x16FF, Chip("maxwell", "5.2")),  # GM204 mobile
    (0x1720, 0x173F, Chip("pascal", "6.0")),  # GP100
    (0x1740, 0x17BF, Chip("maxwell", "5.0")),  # GM108, GM107 mobile
    (0x17C0, 0x17FF, Chip("maxwell", "5.2")),  # GM200
    (0x1B00, 0x1D7F, Chip("pascal", "6.1")),  # GP102 to GP108
    (0x1D80, 0x1DFF, Chip("volta", "7.0")),  # GV100
    (0x1E00, 0x1FFF, Chip("turing", "7.5")),  # TU102, TU104, TU106, TU117
    (0x2080, 0x20FF, Chip("ampere", "8.0", mig_capable=True)),  # GA100
    (0x2180, 0x21FF, Chip("turing", "7.5")),  # TU116
    (0x2200, 0x227F, Chip("ampere", "8.6")),  # GA102
    (0x2300, 0x237F, Chip("hopper", "9.0", mig_capable=True)),  # GH100
    (0x2400, 0x25FF, Chip("ampere", "8.6")),  # GA103 to GA107
    (0x2680, 0x28FF, Chip("ada", "8.9")),  # AD102 to AD107
    (0x29BB, 0x29BB, Chip("blackwell", None)),  # DRIVE P2021
    (0x2900, 0x29FF, Chip("blackwell", "10.0", mig_capable=True)),  # GB100: B200, GB200
    (0x2BB0, 0x2BBF, Chip("blackwell", "12.0", mig_capable=True)),  # GB202: RTX PRO 5000 and 6000
    (0x2B80, 0x2DFF, Chip("blackwell", "12.0")),  # GB202 to GB207
    (0x2E00, 0x2E3F, Chip("blackwell", "12.1")),  # GB10
    (0x2F00, 0x2F7F, Chip("blackwell", "12.0")),  # GB205
    (0x3180, 0x31FF, Chip("blackwell", "10.3", mig_capable=True)),  # B300, GB300
)


def chip_of(device_id: str) -> Chip | None:
    """Return the chip of a sysfs device id like ``0x2684``, or None when the id is malformed or unknown."""
    try:
        number = int(device_id, 16)
    except ValueError:
        return None
    return next((chip for first, last, chip in _BLOCKS if first <= number <= last), None)
