"""The command gpufleet-env, as a process, on what the filter env_json really writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import env_render, env_resolve

COMMAND = Path(__file__).resolve().parents[2] / "roles/env_profile/files/gpufleet-env"
PLAN: dict[str, Any] = {"resources": {"threads": 6, "cores": 12, "vcpus": 24, "gpus": 2, "dataloader_workers": 11}}
BIN = "/opt/uv/venv/bin"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "env.json"
    path.write_text(env_render.env_json(env_resolve.resolve(PLAN), "ml", BIN), encoding="utf-8")
    return path


def call(file: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(COMMAND), "--file", str(file), *words],
        env={"HOME": "/home/ann", "PATH": "/usr/bin:/bin", **env},
        text=True,
        capture_output=True,
        check=False,
    )


def environment(file: Path, *words: str, **env: str) -> dict[str, str]:
    done = call(file, "run", *words, "--", "env", "-0", **env)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)


def test_run_gives_what_a_login_shell_gets(file: Path) -> None:
    env = environment(file)
    wanted = {k: v.replace("$HOME", "/home/ann") for k, v in env_resolve.resolve(PLAN)["login"].items()}
    assert {name: env.get(name) for name in wanted} == wanted
    assert env["PATH"] == f"{BIN}:/usr/bin:/bin"


@pytest.mark.parametrize("own", [{"HF_HOME": "/mine"}, {"OMP_NUM_THREADS": ""}, {"PATH": f"/bin:/usr/bin:{BIN}"}])
def test_run_keeps_the_users_own_value(file: Path, own: dict[str, str]) -> None:
    env = environment(file, **own)
    assert {name: env[name] for name in own} == own


def test_a_profile_that_is_asked_for_wins(file: Path) -> None:
    env = environment(file, "--profile", "debug", "--profile", "offline", PYTHONHASHSEED="random")
    assert (env["PYTHONHASHSEED"], env["PYTHONDEVMODE"], env["HF_HUB_OFFLINE"]) == ("0", "1", "1")
    assert env["OMP_NUM_THREADS"] == "6"


def test_a_profile_that_unsets(file: Path) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in environment(file, "--profile", "seed", CUDA_VISIBLE_DEVICES="all")


@pytest.mark.parametrize(("words", "status"), [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], -9)])
def test_the_status_is_the_commands_own(file: Path, words: list[str], status: int) -> None:
    assert call(file, "run", "--", *words).returncode == status


def test_words_after_the_command_are_the_commands(file: Path) -> None:
    assert call(file, "run", "echo", "--profile", "x", "--", "y").stdout == "--profile x -- y\n"


def test_a_broken_pipe_ends_the_command(file: Path) -> None:
    assert call(file, "run", "--", "sh", "-c", "yes | head -1").stdout == "y\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run"], "needs a command"),
        (["run", "--", "no-such-program"], "'no-such-program' was not found in PATH"),
        (["run", "--", "/etc"], "cannot be run"),
        (["run", "--profile", "fast", "--", "true"], "'fast' is no profile; use one of debug,"),
        (["diff", "--pid", "999999999"], "999999999"),
    ],
)
def test_errors_are_one_sentence(file: Path, words: list[str], text: str) -> None:
    done = call(file, *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.startswith("gpufleet-env: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "text"), [(None, "No such file"), ("{", "no valid JSON"), ('{"schema": 9}', "release")]
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "env.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    done = call(path, "show")
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert "env_profile" in done.stderr


def test_show(file: Path) -> None:
    lines = call(file, "show").stdout.splitlines()
    assert lines[0] == "# scope login, profiles training"
    assert "HF_HOME=/home/ann/.cache/huggingface" in lines
    assert lines[lines.index("OMP_NUM_THREADS=6") + 1].startswith("    default; D-14: ")
    assert "NVIDIA_VISIBLE_DEVICES=all" in call(file, "show", "--scope", "container").stdout


def test_diff(file: Path) -> None:
    login = {k: v.replace("$HOME", "/home/ann") for k, v in env_resolve.resolve(PLAN)["login"].items()}
    same = call(file, "diff", **login)
    assert (same.returncode, same.stdout) == (0, "No difference.\n")
    del login["HF_HOME"]
    other = call(file, "diff", **{**login, "OMP_NUM_THREADS": "9"})
    assert other.returncode == 1
    assert other.stdout.splitlines() == [
        "HF_HOME: not set, the host gives '/home/ann/.cache/huggingface'",
        "OMP_NUM_THREADS: '9', the host gives '6'",
    ]


def test_diff_of_a_process(file: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env={"HOME": "/home/bob", "OMP_NUM_THREADS": "3"}) as sleeper:
        try:
            # Until exec, /proc shows the environment of this test.
            while b"sleep" not in Path(f"/proc/{sleeper.pid}/cmdline").read_bytes():
                time.sleep(0.01)
            output = call(file, "diff", "--pid", str(sleeper.pid)).stdout
        finally:
            sleeper.kill()
    assert "OMP_NUM_THREADS: '3', the host gives '6'" in output
    assert "HF_HOME: not set, the host gives '/home/bob/.cache/huggingface'" in output


def test_the_command_is_executable() -> None:
    assert os.access(COMMAND, os.X_OK)
