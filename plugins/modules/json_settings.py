#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: own some keys of a JSON file that others write too."""

from __future__ import annotations

DOCUMENTATION = r"""
module: json_settings
short_description: Own some keys of a JSON file that others write too
version_added: 0.2.0
description:
  - Merges O(settings) into the file, object by object. Every other key stays, in its order, with the digits of its
    numbers; so do the file's indentation, byte order mark, owner and mode. A symbolic link is followed.
  - Lists are united; an item that is there already is not added again.
  - Refuses, with line and column and before any change, what is no strict JSON (comments, keys that stand twice, a
    comma too many), and a key that another O(owner) wishes otherwise.
  - Remembers what it set and what was there before below O(state_path). V(absent), and a key no longer wished, are
    undone only where the value is still the one that was set here.
options:
  path:
    description: The file. It is made where it is missing, and so is its directory.
    type: str
    required: true
  owner:
    description: Who these settings belong to, as a file name.
    type: str
    required: true
  state:
    description:
      - V(absent) takes back what this owner set, and removes the file if this owner made it and nothing is left.
    type: str
    choices: [present, absent]
    default: present
  settings:
    description: What shall be in the file.
    type: dict
    default: {}
  defaults:
    description:
      - Groups of settings that are good where nobody has said anything else. A group of which a key (at the top of the
        file) is set by somebody else is left out as a whole.
    type: list
    elements: dict
    default: []
  validate:
    description: Command that checks the new file, as a list; C(%s) stands for a private copy. Runs in check mode too.
    type: list
    elements: str
  mode:
    description: Mode of a file that is made here. An existing one keeps its mode.
    type: str
    default: "0644"
  pending:
    description:
      - Path of a mark that stands from the first change until a handler removes it, as in M(gpufleet.host.tree).
    type: path
  state_path:
    description: Directory of the records.
    type: path
    default: /var/lib/gpufleet
attributes:
  check_mode:
    description: Tells what would change, and writes nothing.
    support: full
  diff_mode:
    description: Shows the file. The records are not shown.
    support: full
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Let Docker read CDI specifications
  gpufleet.host.json_settings:
    path: /etc/docker/daemon.json
    owner: container_toolkit
    settings: {features: {cdi: true}}
    validate: [dockerd, --validate, --config-file, "%s"]
    pending: /var/lib/gpufleet/pending/docker
  notify: Restart Docker

- name: Take that back
  gpufleet.host.json_settings:
    path: /etc/docker/daemon.json
    owner: container_toolkit
    state: absent
"""

RETURN = r"""
changes:
  description: JSON pointer and kind of each change; an empty pointer is the file.
  returned: always
  type: list
  elements: dict
  sample: [{path: /features/cdi, change: added}]
keys:
  description: Keys at the top of the file below which something changed.
  returned: always
  type: list
  elements: str
  sample: [features]
unfinished:
  description: Whether the mark of O(pending) stood before, so that what follows from a change has not been done yet.
  returned: always
  type: bool
defaults_left:
  description: Keys for which a group of O(defaults) was left out.
  returned: always
  type: list
  elements: str
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.host.plugins.module_utils.json_settings import Settings, SettingsError
from ansible_collections.gpufleet.host.plugins.module_utils.tree import TreeError, diff_of


def problem(wish: dict[str, Any]) -> str | None:
    """Return what no type of a parameter catches, as one sentence."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", wish["owner"]):
        return f"owner={wish['owner']!r} is no file name of letters, digits, '-' and '_'; use such a name."
    if not wish["path"].startswith("/"):
        return f"path={wish['path']} is not absolute: give it from the root."
    if wish["validate"] and not any("%s" in word for word in wish["validate"]):
        return f"{wish['path']}: validate has no %s, so it would check something else than the new file."
    return None


def main() -> None:
    """Look, then change, then tell."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "settings": {"type": "dict", "default": {}},
            "defaults": {"type": "list", "elements": "dict", "default": []},
            "validate": {"type": "list", "elements": "str"},
            "mode": {"type": "str", "default": "0644"},
            "pending": {"type": "path"},
            "state_path": {"type": "path", "default": "/var/lib/gpufleet"},
        },
        supports_check_mode=True,
    )
    said = problem(module.params)
    if said:
        module.fail_json(said)
    try:
        settings = Settings(module.params, module.check_mode)
        steps = settings.steps
        if not module.check_mode:
            settings.apply()
    except (SettingsError, TreeError) as error:
        module.fail_json(str(error))
    unfinished = settings.file.unfinished
    result: dict[str, Any] = {
        "changed": bool(steps) or unfinished,
        "changes": settings.changes,
        "keys": settings.keys,
        "unfinished": unfinished,
        "defaults_left": settings.defaults_left,
    }
    if module._diff:
        result["diff"] = [piece for step in settings.file.steps if step.changes for piece in diff_of(step)]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
