"""What a user of the host has after the role, asked as that user."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
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


@pytest.fixture(scope="module")
def test_hosts() -> dict[str, Any]:
    """What tests/hosts made; docs/testing.md names its keys."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    current = f"gpufleet-test/current{os.environ.get('GPUFLEET_TEST_SUFFIX', '')}"
    found: dict[str, Any] = json.loads(Path(cache, current, "hosts.json").read_text())
    return found


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


def test_a_change_of_groups_that_is_killed_is_repaired(
    host: Any, again: Callable[..., Any], killed: Callable[..., None]
) -> None:
    wishes = {"uv_python_groups": ["notebook"]}
    assert {"pip", "packaging", "nvidia-ml-py", "iniconfig"} <= packages(host)
    assert "tomli" not in packages(host)
    checked = again("--check", **wishes)
    assert checked.ok
    assert checked.changed == 2, "the locks, and the packages"
    assert "tomli" not in packages(host)
    killed("Install the packages", **wishes)
    assert host.file("/opt/uv/venv.unfinished").exists
    host.check_output("rm /opt/uv/venv/pyvenv.cfg")  # as a kill while it was being cleared would
    run = again(**wishes)
    assert run.ok, run.sentence
    assert host.run(f"{PYTHON} -c 'import packaging, pip, pynvml, tomli'").rc == 0
    assert "iniconfig" not in packages(host)
    assert not host.file("/opt/uv/venv.unfinished").exists
    host.check_output(f"{PYTHON} -m pip uninstall -q -y packaging")
    assert again("--check", **wishes).changed == 1, "what was removed by hand would come back"


def test_another_uv_does_not_take_the_place_of_one_that_works(host: Any, again: Callable[..., Any]) -> None:
    refused = again(uv_python_uv_version="0.13.1", uv_python_uv_source="controller")
    assert "is not uv 0.13.1" in refused.sentence
    assert "uv_python_uv_file" in refused.sentence
    assert "uv 0.13.0 " in host.check_output("uv --version")


OWN_DISK = "/opt/uv/own"


@pytest.fixture(scope="module")
def bare(host: Any) -> Iterator[None]:
    """Nothing of the role; the cache that all scenarios share stays, as absent empties the one that it is told of."""
    host.check_output(f"mkdir {OWN_DISK} && mount -t tmpfs tmpfs {OWN_DISK} && mkdir {OWN_DISK}/archive-v0")
    yield
    host.check_output(f"umount {OWN_DISK} && rmdir {OWN_DISK}")


def left(host: Any) -> str:
    return str(
        host.check_output(
            f"find /opt/uv {OWN_DISK} /etc/uv/uv.toml /usr/local/bin/uv -maxdepth 1 2>/dev/null | sort -u; true"
        )
    )


MOUNT_POINTS = f"/opt/uv\n/opt/uv/cache\n{OWN_DISK}"


@pytest.mark.usefixtures("bare")
def test_absent_leaves_nothing_but_mount_points(host: Any, again: Callable[..., Any]) -> None:
    wishes = {"uv_python_state": "absent", "uv_python_cache_path": OWN_DISK}
    run = again(**wishes)
    assert run.ok, run.sentence
    assert left(host) == MOUNT_POINTS
    assert again(**wishes).changed == 0


# wishes by the name in hosts.json, the variable and the remedy in the sentence
BAD_MIRRORS: dict[str, tuple[str, list[str]]] = {
    "missing_url": (
        "uv_python_downloads_json_url",
        ["404", "set uv_python_downloads_json_url to an address that has it"],
    ),
    "untrusted_url": ("uv_python_index_url", ["certificate is not trusted", "gpufleet_ca_certificates"]),
}


@pytest.mark.usefixtures("bare")
def test_bad_mirrors_are_refused_before_any_change(
    host: Any, again: Callable[..., Any], test_hosts: dict[str, Any]
) -> None:
    run = again(**{variable: test_hosts[name] for name, (variable, _pieces) in BAD_MIRRORS.items()})
    assert not run.ok
    assert run.changed == 0
    assert len(run.sentence.splitlines()) == len(BAD_MIRRORS)
    for name, (variable, pieces) in BAD_MIRRORS.items():
        (sentence,) = [line for line in run.sentence.splitlines() if f"wished is {variable}={test_hosts[name]}" in line]
        assert [piece for piece in pieces if piece not in sentence] == []
    assert left(host) == MOUNT_POINTS


@pytest.mark.usefixtures("bare")
def test_an_archive_with_another_checksum_is_not_installed(host: Any, again: Callable[..., Any]) -> None:
    run = again(uv_python_uv_archive_checksums=dict.fromkeys(("x86_64", "aarch64"), "0" * 64))
    assert not run.ok
    assert "did not match" in run.sentence
    assert "Set uv_python_uv_archive_url and uv_python_uv_archive_checksums to a mirror of yours" in run.sentence
    assert not host.file("/usr/local/bin/uv").exists


@pytest.mark.usefixtures("bare")
def test_a_python_with_another_checksum_is_not_installed(
    host: Any, again: Callable[..., Any], test_hosts: dict[str, Any]
) -> None:
    run = again(uv_python_downloads_json_url=test_hosts["python_downloads_json_url_wrong_checksum"])
    assert not run.ok
    (sentence,) = run.sentence.splitlines()
    assert "hecksum" in sentence
    assert "Set uv_python_install_mirror and uv_python_downloads_json_url" in sentence
    assert not host.file("/opt/uv/venv").exists
    assert host.check_output("find /opt/uv/python -path '*/bin/python*'") == ""


# An index that has every project, and in it wheels of the right names with something else inside.
TAMPERED = """
import pathlib, re, sys, zipfile
top = pathlib.Path("/srv/index")
for lock in map(pathlib.Path, sys.argv[1:]):
    for name, version in re.findall(r"^([a-z0-9-]+)==(\\S+)", lock.read_text(), re.M):
        project, stem = top / name, name.replace("-", "_") + "-" + version
        project.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(project / f"{stem}-py3-none-any.whl", "w") as wheel:
            info = f"{stem}.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
            wheel.writestr(f"{info}/RECORD", "")
            wheel.writestr("evil.py", "")
        (project / "index.html").write_text(f'<a href="{stem}-py3-none-any.whl">{stem}-py3-none-any.whl</a>')
"""


@pytest.mark.usefixtures("bare")
def test_wheels_with_another_hash_are_not_installed(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("python3 -c %s /opt/uv/environment/*.txt", TAMPERED)
    run = again(uv_python_index_url="file:///srv/index")
    assert not run.ok
    (sentence,) = run.sentence.splitlines()
    assert "ash mismatch" in sentence
    assert "Set uv_python_index_url to an index that has them" in sentence
    assert host.run("find /opt/uv/venv -name evil.py -o -name packaging").stdout == ""


@pytest.mark.usefixtures("bare")
def test_present_again(host: Any, again: Callable[..., Any]) -> None:
    run = again()
    assert run.ok, run.sentence
    assert {"pip", "packaging", "iniconfig"} <= packages(host)
