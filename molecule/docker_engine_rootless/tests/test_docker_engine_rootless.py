"""An engine of a person's own, without root: really set up by Docker's script, and really running containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Every test asks for `host`: pytest would run the others after those that do.
Again = Callable[..., Any]
IMAGE = (
    "tar -C / -chf - bin/cat bin/ls $(ldd /bin/cat /bin/ls | grep -o '/lib[^ ]*' | sort -u) 2>/dev/null"
    " | docker import - tiny"
)


def alice(host: Any, command: str) -> Any:
    return host.run("su - alice -c %s", f"export DOCKER_HOST=unix:///run/user/$(id -u)/docker.sock; {command}")


def test_her_containers_run_and_root_in_them_is_she(host: Any) -> None:
    assert alice(host, IMAGE).rc == 0
    done = alice(host, "docker run --rm tiny /bin/cat /proc/self/uid_map")
    assert done.rc == 0, done.stderr
    assert done.stdout.split()[:3] == ["0", host.run("id -u alice").stdout.strip(), "1"]


def test_it_is_not_the_systems_engine(host: Any) -> None:
    assert "name=rootless" in alice(host, "docker info --format '{{.SecurityOptions}}'").stdout
    assert "name=rootless" not in host.run("docker info --format '{{.SecurityOptions}}'").stdout
    assert "tiny" not in host.run("docker image ls").stdout
    assert host.run("su - alice -c 'docker -H unix:///var/run/docker.sock ps'").rc != 0, "she is in no group of root's"


def test_her_services_run_without_a_login(host: Any) -> None:
    assert host.run("loginctl show-user alice --property Linger").stdout == "Linger=yes\n"
    assert host.run("su - alice -c 'XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user is-enabled docker'").rc == 0


def test_nothing_of_it_stands_in_the_systems_files(host: Any, again: Again) -> None:
    assert host.run("grep -rls 'no-cgroups\\|rootless' /etc/docker /etc/nvidia-container-runtime").stdout == ""
    assert again().changed == 0
