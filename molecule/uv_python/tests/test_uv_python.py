"""What a user of the host has after the role, asked as that user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PYTHON = "/opt/uv/venv/bin/python"


def as_nobody(host: Any, command: str) -> Any:
    return host.run(
        "setpriv --reuid=65534 --regid=65534 --clear-groups env -i PATH=/usr/local/bin:/usr/bin:/bin sh -c %s", command
    )


def packages(host: Any) -> set[str]:
    listed = host.check_output(f"{PYTHON} -m pip list --format=freeze --disable-pip-version-check")
    return {line.split("==")[0] for line in listed.splitlines()}


def test_a_plain_user_runs_the_pinned_uv(host: Any) -> None:
    assert "uv 0.13.0 " in as_nobody(host, "uv --version").stdout


def test_a_plain_user_runs_python_312(host: Any) -> None:
    done = as_nobody(host, f"{PYTHON} -c 'import ssl, sqlite3, sys, packaging; print(sys.version_info[:2])'")
    assert done.stdout.strip() == "(3, 12)", done.stderr


def test_the_guides_activation_and_pip_list_work(host: Any) -> None:
    done = as_nobody(host, ". /opt/uv/venv/bin/activate && pip list | grep -i packaging && python --version")
    assert done.rc == 0, done.stderr
    assert "Python 3.12." in done.stdout


def test_a_plain_user_cannot_change_the_environment(host: Any) -> None:
    for place in (
        "/opt/uv/venv/lib/python3.12/site-packages",
        "/opt/uv/venv/bin",
        "/opt/uv/python",
        "/opt/uv/environment",
    ):
        assert as_nobody(host, f"touch {place}/poison").rc != 0, place
    assert as_nobody(host, "ls /opt/uv/cache").rc != 0


def test_the_packages_have_bytecode(host: Any) -> None:
    assert host.check_output("find /opt/uv/venv/lib/python3.12/site-packages/packaging -name '*.pyc' | wc -l") != "0"


def test_uv_reads_the_guides_settings(host: Any) -> None:
    settings = as_nobody(host, "cd / && uv pip list --python /opt/uv/venv -v 2>&1; cat /etc/uv/uv.toml").stdout
    for line in ('link-mode = "copy"', "compile-bytecode = true", "concurrent-downloads = 10"):
        assert line in settings


def test_the_groups_add_and_remove(host: Any, again: Callable[..., Any]) -> None:
    assert {"pip", "packaging", "nvidia-ml-py", "iniconfig"} <= packages(host)
    assert "tomli" not in packages(host)
    checked = again("--check", uv_python_groups=["notebook"])
    assert checked.ok
    assert checked.changed == 2, "the locks, and the packages"
    assert "tomli" not in packages(host)
    assert again(uv_python_groups=["notebook"]).ok
    assert "tomli" in packages(host)
    assert "iniconfig" not in packages(host)
    assert again(uv_python_groups=["dev"]).ok
    assert again(uv_python_groups=["dev"]).changed == 0


def test_a_package_removed_by_hand_comes_back(host: Any, again: Callable[..., Any]) -> None:
    host.check_output(f"{PYTHON} -m pip uninstall -q -y packaging")
    assert again("--check").changed == 1
    assert again().changed > 0
    assert "packaging" in packages(host)


def test_a_run_that_was_killed_is_repaired(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("touch /opt/uv/venv.unfinished && rm -r /opt/uv/venv/lib/python3.12/site-packages/packaging")
    assert again().ok
    assert host.run(f"{PYTHON} -c 'import packaging'").rc == 0
    assert not host.file("/opt/uv/venv.unfinished").exists


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"uv_python_torch_channel": "cu99"}, ["uv_python_torch_channel", "cu99"]),
        ({"uv_python_groups": ["gaming"]}, ["uv_python_groups", "gaming"]),
        ({"uv_python_prefix": "/etc/hostname"}, ["/etc/hostname", "uv_python_prefix"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_wishes_are_refused_in_one_sentence(
    again: Callable[..., Any], wishes: dict[str, Any], words: list[str]
) -> None:
    run = again(**wishes)
    assert not run.ok
    assert run.changed == 0
    for word in words:
        assert word in run.sentence
