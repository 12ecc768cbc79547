"""Many hosts from one: its file system becomes an image, of which each copy starts in a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from hosts.common import HostsError
from hosts.engine import NETWORK, docker, try_docker

# As .config/molecule/config.yml has it.
_OPTIONS = (
    *("--cgroupns", "private", "--stop-signal", "SIGRTMIN+3", "--network", NETWORK, "--cap-add", "SYS_ADMIN"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"),
)
_INIT = "test ! -e /sys/fs/cgroup/cgroup.controllers || mount -o remount,rw /sys/fs/cgroup; exec /lib/systemd/systemd"
_START_SECONDS = 120


# An image has no POSIX ACLs: they are written down in it, and given back to each copy.
_KEEP = """
import base64, json, os
found = {}
for top in ("/etc", "/opt", "/srv", "/var/lib"):
    for place, folders, files in os.walk(top):
        for path in [place, *(os.path.join(place, name) for name in files)]:
            names = [] if os.path.islink(path) else os.listxattr(path)
            names = [name for name in names if name.startswith("system.posix_acl_")]
            acls = {name: base64.b64encode(os.getxattr(path, name)).decode() for name in names}
            found.update({path: acls} if acls else {})
json.dump(found, open("/acls.json", "w"))
"""
_GIVE_BACK = """
import base64, json, os
for path, acls in json.load(open("/acls.json")).items():
    for name, value in acls.items():
        os.setxattr(path, name, base64.b64decode(value))
os.unlink("/acls.json")
"""


def keep(host: str, image: str) -> None:
    """Make an image of what a host is now."""
    docker("exec", host, "python3", "-c", _KEEP)
    docker("commit", host, image)
    docker("exec", host, "rm", "/acls.json")


_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
_EACH = 12  # a host's systemd, journal and login manager have half of it


def room(count: int) -> None:
    """Make sure that so many hosts can watch files: all of them together are given 128 watchers.

    Until the machine's next start, as `sysctl fs.inotify.max_user_instances` does it.

    Raises:
        HostsError: it cannot be raised from here.
    """
    needed = 256 + _EACH * count
    if int(_INSTANCES.read_text()) >= needed:
        return
    try:
        _INSTANCES.write_text(str(needed))
    except OSError as error:
        raise HostsError(
            f"{count} hosts need `sysctl fs.inotify.max_user_instances={needed}`: run it as root."
        ) from error


def start(image: str, name: str, options: Sequence[str] = ()) -> None:
    """Start one host of an image; one of the same name goes first.

    Raises:
        HostsError: its systemd did not come up.
    """
    remove([name])
    label = ("--label", "gpufleet-test=copy")
    docker("run", "--detach", "--name", name, "--hostname", name, *label, *_OPTIONS, *options, image, "sh", "-c", _INIT)
    end = time.monotonic() + _START_SECONDS
    while try_docker("exec", name, "sh", "-c", "systemctl is-system-running || true") not in {"running", "degraded"}:
        if time.monotonic() > end:
            raise HostsError(f"{name} did not start within {_START_SECONDS} s: look at `docker logs {name}`.")
        time.sleep(0.5)
    if try_docker("exec", name, "test", "-e", "/acls.json") is not None:
        docker("exec", name, "python3", "-c", _GIVE_BACK)


def remove(names: Sequence[str], image: str | None = None) -> None:
    """Remove hosts, and the image that they were of."""
    for name in names:
        try_docker("rm", "-f", "-v", name)
    if image:
        try_docker("rmi", "-f", image)
