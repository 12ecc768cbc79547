"""Start each kind of process and print its variables; no test reads a rendered file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

VENV_BIN = "/opt/uv/venv/bin"
NOFILE = "16384"  # as in converge.yml
SYSTEMD_FILES = ("/etc/gpufleet/unit.env", "/etc/systemd/user-environment-generators/20-gpufleet")
FILES = (
    "/etc/gpufleet/env.json",
    "/etc/gpufleet/container.env",
    "/etc/profile.d/gpufleet.sh",
    "/etc/security/limits.d/60-gpufleet.conf",
    "/usr/local/bin/gpufleet-env",
    *SYSTEMD_FILES,
)


@pytest.fixture(scope="module")
def document(host: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(host.check_output("cat /etc/gpufleet/env.json"))
    return content


def parsed(output: str) -> dict[str, str]:
    """Parse the output of `env -0`."""
    return dict(item.split("=", 1) for item in output.split("\0") if "=" in item)


def wanted(document: dict[str, Any], scope: str, home: str = "/home/alice") -> dict[str, str]:
    return {name: value.replace("$HOME", home) for name, value in document["scopes"][scope].items()}


def differences(wished: dict[str, str], found: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    return {name: (value, found.get(name)) for name, value in wished.items() if found.get(name) != value}


def test_there_is_something_to_compare(host: Any, document: dict[str, Any]) -> None:
    login = document["scopes"]["login"]
    cores = int(host.check_output("nproc --all"))
    assert 1 <= int(login["OMP_NUM_THREADS"]) <= min(16, cores)
    assert login["HF_HUB_CACHE"] == "/srv/ml/cache/huggingface/hub"
    assert login["WANDB_PROJECT"] == "two words"
    assert login["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "CUDA_VISIBLE_DEVICES" not in login
    assert len(login) >= 20


@pytest.mark.parametrize(
    "command",
    [
        "su - alice -c 'env -0'",
        "su alice -c 'bash -lc \"env -0\"'",
        "su alice -c 'dash -l -c \"env -0\"'",
        # What the README tells users of zsh, which reads no profile.d on Debian.
        "runuser -u alice -- env HOME=/home/alice zsh -c '. /etc/profile.d/gpufleet.sh; env -0'",
        "runuser -l alice -c 'env -0'",
        "runuser -u alice -- env HOME=/home/alice bash -lc 'env -0'",
        "sudo -iu alice env -0",
    ],
)
def test_a_members_login_shell(host: Any, document: dict[str, Any], command: str) -> None:
    env = parsed(host.check_output(command))
    assert differences(wanted(document, "login"), env) == {}
    assert env["PATH"].split(":")[0] == VENV_BIN


@pytest.mark.parametrize(
    "command",
    [
        "runuser -u alice -- env -i HOME=/home/alice sh -c '/usr/local/bin/gpufleet-env run -- env -0'",
        "sudo -u alice -H gpufleet-env run -- env -0",
        "setpriv --reuid=alice --regid=alice --init-groups env HOME=/home/alice gpufleet-env run env -0",
    ],
)
def test_a_shell_that_is_no_login_shell_by_gpufleet_env(host: Any, document: dict[str, Any], command: str) -> None:
    env = parsed(host.check_output(command))
    assert differences(wanted(document, "login"), env) == {}
    assert env["PATH"].split(":")[0] == VENV_BIN


def test_a_system_unit(host: Any, document: dict[str, Any]) -> None:
    env = parsed(
        host.check_output("systemd-run --quiet --wait --pipe -p EnvironmentFile=/etc/gpufleet/unit.env env -0")
    )
    assert differences(wanted(document, "unit"), env) == {}
    assert not [name for name, value in env.items() if "$HOME" in value]


# A unit of alice's own manager (see prepare.yml), and the variables that it had.
USER_UNIT = (
    "su alice -c 'export XDG_RUNTIME_DIR=/run/user/$(id -u); systemctl --user daemon-reload && "
    "systemctl --user start show-env.service && cat /home/alice/unit-env'"
)


def test_a_unit_of_a_members_systemd_manager(host: Any, document: dict[str, Any]) -> None:
    assert differences(wanted(document, "user_systemd"), parsed(host.check_output(USER_UNIT))) == {}


def test_a_users_own_environment_d_has_the_last_word(host: Any) -> None:
    own = "/home/alice/.config/environment.d"
    host.check_output(f"su alice -c 'mkdir -p {own} && echo OMP_NUM_THREADS=1 >{own}/my.conf'")
    try:
        assert parsed(host.check_output(USER_UNIT))["OMP_NUM_THREADS"] == "1"
    finally:
        host.check_output(f"rm -r {own}")


@pytest.mark.parametrize("value", ["/mine", ""])
def test_a_users_own_value_wins(host: Any, value: str) -> None:
    env = parsed(host.check_output(f"su alice -c 'HF_HOME={value} bash -lc \"env -0\"'"))
    assert env["HF_HOME"] == value
    env = parsed(host.check_output(f"su alice -c 'HF_HOME={value} gpufleet-env run -- env -0'"))
    assert env["HF_HOME"] == value


@pytest.mark.parametrize(
    "command",
    ["su - carol -c 'env -0'", "sudo -iu carol env -0", "bash -lc 'env -0'", "dash -l -c 'env -0'", "su - -c 'env -0'"],
)
def test_strangers_and_root_get_nothing(host: Any, document: dict[str, Any], command: str) -> None:
    env = parsed(host.check_output(command))
    assert not set(env) & set(document["scopes"]["login"])
    assert VENV_BIN not in env["PATH"]


@pytest.mark.parametrize("user", ["carol", "root"])
def test_the_generator_gives_strangers_and_root_nothing(host: Any, user: str) -> None:
    generator = "/etc/systemd/user-environment-generators/20-gpufleet"
    assert host.check_output(f"runuser -u {user} -- {generator}") == ""
    assert "OMP_NUM_THREADS=" in host.check_output(f"runuser -u alice -- {generator}")


def test_nproc_of_root_is_not_changed(host: Any, document: dict[str, Any]) -> None:
    """GNU nproc obeys OMP_NUM_THREADS; a build by root must keep all its cores."""
    assert host.check_output("bash -lc nproc") == host.check_output("env -i /usr/bin/nproc")
    threads = document["scopes"]["login"]["OMP_NUM_THREADS"]
    assert host.check_output("su - alice -c 'echo $OMP_NUM_THREADS'") == threads


def test_nothing_is_printed_at_login(host: Any) -> None:
    for user in ("alice", "carol", "root"):
        done = host.run(f"su - {user} -c true")
        assert (done.rc, done.stdout, done.stderr) == (0, "", "")


def test_open_files(host: Any) -> None:
    assert host.check_output("su - alice -c 'ulimit -Sn; ulimit -Hn'").split() == [NOFILE, NOFILE]
    assert host.check_output("su - carol -c 'ulimit -Hn'") == host.check_output("ulimit -Hn")


def test_show_says_why(host: Any) -> None:
    output = host.check_output("su - alice -c 'gpufleet-env show'")
    assert "HF_HOME=/home/alice/.cache/huggingface" in output
    assert "D-9" in output


def test_diff(host: Any) -> None:
    assert host.check_output("su - alice -c 'gpufleet-env diff'") == "No difference."
    done = host.run("su - alice -c 'OMP_NUM_THREADS=99 gpufleet-env diff'")
    assert done.rc == 1
    assert done.stdout.startswith("OMP_NUM_THREADS: '99', the host gives")


def test_a_profile_for_one_command(host: Any) -> None:
    command = "su - alice -c 'gpufleet-env run --profile debug -- env -0'"
    env = parsed(host.check_output(command))
    assert (env["PYTHONHASHSEED"], env["CUDA_LAUNCH_BLOCKING"]) == ("0", "1")
    assert env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


# Every other bad wish is a row of tests/unit/test_env_catalog.py; these show that the role says no more than the row.
@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"env_profile_profiles": ["seed", "debug"]}, ["'seed'", "'debug'", "PYTHONHASHSEED"]),
        ({"env_profile_overrides": {"CUDA_VISIBLE_DEVICES": "all"}}, ["CUDA_VISIBLE_DEVICES", "hides every GPU"]),
        ({"env_profile_overrides": {"HF_ENDPOINT": "http://hub.example"}}, ["HF_ENDPOINT", "https://"]),
    ],
)
def test_a_bad_wish_gets_one_sentence_and_changes_nothing(
    again: Callable[..., Any], wishes: dict[str, Any], words: list[str]
) -> None:
    run = again(**wishes)
    assert not run.ok
    assert run.changed == 0
    assert "\n" not in run.sentence.strip()
    for word in words:
        assert word in run.sentence


def test_drift_is_found_and_mended(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("sed -i s/OMP_NUM_THREADS/OMP_NUM_THREAD/ /etc/profile.d/gpufleet.sh")
    assert again("--check").changed == 1
    assert again().changed == 1


def test_other_wishes_reach_the_shell(host: Any, again: Callable[..., Any]) -> None:
    assert again(env_profile_profiles=["seed"], env_profile_overrides={}, env_profile_activate=False).ok
    try:
        env = parsed(host.check_output("su - alice -c 'env -0'"))
        assert (env["OMP_NUM_THREADS"], env["PYTORCH_CUDA_ALLOC_CONF"]) == ("4", "max_split_size_mb:128")
        assert env["TRANSFORMERS_CACHE"] == "/home/alice/.cache/huggingface/hub"
        assert VENV_BIN not in env["PATH"]
        assert "CUDA_VISIBLE_DEVICES" not in env
    finally:
        assert again().ok


def test_absent_removes_these_files_and_nothing_else(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("touch /etc/gpufleet/other")
    assert again(env_profile_state="absent").changed == 1
    assert [path for path in FILES if host.file(path).exists] == []
    assert host.file("/etc/gpufleet/other").exists
    assert "HF_HOME" not in host.check_output("su - alice -c env")
    # Without systemd its files are left out, and come when it does.
    assert again(__env_profile_systemd=False).ok
    assert [path for path in FILES if not host.file(path).exists] == list(SYSTEMD_FILES)
    assert again().changed == 1
    assert [path for path in FILES if not host.file(path).exists] == []
