"""NVIDIA's driver branches and which GPU generations each serves.

Sources, read on 2026-11-22: NVIDIA's table "supported drivers and CUDA toolkit versions" (tesla/drivers/615), the
driver installation guides 610, 615 and 620 (kernel modules), the CUDA toolkit and architecture matrix, and the archives
of Debian and Ubuntu for the newest versions. A date that no source gives is None, never guessed.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

OPEN, PROPRIETARY = "open", "proprietary"
BOTH = (OPEN, PROPRIETARY)
# The open module became NVIDIA's default with this branch; before it, GeForce cards under it were no more than a trial.
OPEN_BY_DEFAULT_FROM = 560


class Branch(NamedTuple):
    """One driver branch."""

    number: int
    kind: str  # LTS, production, new feature, or unknown where NVIDIA's designation was not seen
    first: str  # year and month
    end_of_life: str | None  # the last day, ISO 8601
    flavours: tuple[str, ...]
    packaged: bool = True  # packages of it have been seen


BRANCHES: tuple[Branch, ...] = (
    Branch(535, "LTS", "2023-06", "2026-06-30", BOTH),
    Branch(550, "production", "2024-02", "2025-06-30", BOTH),
    Branch(570, "production", "2025-01", "2026-02-28", BOTH),
    Branch(575, "new feature", "2025-06", "2026-01-31", BOTH),
    Branch(580, "LTS", "2025-08", "2028-06-30", BOTH),
    Branch(590, "new feature", "2025-12", "2026-08-31", BOTH),
    Branch(595, "production", "2026-03", "2027-03-31", BOTH),
    Branch(610, "new feature", "2026-05", "2026-08-31", BOTH),
    # "Package installation of the proprietary kernel module flavor ... starting in 615 is no longer provided."
    Branch(615, "unknown", "2026-09", None, (OPEN,)),
    Branch(620, "unknown", "2026-11", None, (OPEN,), packaged=False),
)
# What `auto` means: long-term support, and the only branch that serves every GPU from Maxwell to Blackwell.
DEFAULT_BRANCH = 580
# A warning comes this long before a branch's end.
END_OF_LIFE_NOTICE_DAYS = 90


class Generation(NamedTuple):
    """What a GPU generation needs of a driver."""

    first_branch: int
    last_branch: int | None  # None: still served by the newest
    flavours: tuple[str, ...]


_PRE_TURING = Generation(535, 580, (PROPRIETARY,))
GENERATIONS: dict[str, Generation] = {
    "fermi": Generation(0, 390, (PROPRIETARY,)),
    "kepler": Generation(0, 470, (PROPRIETARY,)),
    "maxwell": _PRE_TURING,
    "pascal": _PRE_TURING,
    "volta": _PRE_TURING,
    "turing": Generation(535, None, BOTH),
    "ampere": Generation(535, None, BOTH),
    "ada": Generation(535, None, BOTH),
    "hopper": Generation(535, None, BOTH),
    "grace hopper": Generation(535, None, (OPEN,)),
    "blackwell": Generation(570, None, (OPEN,)),
    "late blackwell": Generation(580, None, (OPEN,)),  # GB10, B300 and GB300
    # Ids that the table of chips does not have, by where they lie.
    "older than Maxwell": Generation(0, 390, (PROPRIETARY,)),
    "older than Turing": _PRE_TURING,
    "not in the table": Generation(535, None, BOTH),
    "newer than the table": Generation(0, None, (OPEN,)),
}

# Every id of NVIDIA's list of GPUs that the open module serves is 0x1e00 or above, and none below is in it.
_FIRST_MAXWELL, _FIRST_TURING, _NEWEST_KNOWN = 0x1340, 0x1E00, 0x31FF


def generation_of(gpu: dict[str, Any], architecture: str) -> str:
    """Return the key of ``GENERATIONS`` for a GPU of the facts, on a machine of this processor architecture."""
    chip = gpu["architecture"]
    if chip == "hopper" and architecture == "aarch64":
        return "grace hopper"
    if chip == "blackwell" and gpu["compute_capability"] in ("10.3", "12.1"):
        return "late blackwell"
    if chip in GENERATIONS:
        return str(chip)
    try:
        number = int(gpu["device_id"] or "", 16)
    except ValueError:
        return "not in the table"
    if number < _FIRST_MAXWELL:
        return "older than Maxwell"
    if number < _FIRST_TURING:
        return "older than Turing"
    return "newer than the table" if number > _NEWEST_KNOWN else "not in the table"


def branch_of(number: int | None) -> Branch | None:
    """Return the branch of a number, None for one that is not in the table."""
    return next((branch for branch in BRANCHES if branch.number == number), None)


def branch_number(version: str | None) -> int | None:
    """Return the branch that a driver version belongs to: 580 for 580.178.04."""
    found = re.match(r"(\d{3,4})(?:\.|$)", version or "")
    return int(found.group(1)) if found else None


def newest_production() -> int:
    """Return the newest branch that NVIDIA calls a production branch."""
    return max(branch.number for branch in BRANCHES if branch.kind == "production")


def known_branches() -> str:
    """Return the branches in words, for a sentence."""
    return ", ".join(str(branch.number) for branch in BRANCHES if branch.packaged)
