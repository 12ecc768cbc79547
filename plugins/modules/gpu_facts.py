#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: one read-only look at a host and its NVIDIA GPUs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
short_description: Look at a host and its NVIDIA GPUs, once and without changing anything
version_added: 0.1.0
description:
  - Reads what C(gpufleet.host) plans by, from sysfs, procfs and a few files, GPUs and NVSwitches also without a driver.
  - What cannot be read is C(null), never 0 or an empty string; odd input is no error.
  - Commands run only for what no file tells (C(nvidia-smi), C(modinfo), C(uv --version), an engine of no package,
    C(systemctl show) for asked units, C(rpm -qa) where there is no dpkg).
options:
  root:
    description:
      - Directory below which the host's files lie. Anything but C(/) is read as a dead copy, so no command runs
        and no name service is asked.
    type: path
    default: /
  paths:
    description: Absolute paths to tell about, kind, mount, free space, ACLs.
    type: list
    elements: str
    default: []
  users:
    description: Names of users to look up.
    type: list
    elements: str
    default: []
  groups:
    description: Names of groups to look up.
    type: list
    elements: str
    default: []
  uv_path:
    description: Where the uv program is or would be.
    type: str
    default: /usr/local/bin/uv
  venv_path:
    description: Where the Python environment is or would be.
    type: str
    default: /opt/uv/venv
  units:
    description: Names of systemd units to tell about; not asked where systemd does not run.
    type: list
    elements: str
    default: []
  addresses:
    description:
      - Name to address, each asked for with a HEAD request (GET where the server refuses that), all at once; at most
        ten seconds for each request. Empty ones are left out.
      - Asked only where there is no environment at O(venv_path) yet, so that a converged host waits for no network.
    type: dict
    default: {}
  certificates:
    description: PEM texts of certificate authorities to trust for O(addresses), beside the host's own.
    type: list
    elements: str
    default: []
  state_path:
    description: Directory of the last run's record, of which the time is told.
    type: str
    default: /var/lib/gpufleet
attributes:
  check_mode:
    description: Runs fully in check mode, as it changes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  platform:
    description: Runs on Linux with Python 3.9 or newer.
    support: full
    platforms: linux
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Look at the host
  gpufleet.host.gpu_facts:
    paths: [/srv/ml, /opt/uv/venv]
    users: [alice]
  register: look

- name: Say which GPUs there are
  ansible.builtin.debug:
    msg: "{{ look.facts.gpus | map(attribute='device_id') }}"
"""

RETURN = r"""
facts:
  description: All facts; the page docs/data.md names every field.
  returned: always
  type: dict
  sample:
    schema: 1
    gpus:
      - pci_address: "0000:01:00.0"
        device_id: "0x2684"
        architecture: ada
        compute_capability: "8.9"
        kernel_driver: nvidia
    driver: {loaded: 580.178.04, flavour: open}
"""

from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.host.plugins.module_utils._look_containers import look_at_containers
from ansible_collections.gpufleet.host.plugins.module_utils._look_driver import look_at_installation, look_at_mok
from ansible_collections.gpufleet.host.plugins.module_utils._look_gpu import (
    look_at_driver,
    look_at_gpus,
    look_at_nvswitches,
    look_at_processes,
    reboot_reasons,
)
from ansible_collections.gpufleet.host.plugins.module_utils._look_network import look_at_addresses
from ansible_collections.gpufleet.host.plugins.module_utils._look_packages import read_packages
from ansible_collections.gpufleet.host.plugins.module_utils._look_session import look_at_units
from ansible_collections.gpufleet.host.plugins.module_utils._look_storage import (
    look_at_group,
    look_at_path,
    look_at_user,
    look_at_uv,
    look_at_venv,
)
from ansible_collections.gpufleet.host.plugins.module_utils._look_system import (
    look_at_cpu,
    look_at_engines,
    look_at_memory,
    look_at_record,
    look_at_secure_boot,
    look_at_system,
)
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root
from ansible_collections.gpufleet.host.plugins.module_utils.run_lock import PATH as HELD


def look(
    root: Root,
    paths: list[str],
    users: list[str],
    groups: list[str],
    uv_path: str,
    venv_path: str,
    units: list[str] | None = None,
    state_path: str = "/var/lib/gpufleet",
) -> dict[str, Any]:
    """Return all facts of the host below ``root``, as docs/data.md describes them."""
    packages = read_packages(root)
    system = look_at_system(root, packages)
    driver = look_at_driver(root, system["kernels_installed"], system["wsl"])
    engines = look_at_engines(root, packages)
    secure_boot = look_at_secure_boot(root)
    toolkit = engines.pop("toolkit")
    reasons = reboot_reasons(root, driver, system["kernel"], system["container"])
    return {
        "schema": 1,
        "system": system,
        "cpu": look_at_cpu(root),
        "memory_bytes": look_at_memory(root),
        "gpus": look_at_gpus(root, system["wsl"]),
        "nvswitches": look_at_nvswitches(root),
        "driver": {**driver, **look_at_installation(root, packages)},
        "secure_boot": secure_boot,
        "mok": look_at_mok(root, secure_boot, system["distribution"]),
        "gpu_processes": look_at_processes(root),
        "engines": engines,
        "toolkit": toolkit,
        "containers": look_at_containers(root, packages),
        "uv": look_at_uv(root, uv_path),
        "venv": look_at_venv(root, venv_path),
        "paths": {path: look_at_path(root, path) for path in paths},
        "users": {name: look_at_user(root, name) for name in users},
        "groups": {name: look_at_group(root, name) for name in groups},
        "units": look_at_units(root, system["service_manager"], units or []),
        "record": look_at_record(root, state_path),
        "reboot": {"required": bool(reasons), "reasons": reasons},
        "held": root.exists(HELD),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "paths": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "groups": {"type": "list", "elements": "str", "default": []},
            "uv_path": {"type": "str", "default": "/usr/local/bin/uv"},
            "venv_path": {"type": "str", "default": "/opt/uv/venv"},
            "units": {"type": "list", "elements": "str", "default": []},
            "state_path": {"type": "str", "default": "/var/lib/gpufleet"},
            "addresses": {"type": "dict", "default": {}, "no_log": True},  # one may hold a password
            "certificates": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    asked = module.params
    facts = look(
        Root(asked["root"]),
        asked["paths"],
        asked["users"],
        asked["groups"],
        asked["uv_path"],
        asked["venv_path"],
        asked["units"],
        asked["state_path"],
    )
    asked_for = asked["addresses"] if facts["venv"]["python"] is None else {}
    facts["addresses"] = look_at_addresses(asked_for, asked["certificates"])
    module.exit_json(changed=False, facts=facts)


if __name__ == "__main__":
    main()
