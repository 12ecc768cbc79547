"""A refusal says what to do, and neither it nor the plan changes anything on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

# What the roles after preflight would make.
UNTOUCHED = ("/opt/uv/python", "/opt/uv/venv", "/srv/ml", "/etc/gpufleet", "/var/lib/gpufleet", "/usr/local/bin/uv")


@pytest.fixture(autouse=True)
def nothing_changed(host: Any) -> Iterator[None]:
    yield
    assert [path for path in UNTOUCHED if host.file(path).exists] == []


@pytest.fixture(scope="module")
def odd_places(host: Any) -> Iterator[None]:
    """A file where a directory belongs, a disk too small, a filesystem without ACLs, and three kinds of Python."""
    host.check_output(
        "mkdir -p /mnt/small /mnt/noacl && echo text > /mnt/file && "
        "mount -t tmpfs -o size=1m tmpfs /mnt/small && mount -t ramfs ramfs /mnt/noacl"
    )
    for name, body in {
        "shim": "echo 'pyenv: python3.12: command not found' >&2; exit 127",
        "old": "echo 'version 3.8.18'",
    }.items():
        host.check_output(
            f"printf '#!/bin/sh\\n{body.replace(chr(39), chr(34))}\\n' > /mnt/{name} && chmod +x /mnt/{name}"
        )
    yield
    host.check_output("umount /mnt/small /mnt/noacl && rm -r /mnt/*")


# One run is enough, as all refusals come at once: variable, its bad value, and what its sentence says.
BAD: dict[str, tuple[Any, list[str]]] = {
    "uv_python_torch_channel": ("cu999", ["uv_python_torch_channel=cu999", "cu13"]),
    "env_profile_profiles": (["turbo"], ["'turbo'", "training"]),
    "uv_python_groups": (["extra"], ["'extra'", "datascience"]),
    "gpufleet_users": (["root", "carol"], ["no user 'carol'", "useradd"]),
    "uv_python_prefix": ("/mnt/file", ["a file at /mnt/file"]),
    "uv_python_uv_path": ("/mnt/file/uv", ["in the way of /mnt/file/uv"]),
    "uv_python_venv_path": ("/mnt/small/venv", ["GB free on /mnt/small", "uv_python_venv_path"]),
    "ml_cache_root": ("/mnt/noacl/ml", ["no POSIX ACLs on /mnt/noacl (ramfs)"]),
    "uv_python_cpu_index_url": ("http://mirror/cpu", ["uv_python_cpu_index_url=http:", "https"]),
    "uv_python_version": ("3.11", ["uv_python_version=3.11", '"3.12"']),
}


@pytest.mark.usefixtures("odd_places")
def test_every_bad_wish_is_refused_at_once(again: Callable[..., Any]) -> None:
    run = again(**{variable: value for variable, (value, _pieces) in BAD.items()})
    assert not run.ok
    assert run.changed == 0
    sentences = run.sentence.splitlines()
    for variable, (_value, pieces) in BAD.items():
        own = [line for line in sentences if f"wished is {variable}=" in line]
        assert any(all(piece in line for piece in pieces) for line in own), (variable, sentences)


@pytest.mark.parametrize(
    ("interpreter", "found", "check"),
    [
        ("/mnt/shim", "a dead pyenv shim at /mnt/shim", ["--check"]),
        ("/mnt/shim", "a dead pyenv shim at /mnt/shim", []),
        ("/mnt/old", "Python 3.8.18 at /mnt/old", []),
        ("/mnt/none", "no Python at /mnt/none", []),
    ],
)
@pytest.mark.usefixtures("odd_places")
def test_unusable_python(again: Callable[..., Any], interpreter: str, found: str, check: list[str]) -> None:
    run = again(*check, ansible_python_interpreter=interpreter)
    assert not run.ok
    assert f"Found {found}" in run.sentence
    assert "set ansible_python_interpreter to /usr/bin/python3" in run.sentence


def test_a_plan_only_prints(again: Callable[..., Any]) -> None:
    run = again(preflight_fail=False, uv_python_torch_channel="cu999")
    assert run.ok
    assert run.changed == 0


def test_a_role_stops_for_its_own_wishes_only(again: Callable[..., Any]) -> None:
    run = again("--check", playbook="trial.yml", gpufleet_users=["carol"])
    assert not run.ok
    assert len(run.sentence.splitlines()) == 1, "env_profile went on, and uv_python does not ask for users"
    assert "wished is uv_python_venv_path=/etc/hostname" in run.sentence


def test_nothing_stops_a_role_from_taking_itself_away(again: Callable[..., Any]) -> None:
    run = again("--check", playbook="trial.yml", uv_python_state="absent", env_profile_overrides={"PATH": "/x"})
    assert not run.ok
    assert "env_profile_overrides.PATH" in run.sentence
    assert "hostname" not in run.sentence
    run = again("--check", playbook="trial.yml", uv_python_state="absent")
    assert run.ok, run.sentence
