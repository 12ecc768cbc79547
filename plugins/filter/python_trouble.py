"""Filter plugin: one sentence on why no module could run on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: python_trouble
short_description: Say in one sentence why a module could not run on a host
version_added: 0.1.0
description:
  - Turns what two interpreters of a host printed into a sentence with what was found, what was wished and a remedy.
  - Where the interpreter is fine, the module itself failed, and its own message is returned.
positional: interpreter, message
options:
  _input:
    description:
      - Two answers, the first from the interpreter that Ansible used, the second from C(/usr/bin/python3), each ended
        by the line C(end of answer). A good answer is C(version X.Y.Z).
    type: str
    required: true
  interpreter:
    description: The interpreter that Ansible used.
    type: str
    required: true
  message:
    description: What the failed module said.
    type: str
    required: true
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Say why
  ansible.builtin.fail:
    msg: "{{ answers.stdout | gpufleet.host.python_trouble('/usr/bin/python3', failed.msg) }}"
"""

RETURN = r"""
_value:
  description: The sentence.
  type: str
"""

import re
from collections.abc import Callable
from typing import Any

_OLDEST = (3, 9)
_FALLBACK = "/usr/bin/python3"


def python_trouble(answers: str, interpreter: str, message: str) -> str:
    """Return the sentence for two interpreters' answers."""
    first, second = [*answers.split("end of answer"), "", ""][:2]
    if _is_fit(first):
        return f"Looking at the host failed: {message}"
    remedy = (
        f"set ansible_python_interpreter to {_FALLBACK}"
        if _is_fit(second) and interpreter != _FALLBACK
        else "install Python 3.9 or newer (the package python3) and set ansible_python_interpreter to it"
    )
    return (
        f"Found {_found(first, interpreter)} on the host; wished is Python 3.9 or newer "
        f"(ansible_python_interpreter={interpreter}); {remedy}."
    )


def _version(answer: str) -> tuple[int, ...]:
    found = re.search(r"^version (\d+(?:\.\d+)+)\s*$", answer, re.MULTILINE)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _is_fit(answer: str) -> bool:
    return _version(answer) >= _OLDEST


def _found(answer: str, interpreter: str) -> str:
    version = _version(answer)
    if version:
        return f"Python {'.'.join(str(part) for part in version)} at {interpreter}"
    if "pyenv:" in answer:
        return f"a dead pyenv shim at {interpreter}, which starts no Python,"
    if re.search(r"not found|No such file", answer):
        return f"no Python at {interpreter}"
    said = " ".join(answer.split())[:200]
    return f"no Python that starts at {interpreter}" + (f" (it says: {said})" if said else "")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"python_trouble": python_trouble}
