#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: make an offline bundle, or prove one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Make an offline bundle on a connected machine, or prove one on a host without network
version_added: 0.2.0
description:
  - V(made) brings uv, Python, the wheels of the locks and the packages of this machine's release into O(path), each
    proved by the checksum, hash or signature that a run with a network would ask for, and writes C(MANIFEST) last.
  - V(proved) compares every file with C(MANIFEST), and that with O(checksum). It changes nothing.
options:
  path:
    description: Directory of the bundle.
    type: path
    required: true
  state:
    description: What to do.
    type: str
    choices: [made, proved]
    default: proved
  checksum:
    description: SHA-256 of C(MANIFEST), in hexadecimal.
    type: str
    default: ""
  platform:
    description: Name of the folder of this release's packages.
    type: str
    default: ""
  packages:
    description: Packages that are brought with all that they depend on.
    type: list
    elements: str
    default: []
  repositories:
    description: Repositories beside those of this machine, as the plan has them.
    type: list
    elements: dict
    default: []
  locks:
    description: Texts of locks with hashes, by name.
    type: dict
    default: {}
  images:
    description: Files of C(docker save) on this machine.
    type: list
    elements: path
    default: []
  uv_version:
    description: The version of uv.
    type: str
    default: ""
  uv_archive_url:
    description: Address of uv's release archive.
    type: str
    default: ""
  uv_checksum:
    description: SHA-256 of that archive.
    type: str
    default: ""
  python_version:
    description: Python's minor version.
    type: str
    default: "3.12"
  install_mirror:
    description: Mirror of uv's Pythons.
    type: str
    default: ""
  downloads_json_url:
    description: A list of Pythons in place of the one that uv has.
    type: str
    default: ""
  index_url:
    description: Package index.
    type: str
    default: ""
attributes:
  check_mode:
    description: V(proved) runs fully in check mode, V(made) makes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  platform:
    description: Debian and its kin, Python 3.9 or newer.
    support: full
    platforms: debian
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Prove the bundle
  gpufleet.host.bundle:
    path: /srv/gpufleet-bundle
    checksum: 1468ebd5a5541121837c5a2817b9972ba6090fa6caa3d142620850a47fb75154
"""

RETURN = r"""
checksum:
  description: SHA-256 of C(MANIFEST).
  returned: always
  type: str
  sample: 1468ebd5a5541121837c5a2817b9972ba6090fa6caa3d142620850a47fb75154
"""

import shutil
from email.utils import formatdate
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.gpufleet.host.plugins.module_utils.bundle import BundleError, make, prove

_TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gpg": "gnupg", "tar": "tar"}


def fetch(url: str, target: Path) -> None:
    """Write what an address gives to a file."""
    try:
        with target.open("wb") as file:
            shutil.copyfileobj(open_url(url, timeout=60), file)
    except Exception as error:  # urllib's, ssl's and Ansible's own have no common base
        raise BundleError(
            f"Found no answer to use at {url} ({error}); set its variable to a mirror that answers."
        ) from error


def main() -> None:
    """Make or prove."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["made", "proved"], "default": "proved"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "repositories": {"type": "list", "elements": "dict", "default": []},
            "locks": {"type": "dict", "default": {}},
            "images": {"type": "list", "elements": "path", "default": []},
            "python_version": {"type": "str", "default": "3.12"},
            **dict.fromkeys(("checksum", "platform", "uv_version", "uv_archive_url", "uv_checksum"), text),
            **dict.fromkeys(("install_mirror", "downloads_json_url", "index_url"), text),
        },
        supports_check_mode=True,
    )
    wish = {**module.params, "date": formatdate(usegmt=True)}

    def run(words: list[str], environment: dict[str, str]) -> str:
        code, out, err = module.run_command(words, environ_update=environment, umask=0o022)
        if code:
            lines = " ".join((err or out).split())
            raise BundleError(f"`{' '.join(words)}` ended with {code}: {lines[-400:]}")
        return str(out)

    try:
        if wish["state"] == "proved":
            prove(Path(wish["path"]), wish["checksum"])
            module.exit_json(changed=False, checksum=wish["checksum"])
        missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
        if missing:
            module.fail_json(
                f"Found no {', '.join(missing)} here, which make the bundle; apt-get install {' '.join(missing)}."
            )
        module.exit_json(changed=True, checksum="" if module.check_mode else make(wish, run, fetch))
    except BundleError as error:
        module.fail_json(str(error))


if __name__ == "__main__":
    main()
