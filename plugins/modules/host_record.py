#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: read what the last run recorded on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_record
short_description: Read what the last run recorded on a host
version_added: 0.2.0
description:
  - Reads the record that P(gpufleet.host.torch_probe#role) wrote, with its timer's measurement where that is later,
    and how the last upgrade ended, in one execution.
  - Returns the fields that a fleet's report may hold and no others, so that neither the facts nor the plan travel.
  - A record that is missing or cannot be read is no failure but a state.
options:
  path:
    description: Directory of the records.
    type: path
    default: /var/lib/gpufleet
attributes:
  check_mode:
    description: Runs fully in check mode, as it changes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Read the host's record
  gpufleet.host.host_record:
  register: found
"""

RETURN = r"""
state:
  description: C(ok), C(no_record) or C(bad_record).
  returned: always
  type: str
why:
  description: One sentence where the state is not C(ok), else empty.
  returned: always
  type: str
record:
  description: The record's fields; null where there is none.
  returned: always
  type: dict
"""

import json
import os
import stat
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.host.plugins.module_utils.host_record import record_of

# A host with 16 GPUs writes 100 kB.
MOST_BYTES = 8 * 1024 * 1024


class RecordError(Exception):
    """Why a file cannot be taken for a record."""


def read_document(path: str) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where there is no such file."""
    try:
        # A pipe in the file's place must not stop the run.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RecordError(f"{path} is no regular file")
    with os.fdopen(handle, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise RecordError(f"{path} has more than {MOST_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise RecordError(f"{path} is not a JSON object")
    return document


def look(directory: str) -> dict[str, Any]:
    """Return the state and, where there is one, the record."""
    path = os.path.join(directory, "record.json")  # noqa: PTH118 - the text is told to the user as it was given
    try:
        document, upgrade = read_document(path), read_document(os.path.join(directory, "upgrade.json"))  # noqa: PTH118
    except RecordError as error:
        return {"state": "bad_record", "why": f"{error}; `site` writes it anew", "record": None}
    if document is None and upgrade is None:
        return {"state": "no_record", "why": f"there is no {path} yet: run `site` there", "record": None}
    return {"state": "ok", "why": "", "record": record_of(document, upgrade, nightly(directory))}


def nightly(directory: str) -> dict[str, Any] | None:
    """Return what the probe's timer measured; nothing where the file is not whole, for the record is there."""
    path = os.path.join(directory, "probe_timer.json")  # noqa: PTH118
    try:
        document = read_document(path)
    except RecordError:
        return None
    return None if document is None else {**document, "path": path}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/var/lib/gpufleet"}}, supports_check_mode=True
    )
    module.exit_json(changed=False, **look(module.params["path"]))


if __name__ == "__main__":
    main()
