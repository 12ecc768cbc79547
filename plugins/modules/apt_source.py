#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: make one repository of apt's true, with its key proved by fingerprint."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_source
short_description: Make a repository of apt's true, its key proved by fingerprint, its packages pinned
version_added: 0.2.0
description:
  - Writes the signing key (C(/etc/apt/keyrings)), the source in deb822 form and the pins of one repository, each at
    once and only where it differs.
  - Computes the OpenPGP fingerprint of every primary key itself and refuses any but O(fingerprints), one that has
    expired or is revoked, and, where apt verifies by C(sqv), one that is bound by SHA-1. Nothing has been changed then.
  - Every other source for the same address and suite is retired first, as apt reads no source at all where two of one
    place disagree about C(Signed-By). Of a file that names other places too, these stay. What was there is kept below
    C(/var/lib/gpufleet/backup/apt), and V(absent) brings it back; so is a file of somebody else under O(name).
  - A key that is right already is not fetched, so a converged host needs no network. Package lists are not updated.
  - Needs neither python3-debian nor gpg nor apt-key.
options:
  name:
    description: Name of the files.
    type: str
    required: true
  state:
    description:
      - V(absent) removes key, source and pins, and brings back what was retired. A file that somebody has changed since
        stays as it is; its backup then stays too, and is named in RV(kept).
    type: str
    choices: [present, absent]
    default: present
  uris:
    description: Addresses of the repository. Without any, only the pins are there, and source and key are not.
    type: list
    elements: str
    default: []
  suites:
    description: Suites; V(/) is a flat repository.
    type: list
    elements: str
    default: [/]
  components:
    description: Components; none for a flat repository.
    type: list
    elements: str
    default: []
  architectures:
    description: Debian's names of the architectures, all of the host when empty.
    type: list
    elements: str
    default: []
  key_url:
    description: Where the signing key is fetched, armored or binary. The host's own trust store and proxy are used.
    type: str
  key:
    description: The signing key as armored text, in place of O(key_url).
    type: str
  fingerprints:
    description:
      - Fingerprints (hexadecimal, spaces allowed) of all primary keys that the key may hold.
      - When the owner changes the key, put the new fingerprint in the old one's place, and the key is fetched anew.
    type: list
    elements: str
    default: []
  pins:
    description: Pins as apt_preferences(5) has them.
    type: list
    elements: dict
    default: []
    suboptions:
      packages:
        description: Names or globs, never a lone C(*).
        type: list
        elements: str
        required: true
      pin:
        description: What is pinned, such as C(version 580.*).
        type: str
        required: true
      priority:
        description: From -1 (never) on; above 1000 also downgrades.
        type: int
        required: true
  timeout:
    description: How long the server of the key may take, in seconds.
    type: int
    default: 30
attributes:
  check_mode:
    description:
      - Tells every file that would change. A key that is missing is fetched and compared as in the real run, and where
        it cannot be had, which an earlier step of that run may change, it is announced unseen.
    support: full
  diff_mode:
    description: Shows the files.
    support: full
  platform:
    description: Debian and its kin, Python 3.9 or newer.
    support: full
    platforms: debian
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Have NVIDIA's repository
  gpufleet.host.apt_source:
    name: cuda
    uris: [https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/]
    key_url: https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64/8793F200.pub
    fingerprints: [02182E60104FCDC26EAE1B8597A5D4CB8793F200]
    pins:
      - {packages: [nvidia-driver-cuda, nvidia-kernel-open-dkms], pin: version 580.*, priority: 1001}
"""

RETURN = r"""
changes:
  description: Path and kind of each change.
  returned: always
  type: list
  elements: dict
  sample: [{path: /etc/apt/sources.list.d/cuda.sources, change: created}]
retired:
  description: Files of which a source for the same place was taken out, or would be.
  returned: with O(state=present)
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/cuda-debian13-x86_64.list]
kept:
  description: Backups of what could not be brought back, because somebody has changed the file since.
  returned: always
  type: list
  elements: str
  sample: []
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.gpufleet.host.plugins.module_utils.apt_source import AptSource, NoAnswerError, SourceError
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Tree, TreeError, diff_of

_KEY_BYTES = 1 << 20
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}")


def problem(wish: dict[str, Any]) -> str | None:
    """Return what no type of a parameter catches, as one sentence."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", wish["name"]):
        return f"name={wish['name']}: apt reads only files of letters, digits, '-' and '_'; use such a name."
    if any("*" in pin["packages"] for pin in wish["pins"]):
        return f"{wish['name']}: a pin of all packages (*) would move what is nobody's wish; name the packages."
    lines = [wish["key_url"] or "", *wish["uris"], *wish["suites"], *wish["components"], *wish["architectures"]]
    lines += [text for pin in wish["pins"] for text in (*pin["packages"], pin["pin"])]
    if any(re.search(r"[\x00-\x1f]", line) for line in lines):
        return f"{wish['name']}: found a line break inside a value, which would begin a line of its own; take it out."
    if wish["state"] == "absent" or not wish["uris"]:
        return None
    if bool(wish["key_url"]) == bool(wish["key"]):
        return f"{wish['name']}: give the signing key, either by key_url or by key."
    wrong = [text for text in wish["fingerprints"] if not _FINGERPRINT.fullmatch(text.replace(" ", ""))]
    if wrong or not wish["fingerprints"]:
        found = f"fingerprints has {wrong[0]!r}, which is none" if wrong else "fingerprints is empty"
        return f"{wish['name']}: {found}; give the 40 hexadecimal digits that the key's owner publishes."
    return None


def main() -> None:
    """Look, fetch the key where it is missing, change, tell."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "uris": {"type": "list", "elements": "str", "default": []},
            "suites": {"type": "list", "elements": "str", "default": ["/"]},
            "components": {"type": "list", "elements": "str", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": []},
            "key_url": {"type": "str"},
            "key": {"type": "str", "no_log": False},
            "fingerprints": {"type": "list", "elements": "str", "default": []},
            "pins": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "packages": {"type": "list", "elements": "str", "required": True},
                    "pin": {"type": "str", "required": True},
                    "priority": {"type": "int", "required": True},
                },
            },
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    wish = module.params
    said = problem(wish)
    if said:
        module.fail_json(said)

    def fetch(url: str) -> bytes:
        try:
            data: bytes = open_url(url, timeout=wish["timeout"]).read(_KEY_BYTES)
        except Exception as error:  # urllib's, ssl's and Ansible's own have no common base
            raise NoAnswerError(
                f"{wish['name']}: Found no key at key_url={url} ({error}); give an address that answers this host, or "
                "trust its certificate's authority (gpufleet_ca_certificates)."
            ) from error
        return data

    source = AptSource(wish)
    tree = Tree([])
    try:
        entries = source.absent() if wish["state"] == "absent" else source.present(fetch, module.check_mode)
        tree = Tree(entries, module.check_mode)
        if not module.check_mode:
            tree.apply()
    except (SourceError, TreeError) as error:
        module.fail_json(str(error), changed=bool(tree.done))
    changes = [{"path": step.path, "change": change} for step in tree.steps for change in step.changes]
    result: dict[str, Any] = {
        "changed": bool(changes),
        "changes": changes,
        "retired": source.retired,
        "kept": source.kept,
    }
    for path in source.kept:
        module.warn(f"{wish['name']}: {path} could not be brought back, as somebody has changed that file since.")
    if module._diff:
        result["diff"] = [piece for step in tree.steps if step.changes for piece in diff_of(step)]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
