"""What two people have of their workspaces, asked as they would ask: on the host, and in their containers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guide import GUIDE, Command, commands

Again = Callable[..., Any]
PLACES = {"alice": "/workspaces/torch_starter", "bob": "/home/bob/torch_starter"}
BUDGET_S = 30  # the guide's


def as_user(host: Any, user: str, command: str) -> Any:
    return host.run("su - %s -c %s", user, f"cd {PLACES[user]} && {command}")


def compose(host: Any, user: str, words: str) -> Any:
    return as_user(host, user, f"docker compose {words}")


def inside(host: Any, user: str, command: str, service: str = "dev") -> Any:
    return host.run("su - %s -c %s", user, f"cd {PLACES[user]} && docker compose exec -T {service} {command}")


def workspace(host: Any, user: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(host.file(f"{PLACES[user]}/.devcontainer/workspace.json").content_string)
    return told


@pytest.fixture(scope="module")
def running(host: Any) -> dict[str, float]:
    """Both people's containers, healthy, and the seconds that took."""
    seconds = {}
    for user in PLACES:
        started = time.monotonic()
        done = as_user(host, user, "./dev.sh up")
        assert done.rc == 0, done.stdout + done.stderr
        seconds[user] = time.monotonic() - started
    return seconds


@pytest.mark.parametrize("user", PLACES)
def test_the_workspaces_environment_opens_on_the_host(host: Any, user: str) -> None:
    done = as_user(
        host, user, "source .venv/bin/activate && python --version && pip list && python -c 'import packaging'"
    )
    assert done.rc == 0, done.stderr
    assert done.stdout.startswith("Python 3.12.")
    assert as_user(host, user, ".venv/bin/python -c 'import sys; print(sys.prefix)'").stdout.strip() == (
        f"{PLACES[user]}/.venv"
    )
    assert host.run(f"find {PLACES[user]}/.venv -not -user {user} | head").stdout == ""
    assert (
        as_user(
            host, user, "uv pip sync --dry-run --offline --python .venv requirements/core.txt requirements/dev.txt"
        ).rc
        == 0
    )


@pytest.mark.parametrize("place", ["host", "container"])
@pytest.mark.parametrize("command", commands(GUIDE.read_text()), ids=lambda command: command.name)
def test_the_guides_own_commands_word_for_word(host: Any, request: Any, place: str, command: Command) -> None:
    """As the workspace's user, with the environment active; what needs torch runs in the scenario default."""
    if command.needs or "all-checks" in command.line or "verify-setup" in command.line:
        pytest.skip(f"{command.line}: these locks have no torch, and this host no GPU and no probe")
    if place == "host":
        done = as_user(host, "alice", f"source .venv/bin/activate && {command.line}")
    else:
        request.getfixturevalue("running")
        done = inside(host, "alice", f"bash -lc {shlex.quote(command.line)}")
    assert done.rc == 0, done.stdout + done.stderr


@pytest.mark.parametrize("user", PLACES)
def test_a_script_of_the_copied_environment_runs_its_own_python(host: Any, user: str) -> None:
    first = as_user(host, user, "head -1 .venv/bin/pip").stdout
    assert f"{PLACES[user]}/.venv" in first
    assert "/opt/uv/venv" not in as_user(host, user, "grep -rIl /opt/uv/venv .venv/bin || true").stdout


@pytest.mark.parametrize("user", PLACES)
def test_compose_reads_the_file(host: Any, user: str) -> None:
    done = compose(host, user, "config --format json")
    assert done.rc == 0, done.stderr
    config = json.loads(done.stdout)
    dev = config["services"]["dev"]
    assert dev["image"] == workspace(host, user)["image"]
    assert dev["security_opt"] == ["no-new-privileges:true"]
    assert "SYS_ADMIN" not in done.stdout
    assert "dev-debug" not in config["services"]
    assert config["name"] == f"torch-starter-{user}"


@pytest.mark.parametrize("user", PLACES)
def test_a_container_is_healthy_within_the_guides_half_minute(running: dict[str, float], user: str) -> None:
    assert running[user] < BUDGET_S


@pytest.mark.parametrize("user", PLACES)
def test_the_containers_user_has_the_numbers_of_the_person(host: Any, running: dict[str, float], user: str) -> None:
    assert inside(host, user, "id -un").stdout.strip() == "vscode"
    assert inside(host, user, "id -u").stdout == host.run(f"id -u {user}").stdout
    assert inside(host, user, "bash -c 'touch made-inside && rm made-inside && touch stays'").rc == 0
    assert host.file(f"{PLACES[user]}/stays").user == user
    host.run(f"rm {PLACES[user]}/stays")


@pytest.mark.parametrize("user", PLACES)
@pytest.mark.parametrize("shell", ["sh -c", "bash -c", "bash -lc"])
def test_python_is_the_images_in_every_shell(host: Any, running: dict[str, float], user: str, shell: str) -> None:
    done = inside(host, user, f"{shell} 'python -c \"import sys; print(sys.prefix)\"'")
    assert done.stdout.strip() == "/opt/venv", done.stderr
    assert inside(host, user, f"{shell} 'touch /opt/venv/x'").rc != 0


def test_the_container_gets_its_gpu(host: Any, running: dict[str, float]) -> None:
    assert inside(host, "alice", "ls /dev/nvidia0").rc == 0


def test_the_guides_variables_are_set(host: Any, running: dict[str, float]) -> None:
    values = dict(line.split("=", 1) for line in inside(host, "bob", "env").stdout.splitlines() if "=" in line)
    assert values["PYTHONUNBUFFERED"] == "1"
    assert values["HF_HUB_CACHE"] == "/home/vscode/.cache/huggingface/hub"
    assert "CUDA_VISIBLE_DEVICES" not in values
    assert inside(host, "bob", "test -w /home/vscode/.cache/uv").rc == 0


@pytest.mark.parametrize(
    "cache", ["huggingface/hub", "huggingface/datasets", "huggingface/xet", "torch/hub/checkpoints"]
)
def test_two_people_write_one_cache_and_read_each_others_entries(
    host: Any, running: dict[str, float], cache: str
) -> None:
    """As a downloader does, with the narrowest of masks: a directory, a file in it, another name for it."""
    place = f"/home/vscode/.cache/{cache}"
    for writer, reader in (("alice", "bob"), ("bob", "alice")):
        entry = f"{place}/models--{writer}"
        script = f"umask 077; mkdir {entry} && echo {writer} > {entry}/part && mv {entry}/part {entry}/w"
        assert inside(host, writer, f"bash -c {shlex.quote(script)}").rc == 0
        done = inside(host, reader, f"bash -c 'cat {entry}/w && echo {reader} >> {entry}/w && touch {entry}/new'")
        assert done.rc == 0, done.stderr
        assert done.stdout == f"{writer}\n"
        assert inside(host, writer, f"bash -c 'cat {entry}/w'").stdout.split() == [writer, reader]
        assert inside(host, reader, f"rm -r {entry}").rc == 0


def test_what_uv_has_cached_is_each_persons_own(host: Any, running: dict[str, float]) -> None:
    """uv links from its cache into environments: who may write there changes what others run."""
    for user in PLACES:
        assert inside(host, user, f"bash -c 'echo {user} > ~/.cache/uv/whose'").rc == 0
    for user in PLACES:
        assert inside(host, user, "bash -c 'cat ~/.cache/uv/whose; rm ~/.cache/uv/whose'").stdout == f"{user}\n"


def test_two_people_share_no_keys(host: Any, running: dict[str, float]) -> None:
    assert inside(host, "alice", "bash -c 'umask 077; echo secret > /home/vscode/.kaggle/kaggle.json'").rc == 0
    assert inside(host, "bob", "cat /home/vscode/.kaggle/kaggle.json").rc != 0
    assert host.run("su bob -c 'cat /home/alice/.kaggle/kaggle.json'").rc != 0
    host.run("rm /home/alice/.kaggle/kaggle.json")


def test_no_more_rights_than_it_needs(host: Any, running: dict[str, float]) -> None:
    status = dict(line.split(":\t", 1) for line in inside(host, "alice", "cat /proc/1/status").stdout.splitlines())
    assert int(status["CapEff"], 16) == 0
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    assert inside(host, "alice", "sh -c 'su -c id 2>&1 || true'").stdout.count("uid=0") == 0


def test_two_images_share_all_that_is_heavy(host: Any) -> None:
    def layers(user: str) -> list[str]:
        told: list[str] = json.loads(host.run(f"docker image inspect {workspace(host, user)['image']}").stdout)[0][
            "RootFS"
        ]["Layers"]
        return told

    alice, bob = layers("alice"), layers("bob")
    assert alice != bob
    assert len([layer for layer in alice if layer not in bob]) <= 3


def test_the_image_is_named_by_what_is_in_it(host: Any) -> None:
    told = workspace(host, "alice")
    inspected = json.loads(host.run(f"docker image inspect {told['image']}").stdout)[0]
    labels = inspected["Config"]["Labels"]
    assert labels["host.gpufleet.build-hash"].startswith(told["image"].rpartition("-")[2])
    assert inspected["Config"]["User"] == "vscode"
    noted = json.loads(host.file("/var/lib/gpufleet/dev_container/torch-starter-alice.json").content_string)
    assert noted["seconds"] > 0
    assert noted["size_bytes"] > 0


def test_check_mode_says_what_would_be_rebuilt_and_why(host: Any, again: Again) -> None:
    ran = again("--check", playbook="workspaces.yml", dev_container_packages=["less", "file"])
    assert ran.ok, ran.sentence
    assert ran.changed > 0
    assert "Would build torch-starter:cu13-" in json.dumps(ran.result)
    assert "Dockerfile" in json.dumps(ran.result)
    assert again("--check", playbook="workspaces.yml").changed == 0


def test_what_the_user_made_stays_and_what_is_ours_comes_back(host: Any, again: Again) -> None:
    place = PLACES["alice"]
    as_user(
        host,
        "alice",
        "echo '# mine' >> pyproject.toml; echo x > .env.local; echo '# broken' >> compose.yaml; rm dev.sh",
    )
    mine = host.file(f"{place}/pyproject.toml").content_string
    ran = again(playbook="workspaces.yml")
    assert ran.ok, ran.sentence
    assert ran.changed == 1
    assert host.file(f"{place}/pyproject.toml").content_string == mine
    assert host.file(f"{place}/.env.local").content_string == "x\n"
    assert "# broken" not in host.file(f"{place}/compose.yaml").content_string
    assert host.file(f"{place}/dev.sh").mode == 0o755
    as_user(host, "alice", "rm .env.local")


def test_a_run_that_was_cut_off_in_the_environment_is_repaired(host: Any, again: Again) -> None:
    as_user(host, "bob", "touch .venv.unfinished && rm -r .venv/lib")
    ran = again(playbook="workspaces.yml")
    assert ran.ok, ran.sentence
    assert as_user(host, "bob", ".venv/bin/python -c 'import packaging'").rc == 0
    assert not host.file(f"{PLACES['bob']}/.venv.unfinished").exists
    assert again(playbook="workspaces.yml").changed == 0


def test_an_image_that_somebody_took_away_comes_back(host: Any, again: Again) -> None:
    name = workspace(host, "alice")["image"]
    assert host.run(f"docker tag {name} kept:1 && docker image rm {name}").rc == 0
    ran = again(playbook="workspaces.yml")
    assert ran.ok, ran.sentence
    assert host.run(f"docker image inspect {name}").rc == 0
    host.run("docker image rm kept:1")


def test_a_link_that_a_user_planted_leads_root_nowhere(host: Any, again: Again) -> None:
    place = PLACES["bob"]
    host.run(f"rm {place}/compose.yaml && ln -s /etc/shadow {place}/compose.yaml")
    before = host.file("/etc/shadow").content_string
    ran = again(playbook="workspaces.yml")
    assert host.file("/etc/shadow").content_string == before
    assert not host.file(f"{place}/compose.yaml").is_symlink or not ran.ok
    host.run(f"rm -f {place}/compose.yaml")
    assert again(playbook="workspaces.yml").ok


def test_host_has_what_the_guide_keeps_open(host: Any) -> None:
    for program in ("htop", "tmux"):
        assert host.run(f"su - alice -c 'command -v {program}'").rc == 0


@pytest.fixture(scope="module")
def devcontainer(host: Any) -> str:
    """The command of VS Code's own reader, brought to the host with the machine's Node."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("no npm on this machine")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gpufleet-test/devcontainers-cli")
    shutil.copytree(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "cli"), cache, dirs_exist_ok=True)
    subprocess.run([npm, "ci", "--prefix", cache, "--no-audit", "--no-fund", "--silent"], check=True)
    name = host.backend.name
    for source, target in ((node, "/usr/local/bin/node"), (cache / "node_modules", "/opt/node_modules")):
        subprocess.run(["docker", "cp", "--follow-link", str(source), f"{name}:{target}"], check=True)
    return "node /opt/node_modules/@devcontainers/cli/devcontainer.js"


def test_vs_codes_own_reader_brings_the_workspace_up(
    host: Any, again: Again, running: dict[str, float], devcontainer: str
) -> None:
    done = as_user(host, "alice", f"{devcontainer} read-configuration --workspace-folder .")
    assert done.rc == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["configuration"]["remoteUser"] == "vscode"
    assert compose(host, "alice", "down").rc == 0  # one that runs already would be taken as it is
    done = as_user(host, "alice", f"{devcontainer} up --workspace-folder . --skip-post-create")
    assert done.rc == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["remoteWorkspaceFolder"] == PLACES["alice"]
    done = as_user(host, "alice", f"{devcontainer} exec --workspace-folder . python -c 'import sys; print(sys.prefix)'")
    assert done.stdout.strip().endswith("/opt/venv"), done.stderr
    assert again("--check", playbook="workspaces.yml").changed == 0, "what it built is the same image"


def test_absent(host: Any, again: Again) -> None:
    """Last: what the user made stays."""
    for user in PLACES:
        as_user(host, user, "docker compose down")
    as_user(host, "alice", "echo '# mine' >> pyproject.toml")
    ran = again("--check", playbook="workspaces.yml", dev_container_state="absent")
    assert ran.ok, ran.sentence
    ran = again(playbook="workspaces.yml", dev_container_state="absent")
    assert ran.ok, ran.sentence
    place = PLACES["alice"]
    for name in ("Dockerfile", "compose.yaml", "dev.sh", ".devcontainer/devcontainer.json", "requirements/core.txt"):
        assert not host.file(f"{place}/{name}").exists
    assert host.file(f"{place}/pyproject.toml").exists
    assert host.file(f"{place}/.venv/bin/python").exists
    assert host.run("docker image ls --quiet --filter label=host.gpufleet.build-hash").stdout == ""
    assert again(playbook="workspaces.yml", dev_container_state="absent").changed == 0
