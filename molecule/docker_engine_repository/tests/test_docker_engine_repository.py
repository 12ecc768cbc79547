"""Docker from its own repository, on a host whose distribution has an engine that is too old."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

# Every test asks for `host`: pytest would run the others after those that do, and so after test_absent.
Again = Callable[..., Any]
PACKAGES = ["docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin"]
SOURCE = "/etc/apt/sources.list.d/gpufleet-docker.sources"


def status(host: Any, package: str) -> str:
    return str(host.run(f"dpkg-query -W -f '${{db:Status-Status}}' {package}").stdout)


def test_the_packages_are_dockers(host: Any) -> None:
    for package in PACKAGES:
        told = host.run(f"apt-cache policy {package}").stdout
        installed, lines = told.split("Installed: ")[1].split("\n")[0], told.split("\n")
        assert "~debian.12~bookworm" in installed
        # The source stands in the line after the version's.
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f" *** {installed}")]
        assert "https://download.docker.com/linux/debian bookworm/stable" in lines[at + 1]
    assert host.run(f"grep -c '^Signed-By: /etc/apt/keyrings/' {SOURCE}").stdout == "1\n"


def test_what_brings_the_same_program_went_and_podman_stayed(host: Any) -> None:
    assert status(host, "podman-docker") != "installed"
    assert status(host, "podman") == "installed"


def test_it_runs_with_the_settings_and_after_a_restart(host: Any) -> None:
    image = (
        "tar -C / -chf - bin/cat $(ldd /bin/cat | grep -o '/lib[^ ]*') 2>/dev/null | docker import - tiny"
        " && docker run --rm --memory 64m tiny /bin/cat /etc/hostname"
    )
    done = host.run(image)
    assert done.rc == 0, done.stderr
    told = json.loads(host.run("docker info --format '{{json .}}'").stdout)
    assert (told["LoggingDriver"], told["LiveRestoreEnabled"]) == ("local", True)
    assert host.service("docker").is_enabled


def test_it_builds_and_composes(host: Any) -> None:
    assert host.run("docker buildx version").rc == 0
    assert host.run("docker compose version").rc == 0


def test_absent_and_a_wrong_key(host: Any, again: Again) -> None:
    """Last: what came from Docker goes with its source, and another key brings nothing."""
    ran = again(docker_engine_state="absent")
    assert ran.ok, ran.sentence
    assert [status(host, package) == "installed" for package in PACKAGES] == [False] * len(PACKAGES)
    assert host.run("ls -A /etc/apt/sources.list.d /etc/apt/keyrings | grep -i docker").stdout == ""
    wrong = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"  # Docker's, and the mirror has its own
    assert wrong in again(docker_engine_repository_fingerprints=[wrong]).sentence
    assert not host.file(SOURCE).exists
    assert status(host, "docker-ce") != "installed"
