"""The environment guide's own commands, taken out of its text, so that a test runs what the guide says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs/environment-guide.md"

# Heading of a chapter, and of the part of it that holds commands.
PLACES = (
    ("GPU Support", "Verification"),
    ("Environment Validation", "Automated Checks"),
    ("Environment Validation", "Manual Verification"),
)
# What a command cannot do without, so that a test skips it by name; `is_available` answers without a GPU too.
NEEDS = {
    "gpu": re.compile(r"^nvidia-smi\b|get_device_properties"),
    "torch": re.compile(r"\btorch\b(?!_)"),
    "probe": re.compile(r"\bbenchmark\b"),
}


@dataclass(frozen=True)
class Command:
    """A command as the guide has it: where it stands, and the guide's own words above or beside it."""

    section: str
    about: str
    line: str
    needs: frozenset[str]

    @property
    def name(self) -> str:
        """What a test is called that runs it."""
        return f"{self.section}: {self.line}"


def _block(text: str, chapter: str, part: str) -> str:
    """The block of shell commands below a heading."""
    found = re.search(rf"^## [^\n]*{re.escape(chapter)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    below = found and re.search(rf"^### {re.escape(part)}\n+```bash\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)
    if not below:
        raise ValueError(f"the guide has no commands in '{part}' under '{chapter}'")
    return below[1]


def commands(text: str) -> list[Command]:
    """Every command of the guide's verification, in its order."""
    found = []
    for chapter, part in PLACES:
        about = ""
        for line in _block(text, chapter, part).splitlines():
            command, _, remark = line.partition("# ")
            about = remark.strip() or about
            if command := command.strip():
                needs = frozenset(name for name, pattern in NEEDS.items() if pattern.search(command))
                found.append(Command(f"{chapter} / {part}", about, command, needs))
    return found
