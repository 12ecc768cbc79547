"""Docker's own packages: the real names, versions and relations around the engine that Debian 13 has.

Docker's archive is not reached from here, and a role has to start what it installs. Debian 13's programs need no newer
libc than Debian 12's, so that these packages run on both. `dockerd --version` tells Debian's version, dpkg Docker's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hosts import engine, images
from hosts.common import step
from hosts.engine import docker
from hosts.stand_in import Package

# As in Docker's archive; the release and its number are in every version there.
ENGINE, CONTAINERD, BUILDX, COMPOSE = "5:29.8.2-1", "2.3.6-1", "0.31.1-1", "5.6.0-1"
# Debian's packages whose programs these bring.
WRAPPED = ("docker.io", "docker-cli", "docker-buildx", "docker-compose")
_FETCH = "cd /tmp && apt-get -qq update && apt-get -qq download " + " ".join(WRAPPED)

# The real one does the same, through Debian's helpers.
_CONFIGURE = """#!/bin/sh
set -e
getent group docker >/dev/null || groupadd --system docker
test -d /run/systemd/system || exit 0
systemctl daemon-reload
systemctl enable --quiet docker.service docker.socket
systemctl start docker.service
"""
_REMOVE = """#!/bin/sh
set -e
test -d /run/systemd/system || exit 0
systemctl disable --quiet --now docker.service docker.socket
"""


def packages_of(release: str, codename: str) -> tuple[Package, ...]:
    """Return the five packages of one release (`debian.12`, `bookworm`)."""
    own = f"~{release}~{codename}"
    return (
        Package(
            "docker-ce",
            ENGINE + own,
            "libc6, libsystemd0, iptables, containerd.io (>= 1.7.27), docker-ce-cli",
            conflicts="docker.io",
            scripts={"postinst": _CONFIGURE, "prerm": _REMOVE},
            wraps="docker.io",
        ),
        Package("docker-ce-cli", ENGINE + own, "libc6", conflicts="docker.io", wraps="docker-cli"),
        # The real one has the two programs in it and conflicts with their packages.
        Package("containerd.io", CONTAINERD + own, "containerd, runc, tini"),
        Package("docker-buildx-plugin", BUILDX + own, "libc6", wraps="docker-buildx"),
        Package("docker-compose-plugin", COMPOSE + own, "libc6", wraps="docker-compose"),
    )


def fetch(folder: Path) -> Path:
    """Have Debian 13's packages in a folder."""
    if not folder.is_dir():
        release = images.RELEASES["debian13"]
        images.up(release)
        engine.network()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with step("fetching Debian 13's engine"), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            # The host's apt knows where this machine has Debian from.
            name = docker("create", "--network", engine.NETWORK, release.current, "sh", "-c", _FETCH).strip()
            try:
                docker("start", "--attach", name)
                docker("cp", f"{name}:/tmp/.", f"{scratch}/tmp")
            finally:
                docker("rm", "-f", "-v", name)
            (Path(scratch) / "tmp").rename(folder)
    return folder
