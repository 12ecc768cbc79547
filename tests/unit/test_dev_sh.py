"""dev.sh of a workspace: what each verb starts, how it ends, and that it changes nothing else.

Most programs stand in and write down how they were called; ruff, mypy, pytest, uv and git are the real ones where it
says so. The issue behind several tests: a peer's dev.sh of the same verbs ended with "command not found", edited the
project, deleted uv's whole cache, and put Jupyter's token into the list of processes.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from dev_workspace import FILES, Workspace, package_index, wheel

VERBS = {
    *("up", "down", "shell", "docker-stats"),
    *("sync", "lock-update", "optimize", "clean"),
    *("profile", "memory-profile", "all-checks", "test", "jupyter"),
    *("verify-setup", "benchmark", "help"),
}
VERSION = [["docker", "version"], ["docker", "compose", "version"]]
COMPOSE = ["docker", "compose"]
PS = [*COMPOSE, "ps", "--quiet", "--status", "running", "dev"]
OWN = ["docker", "ps", "--quiet", "--filter", "label=com.docker.compose.project=torch-starter"]
# A container of this workspace runs.
RUNNING = 'case "$*" in *"ps --quiet"*) echo c0ffee ;; esac\n'
REFUSED = "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1\n"


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def sync_command(work: Workspace, *more: str, locks: str = "requirements") -> list[str]:
    python = str(work.path / ".venv/bin/python")
    return ["uv", "pip", "sync", "--require-hashes", "--python", python, *more, f"{locks}/core.txt", f"{locks}/dev.txt"]


# --- the whole ---


def test_help_names_every_verb_and_each_is_there() -> None:
    text = (FILES / "dev.sh").read_text(encoding="utf-8")
    told = re.findall(r"^## ([a-z-]+)", text, re.MULTILINE)
    assert (set(told), len(told)) == (VERBS, len(VERBS))
    assert sorted(re.findall(r"^verb_([a-z_]+)\(\)", text, re.MULTILINE)) == sorted(v.replace("-", "_") for v in VERBS)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help(work: Workspace, words: list[str]) -> None:
    done = work.dev(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()[2:]} == VERBS


@pytest.mark.parametrize("verb", ["lint", "verb_up", "Up", "u.", "..", "--up", "up;id", "in-container", "sh ell"])
def test_an_unknown_verb_is_a_wrong_question(work: Workspace, verb: str) -> None:
    done = work.dev(verb)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dev.sh {verb}: there is no such verb; ./dev.sh help lists them\n"


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--force"],
        ["down", "-v"],
        ["docker-stats", "x"],
        ["sync", "--all"],
        ["lock-update", "torch"],
        ["optimize", "now"],
        ["clean", "--all"],
        ["all-checks", "src"],
        ["jupyter", "--ip=0.0.0.0"],
        ["jupyter", "--ServerApp.token=abc"],
        ["jupyter", "--port"],
        ["verify-setup", "--yaml"],
    ],
)
def test_a_wrong_argument_is_refused_before_anything_happens(work: Workspace, words: list[str]) -> None:
    work.stand_in("docker", "uv")
    work.stand_in("ruff", "mypy", "pytest", "jupyter-lab", venv=True)
    before = work.files()
    done = work.dev(*words)
    assert done.returncode == 2, done.stderr
    assert words[1] in done.stderr
    assert work.calls() == []
    assert work.files() == before


def test_it_is_executable_and_no_lint_finds_fault() -> None:
    assert os.access(FILES / "dev.sh", os.X_OK)
    assert "docker volume" not in (text := (FILES / "dev.sh").read_text(encoding="utf-8"))
    assert not re.search(r"uv (add|remove|cache clean)|system prune|unsafe-fixes|allow-root", text)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 9}', '{"schema": 1, "project": "x"}'])
def test_a_workspace_that_cannot_be_read(work: Workspace, content: str) -> None:
    work.write(".devcontainer/workspace.json", content)
    done = work.dev("sync")
    assert done.returncode == 1
    assert "workspace.json cannot be used" in done.stderr
    assert "apply the role dev_container again" in done.stderr
    assert done.stderr.count("\n") == 1


# --- where it is called ---


def test_any_directory_and_a_link_to_it_will_do(work: Workspace) -> None:
    work.stand_in("uv")
    link = work.base / "d"
    link.symlink_to(work.path / "dev.sh")
    for command, cwd in (
        ([str(link), "sync"], Path("/")),
        (["./dev.sh", "sync"], work.path),
        (["../dev.sh", "sync"], work.path / "src"),
        (["sh", "dev.sh", "sync"], work.path),
    ):
        work.record.write_text("")
        done = subprocess.run(
            command, cwd=cwd, env={**work.env, "CDPATH": "/"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert work.calls() == [sync_command(work)]


@pytest.mark.parametrize("active", ["", "own", "other"])
def test_the_workspaces_environment_counts_whichever_is_active(work: Workspace, active: str) -> None:
    other = work.base / "other"
    work.venv(other)
    venv = {"": None, "own": work.path / ".venv", "other": other}[active]
    env = {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{work.bin}"} if venv else {}
    (work.base / "probe.py").write_text("import sys, os; print(sys.prefix, os.environ['VIRTUAL_ENV'], sys.argv[1:])")
    done = work.dev("benchmark", "--profile", "quick", **env)
    mine = work.path / ".venv"
    assert done.stdout == f"{mine} {mine} ['--profile', 'quick']\n"


def test_in_the_container_its_own_environment_counts(work: Workspace) -> None:
    work.enter_container()
    (work.base / "probe.py").write_text("import sys; print(sys.prefix)")
    assert work.dev("benchmark").stdout == f"{work.container}\n"


def test_a_host_with_such_a_path_is_no_container(work: Workspace) -> None:
    work.venv(work.container)
    (work.base / "probe.py").write_text("import sys; print(sys.prefix)")
    assert work.dev("benchmark").stdout == f"{work.path}/.venv\n"


@pytest.mark.parametrize("verb", ["up", "down", "shell", "docker-stats"])
def test_the_engines_verbs_belong_to_the_host(work: Workspace, verb: str) -> None:
    work.enter_container()
    work.stand_in("docker")
    done = work.dev(verb)
    assert (done.returncode, done.stdout) == (3, "")
    assert "run this on the host" in done.stderr
    assert work.calls() == []


@pytest.mark.parametrize(
    "words",
    [
        "sync",
        "lock-update",
        "optimize",
        "clean",
        "profile train.py",
        "memory-profile train.py",
        "all-checks",
        "test",
        "jupyter",
    ],
)
def test_nobody_else_writes_into_a_persons_project(work: Workspace, words: str) -> None:
    work.stand_in("uv")
    work.stand_in("ruff", "mypy", "pytest", "jupyter-lab", "viztracer", "memray", venv=True)
    work.stand_in("id", does="case $1 in -u) echo 4242 ;; -un) echo mallory ;; esac\n")
    before = work.files()
    done = work.dev(*words.split(), cwd=work.path)
    assert done.returncode == 1
    assert "and you are mallory; run it as " in done.stderr
    assert {call[0] for call in work.calls()} <= {"id"}
    assert work.files() == before


# --- the engine ---


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["up"], [[*COMPOSE, "up", "--detach", "--wait", "dev"]]),
        (["up", "--build"], [[*COMPOSE, "up", "--detach", "--wait", "--build", "dev"]]),
        (["down"], [[*COMPOSE, "down"]]),
        (["shell"], [PS, [*COMPOSE, "exec", "-T", "dev", "bash", "-l"]]),
        (["shell", "echo", "a  b"], [PS, [*COMPOSE, "exec", "-T", "dev", "echo", "a  b"]]),
        (["docker-stats"], [OWN, ["docker", "stats", "--no-stream", "c0ffee"]]),
        (["docker-stats", "--follow"], [OWN, ["docker", "stats", "c0ffee"]]),
    ],
)
def test_engine_verbs(work: Workspace, words: list[str], expected: list[list[str]]) -> None:
    work.stand_in("docker", does=RUNNING)
    before = work.files()
    done = work.dev(*words)
    assert done.returncode == 0, done.stderr
    version = VERSION[:1] if words[0] == "docker-stats" else VERSION
    assert work.calls() == version + expected
    assert work.files() == before


def test_compose_is_asked_in_the_workspace(work: Workspace) -> None:
    work.stand_in("docker", does=f'[ "$1" != compose ] || [ "$2" = version ] || pwd >>"{work.base}/where"\n')
    assert work.dev("down", cwd=Path("/")).returncode == 0
    assert (work.base / "where").read_text() == f"{work.path}\n"


def test_stats_without_a_container_of_ones_own(work: Workspace) -> None:
    work.stand_in("docker", does='[ "$1" != stats ] || echo CONTAINER ID\n')
    done = work.dev("docker-stats")
    assert (done.returncode, done.stdout) == (0, "CONTAINER ID\n")
    assert "No container of this workspace runs" in done.stderr


def test_a_container_that_does_not_become_healthy_says_its_last_words(work: Workspace) -> None:
    work.stand_in("docker", does='case "$*" in *" up "*) exit 1 ;; *" logs "*) echo its words ;; esac\n')
    done = work.dev("up")
    assert done.returncode == 1
    assert "its words" in done.stderr
    assert work.calls()[-1] == [*COMPOSE, "logs", "--tail", "20", "dev"]


def test_a_shell_needs_a_running_container(work: Workspace) -> None:
    work.stand_in("docker")
    done = work.dev("shell")
    assert (done.returncode, done.stderr) == (1, "dev.sh shell: the container does not run; ./dev.sh up starts it\n")


def test_the_commands_own_status_comes_back(work: Workspace) -> None:
    work.stand_in("docker", does=RUNNING + 'case "$*" in *exec*) exit 7 ;; esac\n')
    assert work.dev("shell", "false").returncode == 7


def test_stats_need_no_compose(work: Workspace) -> None:
    work.stand_in("docker", does="case $1 in compose) exit 1 ;; esac\n")
    assert work.dev("docker-stats").returncode == 0


@pytest.mark.parametrize("verb", ["up", "down", "shell"])
def test_an_engine_without_compose(work: Workspace, verb: str) -> None:
    work.stand_in("docker", does="case $1 in compose) exit 1 ;; esac\n")
    done = work.dev(verb)
    assert (done.returncode, "this docker has no compose" in done.stderr) == (1, True)


@pytest.mark.parametrize("verb", ["up", "down", "shell", "docker-stats"])
@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        (None, "docker is not installed here"),
        (REFUSED, "a member of that group is root on this host"),
        ("echo 'Cannot connect to the Docker daemon' >&2; exit 1\n", "docker does not answer (Cannot connect"),
    ],
)
def test_an_engine_that_cannot_be_used(work: Workspace, verb: str, does: str | None, sentence: str) -> None:
    if does is not None:
        work.stand_in("docker", does=does)
    done = work.dev(verb)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


# --- the environment ---


def test_sync(work: Workspace) -> None:
    work.stand_in("uv")
    before = work.files()
    assert work.dev("sync").returncode == 0
    assert work.calls() == [sync_command(work)]
    assert work.files() == before


def test_sync_takes_ones_own_locks(work: Workspace) -> None:
    work.stand_in("uv")
    work.write("locks/core.txt", "")
    work.write("locks/dev.txt", "")
    work.write(".env", "DEV_LOCKS=requirements\nDEV_LOCKS='locks'\n")
    work.dev("sync")
    work.dev("sync", DEV_LOCKS="requirements")
    assert work.calls() == [sync_command(work, locks="locks"), sync_command(work)]


def test_sync_makes_an_environment_that_is_gone(work: Workspace) -> None:
    work.stand_in("uv", does='[ "$1" != venv ] || { for word; do last=$word; done; mkdir -p "$last"; }\n')
    (work.path / ".venv").rename(work.base / "gone")
    (work.bin / "python3").symlink_to(work.base / "gone/bin/python")
    venv = str(work.path / ".venv")
    work.dev("sync")
    assert work.calls()[0] == ["uv", "venv", "--quiet", "--no-project", "--python", "3.12", venv]
    assert work.calls()[1] == sync_command(work)


@pytest.mark.parametrize(("answer", "code"), [("Would make no changes", 0), (" + torch==2.14.1", 1)])
def test_sync_check_only_tells(work: Workspace, answer: str, code: int) -> None:
    work.stand_in("uv", does=f"echo '{answer}' >&2\n")
    assert work.dev("sync", "--check").returncode == code
    assert work.calls() == [sync_command(work, "--dry-run")]


@pytest.mark.parametrize("failure", ["locks", "uv", "no uv"])
def test_sync_that_cannot_be(work: Workspace, failure: str) -> None:
    if failure == "locks":
        (work.path / "requirements/dev.txt").unlink()
    if failure != "no uv":
        work.stand_in("uv", does="exit 2\n" if failure == "uv" else "")
    done = work.dev("sync")
    assert done.returncode == 1
    assert {"locks": "requirements/dev.txt", "uv": "could not make", "no uv": "not in PATH"}[failure] in done.stderr


EXPORTS = """
case "$*" in
*"--output-file"*)
    for word; do last=$word; done
    printf 'alpha==1.1 \\\\\\n    --hash=sha256:aa\\ntorch==2.14.1 \\\\\\n    --hash=sha256:bb\\n' >"$last"
    case "$*" in *"--extra dev"*) printf 'beta==2.0 \\\\\\n    --hash=sha256:cc\\n' >>"$last" ;; esac
    ;;
*lock*) echo new >uv.lock ;;
esac
"""


def test_lock_update(work: Workspace) -> None:
    work.stand_in("uv", does=EXPORTS)
    before = work.files()
    done = work.dev("lock-update")
    assert done.returncode == 0, done.stderr
    commands = [" ".join(call[1:3]) for call in work.calls()]
    python = str(work.path / ".venv/bin/python")
    assert work.calls()[0] == ["uv", "lock", "--upgrade", "--python", python]
    assert commands == ["lock --upgrade", "export --quiet", "export --quiet", "pip sync"]
    assert work.calls()[3] == sync_command(work, locks="locks")
    after = work.files()
    made = {"uv.lock", "locks/core.txt", "locks/dev.txt", "locks/torch.txt"}
    assert set(after) - set(before) == made
    assert {name for name in before if before[name] != after[name]} == {".env"}
    env = (work.path / ".env").read_text()
    assert re.fullmatch(r"# mine\nHF_TOKEN=secret\nDEV_LOCKS=locks\nDEV_IMAGE=torch-starter:locks-[0-9a-f]{12}\n", env)
    assert "beta" not in (work.path / "locks/core.txt").read_text()
    assert "alpha" not in (work.path / "locks/dev.txt").read_text()
    assert "alpha" not in (work.path / "locks/torch.txt").read_text()
    assert "torch==2.14.1" in (work.path / "locks/torch.txt").read_text()
    assert "torch==2.14.1" in (work.path / "locks/core.txt").read_text()


def test_lock_update_again_gives_the_same(work: Workspace) -> None:
    work.stand_in("uv", does=EXPORTS)
    work.dev("lock-update")
    once = work.files()
    assert "0 packages differ from before." in work.dev("lock-update").stdout
    assert work.files() == once


def test_lock_update_check_changes_nothing(work: Workspace) -> None:
    work.stand_in("uv", does=EXPORTS.replace("*lock*", "*never*"))
    before = work.files()
    assert work.dev("lock-update", "--check").returncode == 0
    assert [call[:4] for call in work.calls()] == [["uv", "lock", "--upgrade", "--dry-run"]]
    assert work.files() == before


@pytest.mark.parametrize("had", [True, False])
@pytest.mark.parametrize("fails", ["lock", "export"])
def test_a_lock_update_that_fails_changes_nothing(work: Workspace, fails: str, had: bool) -> None:
    work.stand_in("uv", does=f'[ "$1" != {fails} ] || exit 2\n' + EXPORTS)
    if had:
        work.write("uv.lock", "old")
    before = work.files()
    done = work.dev("lock-update")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert work.files() == before


def test_in_the_container_the_image_is_compared(work: Workspace) -> None:
    work.enter_container()
    work.stand_in("uv", does="echo ' + torch==2.14.1'\n")
    done = work.dev("sync", "--check")
    assert done.returncode == 1
    assert "on the host: ./dev.sh up --build" in done.stderr


# --- caches ---


def test_clean_removes_the_projects_caches_and_nothing_else(work: Workspace) -> None:
    inside = ["src/torch_starter/__pycache__", ".mypy_cache/3.12", ".ruff_cache", ".pytest_cache", "a b/__pycache__"]
    kept = [".venv/lib/__pycache__", ".git/__pycache__", "results/cache"]
    outside = work.base / "shared/data/__pycache__"
    for name in [*inside, *kept]:
        work.write(f"{name}/x", "")
    outside.mkdir()
    (work.base / "shared/mypy").mkdir()
    (work.base / "shared/mypy/x").touch()
    (work.path / "tests/.mypy_cache").symlink_to(work.base / "shared/mypy")
    before = work.files()
    done = work.dev("clean")
    assert done.returncode == 0, done.stderr
    assert "5 cache directories removed" in done.stderr
    assert not [name for name in inside if (work.path / name).exists()]
    assert all((work.path / name / "x").exists() for name in kept)
    assert outside.exists()
    assert (work.base / "shared/mypy/x").exists()
    assert work.files() == before
    assert "0 cache directories removed" in work.dev("clean").stderr


def prunes(work: Workspace, cache: Path) -> bool:
    work.stand_in("uv", does=f'[ "$*" != "cache dir" ] || echo "{cache}"\n')
    work.record.write_text("")
    done = work.dev("optimize")
    assert done.returncode == 0, done.stderr
    assert all(call in (["uv", "cache", "dir"], ["uv", "cache", "prune"]) for call in work.calls())
    return ["uv", "cache", "prune"] in work.calls()


def test_optimize_prunes_ones_own_cache_only(work: Workspace) -> None:
    own, listed = work.base / "home/cache", work.base / "shared/cache/uv"
    for path in (own, listed):
        path.mkdir(parents=True)
    (work.base / "link").symlink_to(listed)
    before = work.files()
    assert prunes(work, own)
    assert not prunes(work, listed)
    assert not prunes(work, work.base / "link")
    assert not prunes(work, work.base / "not/there")
    own.chmod(0o2775)
    assert not prunes(work, own)
    assert work.files() == before


def test_optimize_compiles_the_environment(work: Workspace) -> None:
    module = work.path / ".venv/lib/python3.12/site-packages/module.py"
    module.write_text("x = 1\n")
    prunes(work, work.base / "none")
    assert list(module.parent.glob("__pycache__/module.*.pyc"))


# --- scripts ---


@pytest.mark.parametrize(
    ("verb", "tool", "suffix", "first"),
    [
        ("profile", "viztracer", "json", ["viztracer", "--quiet", "--output_file"]),
        ("memory-profile", "memray", "bin", ["python", "-m", "memray", "run", "--quiet", "--output"]),
    ],
)
def test_profilers_run_the_script_where_one_stands(
    work: Workspace, verb: str, tool: str, suffix: str, first: list[str]
) -> None:
    work.stand_in("uv", does="exit 3\n")
    before = work.files()
    done = work.dev(verb, "train.py", "--epochs", "1", cwd=work.path)
    assert (done.returncode, "ended with 3" in done.stderr) == (3, True)
    (call,) = work.calls()
    command = ["uv", "run", "--quiet", "--no-project", "--with", tool, "--", *first]
    result, words = Path(call[len(command)]), call[len(command) + 1 :]
    assert call[: len(command)] == command
    assert result.parent == work.path / ".profile"
    assert re.fullmatch(rf"train-\d{{8}}T\d{{6}}Z-\d+\.{suffix}", result.name)
    assert words[words[0] == "--" :] == ["train.py", "--epochs", "1"]
    assert work.files() == before
    assert (work.path / ".profile/.gitignore").read_text() == "*\n"


def test_a_profiler_of_the_environment_is_taken(work: Workspace) -> None:
    work.stand_in("viztracer", does='touch "$3"\n', venv=True)
    done = work.dev("profile", "train.py", cwd=work.path)
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in work.calls()] == ["viztracer"]
    assert "To look at it: vizviewer '" in done.stderr


@pytest.mark.parametrize("verb", ["profile", "memory-profile"])
@pytest.mark.parametrize(("words", "text"), [([], "name a script"), (["no.py"], "there is no file no.py")])
def test_a_profiler_without_a_script(work: Workspace, verb: str, words: list[str], text: str) -> None:
    done = work.dev(verb, *words)
    assert (done.returncode, text in done.stderr) == (2, True)


def test_no_probe_is_said(work: Workspace) -> None:
    done = work.dev("benchmark")
    assert (done.returncode, "the role torch_probe puts it on the host" in done.stderr) == (3, True)


def test_the_probes_status_comes_back(work: Workspace) -> None:
    (work.base / "probe.py").write_text("raise SystemExit(1)")
    assert work.dev("benchmark").returncode == 1


# --- checks ---


def checks(work: Workspace) -> list[str]:
    return [" ".join(call[:2]) for call in work.calls()]


@pytest.mark.parametrize("failing", [[], ["ruff"], ["mypy"], ["pytest"], ["ruff", "mypy", "pytest"]])
def test_all_checks_run_even_after_one_failed(work: Workspace, failing: list[str]) -> None:
    for name in ("ruff", "mypy", "pytest"):
        work.stand_in(name, does="exit 1\n" if name in failing else "", venv=True)
    before = work.files()
    done = work.dev("all-checks")
    assert checks(work) == ["ruff format", "ruff check", "mypy src", "pytest"]
    assert work.calls()[0] == ["ruff", "format", "--check", "--extend-exclude", "data,.devcontainer", "."]
    assert done.returncode == bool(failing)
    assert all(name in done.stderr.splitlines()[-1] for name in failing)
    assert work.files() == before


def test_all_checks_without_a_test_are_fine(work: Workspace) -> None:
    work.stand_in("ruff", "mypy", venv=True)
    work.stand_in("pytest", does="exit 5\n", venv=True)
    assert work.dev("all-checks").returncode == 0


def test_a_missing_tool_is_no_command_not_found(work: Workspace) -> None:
    work.stand_in("ruff", "pytest", venv=True)
    done = work.dev("all-checks")
    assert done.returncode == 1
    assert "mypy is not in" in done.stderr
    assert "the group 'dev'" in done.stderr
    assert work.calls() == []


@pytest.mark.parametrize(
    ("name", "text", "failed"),
    [
        ("src/torch_starter/__init__.py", '"""The package."""\n', ""),
        ("train.py", "x  =  1\n", "ruff format"),
        ("train.py", "import os\n", "ruff check"),
        ("src/torch_starter/__init__.py", 'x: int = "a"\n', "mypy"),
        ("tests/test_smoke.py", "def test_one() -> None:\n    assert not 1\n", "pytest"),
        ("data/other.py", "import  os\n", ""),
    ],
)
def test_all_checks_for_real(work: Workspace, name: str, text: str, failed: str) -> None:
    work.real("ruff", "mypy", "pytest")
    work.write("pyproject.toml", "[tool.mypy]\nstrict = true\n")
    work.write(name, text)
    before = work.files()
    done = work.dev("all-checks")
    assert done.returncode == bool(failed), done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (f"dev.sh all-checks: failed: {failed}" if failed else "All checks passed.")
    assert work.files() == before


# --- tests that a change touches ---


def commit(work: Workspace) -> None:
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=work.path, env=work.env, check=True, capture_output=True)


@pytest.fixture
def history(work: Workspace) -> Workspace:
    """A commit with two modules and their tests; one module is used by the other."""
    work.stand_in("pytest", venv=True)
    work.write(".gitignore", ".venv\ndata\n")
    work.write("src/torch_starter/model.py", "from . import layers\n")
    work.write("src/torch_starter/layers.py", "")
    work.write("src/torch_starter/loader.py", "")
    work.write("tests/conftest.py", "")
    work.write("tests/test_model.py", "from torch_starter.model import x\n")
    work.write("tests/test_loader.py", "import torch_starter.loader\n")
    work.write("tests/test_alone.py", "")
    commit(work)
    return work


USERS = ["tests/test_loader.py", "tests/test_model.py"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], None),
        (["README.md"], None),
        (["data/x.py"], None),
        (["src/torch_starter/layers.py"], ["tests/test_model.py"]),
        (["src/torch_starter/loader.py", "src/torch_starter/model.py"], USERS),
        (["src/torch_starter/__init__.py"], USERS),
        (["tests/test_alone.py"], ["tests/test_alone.py"]),
        (["tests/test_new.py"], ["tests/test_new.py"]),
        (["-src/torch_starter/loader.py"], ["tests/test_loader.py"]),
        (["tests/conftest.py"], ["tests/test_alone.py", *USERS, "tests/test_smoke.py"]),
        (["pyproject.toml"], []),
        (["tests/fixture.json"], []),
    ],
)
def test_only_what_a_change_touches_is_tested(
    history: Workspace, changes: list[str], expected: list[str] | None
) -> None:
    for name in changes:
        if name.startswith("-"):
            (history.path / name[1:]).unlink()
        else:
            history.write(name, "x = 1\n")
    done = history.dev("test")
    assert done.returncode == 0, done.stderr
    assert history.calls() == ([] if expected is None else [["pytest", *expected]])
    if expected is None:
        assert "--all runs every one" in done.stderr


def test_a_commit_that_was_not_pushed_is_a_change_too(history: Workspace) -> None:
    for words in (["branch", "pushed"], ["branch", "--set-upstream-to=pushed"]):
        subprocess.run(["git", *words], cwd=history.path, env=history.env, check=True, capture_output=True)
    history.write("tests/test_alone.py", "x = 1\n")
    commit(history)
    history.dev("test", "-x")
    assert history.calls() == [["pytest", "-x", "tests/test_alone.py"]]


def test_what_failed_last_time_is_tested_again(history: Workspace) -> None:
    history.write(".pytest_cache/v/cache/lastfailed", '{"tests/test_alone.py::test_x": true, "gone.py": true}')
    history.write(".gitignore", ".venv\ndata\n.pytest_cache\n")
    history.dev("test")
    assert history.calls() == [["pytest", "tests/test_alone.py"]]


@pytest.mark.parametrize("words", [["test"], ["test", "--all"]])
def test_every_test_runs_where_there_is_no_commit(work: Workspace, words: list[str]) -> None:
    work.stand_in("pytest", venv=True)
    assert work.dev(*words, "-q").returncode == 0
    assert work.calls() == [["pytest", "-q"]]


def test_a_failing_test_fails(work: Workspace) -> None:
    work.real("pytest")
    work.write("tests/test_smoke.py", "def test_one() -> None:\n    assert not 1\n")
    assert work.dev("test").returncode == 1


# --- Jupyter ---


def start_jupyter(work: Workspace, *words: str) -> tuple[list[str], str, Path]:
    """Its arguments, the token that it would read, and the token's file."""
    work.stand_in(
        "jupyter-lab",
        does=f'echo "$JUPYTER_TOKEN_FILE" >"{work.base}/place"; env >"{work.base}/env"\n',
        venv=True,
    )
    done = work.dev("jupyter", *words, JUPYTER_TOKEN="old")
    assert done.returncode == 0, done.stderr
    place = Path((work.base / "place").read_text().strip())
    token = place.read_text()
    assert re.fullmatch(r"[\w-]{43}", token)
    assert token not in done.stdout + done.stderr
    return work.calls()[-1], token, place


def test_jupyter_listens_on_loopback_and_its_token_is_in_no_argv(work: Workspace) -> None:
    before = work.files()
    argv, token, place = start_jupyter(work)
    assert argv == [
        "jupyter-lab",
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=8888",
        f"--ServerApp.root_dir={work.path}",
    ]
    assert token not in (work.base / "env").read_text()
    assert "JUPYTER_TOKEN=" not in (work.base / "env").read_text()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert work.files() == before


def test_the_token_stays_and_is_renewed_when_others_could_read_it(work: Workspace) -> None:
    _, token, place = start_jupyter(work)
    argv, again, _ = start_jupyter(work, "--port", "9999")
    assert (again, argv[3]) == (token, "--ServerApp.port=9999")
    place.chmod(0o644)
    _, renewed, _ = start_jupyter(work)
    assert renewed != token
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_jupyter_is_a_group_of_its_own(work: Workspace) -> None:
    done = work.dev("jupyter")
    assert (done.returncode, "the group 'notebook'" in done.stderr) == (1, True)


# --- uv for real ---


def test_lock_update_and_sync_with_the_real_uv(work: Workspace) -> None:
    work.real("uv")
    work.env["UV_CACHE_DIR"] = str(work.base / "uv")
    wheels = {
        "alpha-1.0-py3-none-any.whl": wheel("alpha", "1.0"),
        "torch-2.0-py3-none-any.whl": wheel("torch", "2.0"),
        "beta-2.0-py3-none-any.whl": wheel("beta", "2.0", "alpha"),
    }
    with package_index(wheels) as address:
        work.write(
            "pyproject.toml",
            '[project]\nname = "torch-starter"\nversion = "0.1.0"\nrequires-python = "==3.12.*"\n'
            'dependencies = ["alpha<2", "torch"]\n[project.optional-dependencies]\ndev = ["beta"]\n'
            f'[tool.uv]\npackage = false\nindex-url = "{address}"\n',
        )
        first = work.dev("lock-update")
        assert first.returncode == 0, first.stderr
        site = work.path / ".venv/lib/python3.12/site-packages"
        assert {path.stem for path in site.glob("*.py")} == {"alpha", "beta", "torch"}
        assert address not in (work.path / "locks/core.txt").read_text()
        assert work.dev("sync", "--check").returncode == 0

        wheels["alpha-1.1-py3-none-any.whl"] = wheel("alpha", "1.1")
        subprocess.run([str(work.bin / "uv"), "cache", "clean", "-q"], env=work.env, check=True)
        torch = (work.path / "locks/torch.txt").read_bytes()
        before = work.files()
        assert "alpha v1.0 -> v1.1" in work.dev("lock-update", "--check").stderr
        assert work.files() == before
        second = work.dev("lock-update")
        assert second.stdout == "1 packages differ from before:\n  alpha 1.0 -> 1.1\n"
        assert (site / "alpha-1.1.dist-info").is_dir()
        # The heavy layer of the image stays.
        assert (work.path / "locks/torch.txt").read_bytes() == torch
        python = str(work.path / ".venv/bin/python")
        uninstall = [str(work.bin / "uv"), "pip", "uninstall", "-q", "--python", python, "alpha"]
        subprocess.run(uninstall, env=work.env, check=True)
        assert work.dev("sync", "--check").returncode == 1
        assert work.dev("sync").returncode == 0
        assert work.dev("sync", "--check").returncode == 0
        assert len(list(work.path.glob("locks/*.new"))) == 0
