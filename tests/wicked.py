"""Bad input: values that no variable and no fact expects, and what each sentence about them has to be."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Any

import yaml
from hypothesis import configuration, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
# The same examples on each run. GPUFLEET_TEST_EXAMPLES makes it so many times more of them, by chance then: pytest
# prints the seed of a failure, and takes it back by --hypothesis-seed.
MORE = int(os.environ.get("GPUFLEET_TEST_EXAMPLES", "1"))
configuration.set_hypothesis_home_dir(ROOT / ".cache/hypothesis")
settings.register_profile("gpufleet", deadline=None, derandomize=MORE == 1, database=None, print_blob=True)
settings.load_profile("gpufleet")
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())

# Text as people and attackers write it.
TEXTS = [
    "",
    " ",
    "\n",
    "auto\n",
    "ünïcödé ☃ 漢字 🚀",
    "\u202egnp.exe",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "; touch /tmp/pwned",
    "$(touch /tmp/pwned)",
    "`touch /tmp/pwned`",
    "' || touch /tmp/pwned #",
    "| tee /etc/passwd",
    "{{ lookup('pipe', 'touch /tmp/pwned') }}",
    "{% raw %}",
    "../../../etc/shadow",
    "/srv/../etc",
    "/",
    "//",
    "~root/.ssh",
    "-rf",
    "--config=/etc/shadow",
    "%s%s%n",
    "x" * 100_000,
    "/" + "d/" * 5000,
    "https://user:secret@mirror.example/",
    "file:///etc/shadow",
    "javascript:alert(1)",
    "no",
    "null",
    "999",
    "-1",
    "1e999",
    "0x7f",
    "NaN",
    "580.",
    "12345678901234567890",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 2**31, 2**63, -(2**64), 10**400]),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=40),
    st.just(datetime.date(2026, 11, 25)),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.text(max_size=12), st.integers()), inner, max_size=4)
    ),
    max_leaves=8,
)


def options() -> dict[str, dict[str, Any]]:
    """Return every variable of every role with what its argument_specs say."""
    found: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
        for spec in specs.values():
            found |= spec["options"]
    return found


def faults(sentence: str) -> list[str]:
    """Return what is wrong with a sentence for a user."""
    found = []
    if not sentence.isprintable():
        found.append("more than one printable line")
    if not sentence.endswith("."):
        found.append("no end")
    if len(sentence) > 2500:
        found.append(f"{len(sentence)} characters")
    if re.search(r"Traceback|Error\b|<class|object at 0x", sentence):
        found.append("a programmer's words")
    return found
