# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filter: a Python program of several files as the one file that a host gets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: python_application
short_description: Pack a Python program and its package into one file
version_added: 0.1.0
description:
  - The input is a script on the controller, beside which its package of the same name lies. The result is a zip
    application behind the script's first line, the shebang. Python runs it like a script, whatever its name.
  - The script's inline metadata stays behind. C(uv run) reads it in text only, and who runs the packed file chooses
    the Python that has what the program needs.
  - Nothing is compressed and no time is recorded. Equal sources make equal bytes on every controller, and a search
    through the file finds its text.
author:
  - The gpufleet.host contributors
options:
  _input:
    description: Path of the script.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Install the probe
  gpufleet.host.tree:
    entries:
      - path: /opt/probe.py
        state: file
        content: "{{ (role_path ~ '/files/torch_probe.py') | gpufleet.host.python_application }}"
        encoding: base64
        mode: "0755"
"""

RETURN = r"""
_value:
  description: The bytes of the file in base64.
  type: str
"""

import base64
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from ansible.errors import AnsibleFilterError

# The first time that a zip archive can name.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def pack(script: Path) -> bytes:
    """Return the shebang, and after it an archive of the script and its package."""
    source = script.read_text(encoding="utf-8")
    shebang, _, _ = source.partition("\n")
    body = source[source.index('"""') :]
    package = script.with_suffix("")
    members = {"__main__.py": body.encode()}
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".json"):
            members[f"{package.name}/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    archive = io.BytesIO()
    archive.write(f"{shebang}\n".encode())
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as stream:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, _NO_TIME)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            stream.writestr(info, content)
    return archive.getvalue()


def python_application(script: str) -> str:
    """Return the packed program as text that survives Ansible's templating."""
    try:
        return base64.b64encode(pack(Path(script))).decode()
    except (OSError, ValueError) as problem:
        raise AnsibleFilterError(f"{script} and its package cannot be packed: {problem}") from problem


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filter by its name."""
        return {"python_application": python_application}
