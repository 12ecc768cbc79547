"""A workspace of real packages, used as its owner does: the guide's commands and each verb, on the host and inside."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

import pytest
from guide import GUIDE, Command, commands

PLACE = "/workspaces/torch_starter"
WHERE = ["host", "container"]


def as_alice(host: Any, command: str) -> Any:
    return host.run("su - alice -c %s", f"cd {PLACE} && {command}")


def run(host: Any, where: str, command: str) -> Any:
    """Run it with the environment active."""
    if where == "host":
        return as_alice(host, f"source .venv/bin/activate && {command}")
    return as_alice(host, f"docker compose exec -T dev bash -lc {shlex.quote(command)}")


@pytest.fixture(scope="module", autouse=True)
def up(host: Any) -> None:
    started = time.monotonic()
    done = as_alice(host, "./dev.sh up")
    assert done.rc == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 30, "the guide's half minute"


def test_the_site_measured_in_the_image_too(host: Any) -> None:
    report = json.loads(host.file("/var/lib/gpufleet/probe.json").content_string)
    (check,) = [check for check in report["checks"] if check["id"] == "beside.agrees"]
    assert check["status"] == "pass", check
    assert check["evidence"]["torch"] == report["software"]["torch"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("command", commands(GUIDE.read_text()), ids=lambda command: command.name)
def test_the_guides_own_commands_word_for_word(host: Any, where: str, command: Command) -> None:
    if "gpu" in command.needs:
        pytest.skip(f"{command.line}: this host has no GPU")
    done = run(host, where, command.line)
    assert done.rc == 0, done.stdout + done.stderr


SCRIPT = "import torch; x = torch.ones(512, 512); print((x @ x).sum().item())"
# What a person types, and how it ends: on the host, and in the container.
VERBS = [
    ("./dev.sh help", 0, 0),
    ("./dev.sh nonsense", 2, 2),
    ("./dev.sh up", 0, 3),
    ("./dev.sh shell python -c 'import torch'", 0, 3),
    ("./dev.sh docker-stats", 0, 3),
    ("./dev.sh sync --check", 0, 0),
    ("./dev.sh sync", 0, 0),
    ("./dev.sh lock-update --check", 0, 0),
    ("./dev.sh profile /tmp/script.py", 0, 0),
    ("./dev.sh memory-profile /tmp/script.py", 0, 0),
    ("./dev.sh all-checks", 0, 0),
    ("./dev.sh test --all", 0, 0),
    ("./dev.sh optimize", 0, 0),
    ("./dev.sh clean", 0, 0),
    ("./dev.sh verify-setup --json", 0, 0),
    ("./dev.sh benchmark --profile quick", 0, 0),
]


@pytest.mark.parametrize(("line", "on_host", "in_container"), VERBS, ids=[line for line, _, _ in VERBS])
@pytest.mark.parametrize("where", WHERE)
def test_each_verb_ends_as_it_should(host: Any, where: str, line: str, on_host: int, in_container: int) -> None:
    assert run(host, where, f"echo {shlex.quote(SCRIPT)} > /tmp/script.py").rc == 0
    before = as_alice(host, "sha256sum pyproject.toml compose.yaml requirements/*").stdout
    done = run(host, where, line)
    assert done.rc == (on_host if where == "host" else in_container), done.stdout + done.stderr
    assert as_alice(host, "sha256sum pyproject.toml compose.yaml requirements/*").stdout == before


@pytest.mark.parametrize("where", WHERE)
def test_jupyter_answers_whoever_has_the_token_and_nobody_else(host: Any, where: str) -> None:
    ask = """
import pathlib, sys, time, urllib.error, urllib.request
(token,) = pathlib.Path.home().glob(".local/state/gpufleet/jupyter-*.token")
def status(token):
    try:
        return urllib.request.urlopen("http://127.0.0.1:8899/api/contents?token=" + token, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
until = time.monotonic() + 60
while not status("") and time.monotonic() < until:
    time.sleep(1)
print(status(token.read_text()), status("wrong"), token.stat().st_mode & 0o777)
"""
    # In braces: "a && b &" would put what activates the environment into the background too.
    start = "{ nohup ./dev.sh jupyter --port 8899 >/tmp/jupyter.log 2>&1 & }; sleep 1; "
    stop = "; pkill -f [j]upyter-lab"
    done = run(host, where, f"{start} python -c {shlex.quote(ask)} {stop}")
    assert done.stdout.split() == ["200", "403", str(0o600)], done.stdout + done.stderr
