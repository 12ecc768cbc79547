"""Each rendered file, read back by the program that will read it."""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomllib
from ansible_collections.gpufleet.host.plugins.module_utils import env_render, env_resolve

PLAN: dict[str, Any] = {"resources": {"threads": 6, "cores": 12, "vcpus": 24, "gpus": 2, "dataloader_workers": 11}}
# Values that a quoting mistake would change.
AWKWARD = {
    "X_SPACES": "two  words",
    "X_BRACES": "a}b{c}",
    "X_GLOB": "* ? [a-z] ~ !x",
    "X_MARKS": "a#b;c&d|e<f>g(h)%i",
    "X_EQUALS": "a=b:c",
    "X_HOME": "$HOME/x y",
    "X_UNICODE": "größe",
    "X_EMPTY": "",
}
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="starts processes as other users")
SHELLS = [shell for shell in ("dash", "bash", "zsh", "busybox") if shutil.which(shell)]
# A user in no account database: root's tests must not need an account to exist.
UID, GROUP = 54321, "users"


def resolved(**overrides: Any) -> dict[str, Any]:
    values: dict[str, Any] = env_resolve.resolve(PLAN, None, {**AWKWARD, **overrides})
    return values


def expanded(values: dict[str, str], home: str) -> dict[str, str]:
    return {name: re.sub(r"^\$HOME", home, value) for name, value in values.items()}


def as_user(argv: list[str], uid: int, groups: list[int], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env={"HOME": "/home/ann", "PATH": "/usr/bin:/bin", **env},
        user=uid,
        group=groups[0] if groups else 65534,
        extra_groups=groups[1:],
        text=True,
        capture_output=True,
        cwd="/",
        check=False,
    )


def source(
    shell: str,
    text: str,
    tmp: Path,
    uid: int = UID,
    groups: list[int] | None = None,
    env: dict[str, str] | None = None,
) -> dict[str, str]:
    """Run a shell that reads the file with set -eu, and give the environment of its child."""
    path = tmp / "profile.sh"
    path.write_text(text, encoding="utf-8")
    for folder in (tmp, *tmp.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    words = [shell, "sh"] if shell == "busybox" else [shell]
    groups = [65534, grp.getgrnam(GROUP).gr_gid] if groups is None else groups
    done = as_user([*words, "-c", f"set -eu; . {path}; env -0"], uid, groups, **(env or {}))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)


@ROOT
@pytest.mark.parametrize("shell", SHELLS)
class TestProfile:
    def test_a_member_gets_every_variable(self, shell: str, tmp_path: Path) -> None:
        values = resolved()
        env = source(shell, env_render.profile_sh(values, GROUP), tmp_path)
        wanted = expanded(values["login"], "/home/ann")
        assert {name: env.get(name) for name in wanted} == wanted
        assert not [name for name in env if "gpufleet" in name]

    def test_a_member_by_primary_group(self, shell: str, tmp_path: Path) -> None:
        text = env_render.profile_sh(resolved(), GROUP)
        assert "HF_HOME" in source(shell, text, tmp_path, groups=[grp.getgrnam(GROUP).gr_gid])

    def test_a_stranger_gets_nothing(self, shell: str, tmp_path: Path) -> None:
        gid = grp.getgrnam(GROUP).gr_gid
        # Groups whose number begins or ends with the number of the right one.
        near = [65534, int(f"{gid}1"), int(f"1{gid}")]
        text = env_render.profile_sh(resolved(), GROUP, "/opt/uv/venv/bin")
        env = source(shell, text, tmp_path, groups=near)
        assert set(env) <= {"HOME", "PATH", "PWD", "SHLVL", "_", "OLDPWD", "LOGNAME"}
        assert env["PATH"] == "/usr/bin:/bin"

    def test_root_gets_nothing_even_as_a_member(self, shell: str, tmp_path: Path) -> None:
        env = source(shell, env_render.profile_sh(resolved(), GROUP), tmp_path, uid=0)
        assert "OMP_NUM_THREADS" not in env

    def test_an_unknown_group_has_no_members(self, shell: str, tmp_path: Path) -> None:
        assert "HF_HOME" not in source(shell, env_render.profile_sh(resolved(), "nosuch"), tmp_path)

    def test_the_users_own_value_wins_even_when_empty(self, shell: str, tmp_path: Path) -> None:
        own = {"HF_HOME": "/mine", "OMP_NUM_THREADS": ""}
        env = source(shell, env_render.profile_sh(resolved(), GROUP), tmp_path, env=own)
        assert {name: env[name] for name in own} == own

    def test_the_venv_comes_first_in_the_path_once(self, shell: str, tmp_path: Path) -> None:
        text = env_render.profile_sh(resolved(), GROUP, "/opt/uv/venv/bin")
        once = source(shell, text, tmp_path)["PATH"]
        assert once == "/opt/uv/venv/bin:/usr/bin:/bin"
        assert source(shell, text, tmp_path, env={"PATH": once})["PATH"] == once

    def test_it_starts_no_process_at_login(self, shell: str, tmp_path: Path) -> None:
        """With nothing in PATH a started program would fail, and say so."""
        path = tmp_path / "profile.sh"
        tmp_path.chmod(0o755)
        path.write_text(env_render.profile_sh(resolved(), GROUP), encoding="utf-8")
        text = f'set -eu; . {path}; echo "$OMP_NUM_THREADS"'
        groups = [65534, grp.getgrnam(GROUP).gr_gid]
        words = [shutil.which(shell) or shell, *(["sh"] if shell == "busybox" else [])]
        for folder in tmp_path.parents:
            if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
                folder.chmod(0o755)
        done = as_user([*words, "-c", text], UID, groups, PATH="/nowhere")
        assert (done.stdout, done.stderr) == ("6\n", "")


@ROOT
@pytest.mark.parametrize(("groups", "gets"), [([65534, grp.getgrnam(GROUP).gr_gid], True), ([65534], False)])
def test_user_generator(groups: list[int], gets: bool) -> None:
    values = resolved()
    done = as_user(["dash", "-euc", env_render.user_generator(values, GROUP)], UID, groups, TORCH_HOME="/mine")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = expanded({k: v for k, v in values["user_systemd"].items() if k != "TORCH_HOME"}, "/home/ann")
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == (wanted if gets else {})


@ROOT
def test_user_generator_gives_root_nothing() -> None:
    done = as_user(["dash", "-c", env_render.user_generator(resolved(), "root")], 0, [0])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck")
@pytest.mark.parametrize("render", [env_render.profile_sh, env_render.user_generator])
def test_shellcheck_finds_nothing(render: Callable[[dict[str, Any], str], str]) -> None:
    text = render(resolved(), GROUP)
    done = subprocess.run(["shellcheck", "-s", "sh", "-"], input=text, text=True, capture_output=True, check=False)
    assert done.stdout == ""


def docker_env_file(text: str) -> dict[str, str]:
    """Read as docker does: comments at the start of a line, leading blanks dropped, the value as it stands."""
    lines = [line.lstrip() for line in text.split("\n")]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def systemd_env_file(text: str) -> dict[str, str]:
    """Read as systemd does: comments begin with # or ;, blanks around an unquoted value are dropped."""
    assert not re.search(r"[\"'\\]", text.split("\n", 2)[2])
    lines = [line.strip() for line in text.split("\n")]
    pairs = [line.split("=", 1) for line in lines if line and line[0] not in "#;"]
    return {name.strip(): value.strip() for name, value in pairs}


def test_docker_file() -> None:
    values = resolved()
    assert docker_env_file(env_render.docker_file(values)) == values["container"]
    assert values["container"]["X_HOME"] == "/home/vscode/x y"


def test_unit_file() -> None:
    values = resolved()
    assert systemd_env_file(env_render.unit_file(values)) == values["unit"]
    assert "X_HOME" not in values["unit"]


@pytest.mark.parametrize("bad", ["a\nb", 'a"b', "a'b", "a$b", "a\\b", "a`b"])
def test_no_file_takes_a_value_that_would_be_read_differently(bad: str) -> None:
    values = {scope: {"X": bad} for scope in ("login", "user_systemd", "unit", "container")}
    renderers = [(env_render.docker_file, ()), (env_render.unit_file, ())]
    for render, group in [*renderers, (env_render.profile_sh, ("ml",)), (env_render.user_generator, ("ml",))]:
        with pytest.raises(env_resolve.WishError):
            render(values, *group)


def test_a_group_that_would_be_code_is_refused() -> None:
    with pytest.raises(env_resolve.WishError, match="env_profile_group"):
        env_render.profile_sh(resolved(), "ml'; rm -rf /; '")


def test_env_json() -> None:
    values = resolved()
    document = json.loads(env_render.env_json(values, "ml"))
    assert document["schema"] == 1
    assert document["group"] == "ml"
    assert document["scopes"]["login"] == values["login"]
    assert document["variables"]["CUDA_VISIBLE_DEVICES"]["deviation"] == "D-1"
    assert all(entry["why"] for entry in document["variables"].values())


UV_SETTINGS: dict[str, Any] = {
    "system_certs": True,
    "python_install_mirror": "file:///srv/mirror/python",
    "python-downloads-json-url": "",
    "exclude_newer": None,
    "index": [
        {"name": "site", "url": "https://pypi.example/simple", "default": True},
        {"name": "torch", "url": "https://torch.example/whl", "explicit": True},
    ],
}


def test_uv_toml() -> None:
    assert tomllib.loads(env_render.uv_toml(resolved(), UV_SETTINGS)) == {
        "link-mode": "copy",
        "compile-bytecode": True,
        "concurrent-downloads": 10,
        "system-certs": True,
        "python-install-mirror": "file:///srv/mirror/python",
        "index": UV_SETTINGS["index"],
    }


def test_uv_toml_with_one_index() -> None:
    text = env_render.uv_toml(resolved(), {"index": "https://pypi.example/simple"})
    assert tomllib.loads(text)["index"] == [{"url": "https://pypi.example/simple", "default": True}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"http-timeout": 300}, "UV_HTTP_TIMEOUT"),
        ({"python_install_dir": "/opt/uv/python"}, "UV_PYTHON_INSTALL_DIR"),
        ({"index": "http://pypi.example/simple"}, "https://"),
        ({"index": [{"name": "x"}]}, "url"),
        ({"index": [{"url": "https://x", "priority": 1}]}, "priority"),
        ({"python_install_mirror": "http://mirror"}, "python-install-mirror"),
    ],
)
def test_uv_toml_refuses(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(env_resolve.WishError, match=re.escape(words)):
        env_render.uv_toml(resolved(), settings)


def test_uv_toml_takes_an_open_address_when_allowed() -> None:
    assert "http://pypi.example" in env_render.uv_toml(resolved(), {"index": "http://pypi.example"}, True)


UV = next(
    (path for path in (Path(sys.executable).with_name("uv"), shutil.which("uv")) if path and Path(path).exists()), None
)
EVERY_KEY: dict[str, Any] = {
    "cache-dir": "/tmp/c",
    "concurrent-builds": 2,
    "concurrent-installs": 2,
    "exclude-newer": "2026-01-01T00:00:00Z",
    "http-proxy": "http://proxy:3128",
    "https-proxy": "http://proxy:3128",
    "no-proxy": ["localhost"],
    "offline": False,
    "python-downloads": "manual",
    "python-downloads-json-url": "https://mirror.example/python.json",
    "python-preference": "only-managed",
    "torch-backend": "cpu",
    **UV_SETTINGS,
}


@pytest.mark.skipif(UV is None, reason="no uv beside this Python")
def test_uv_itself_accepts_the_file(tmp_path: Path) -> None:
    """The real uv, with the file as its system file and every key that we let through."""
    wanted = {
        "python-downloads-json-url": "https://mirror.example/python.json",
        "exclude-newer": "2026-01-01T00:00:00Z",
    }
    settings = {**{key.replace("_", "-"): value for key, value in EVERY_KEY.items()}, **wanted}
    assert set(settings) | {"link-mode", "compile-bytecode", "concurrent-downloads"} == env_render.UV_KEYS
    (tmp_path / "uv").mkdir()
    text = env_render.uv_toml(resolved(), settings)
    for content, accepted in ((text, True), (text.replace("link-mode", "http-timeout", 1), False)):
        (tmp_path / "uv" / "uv.toml").write_text(content, encoding="utf-8")
        done = subprocess.run(
            [str(UV), "python", "find"],
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)},
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
        )
        assert ("Failed to parse" not in done.stderr) is accepted, done.stderr
        assert (done.returncode != 2 or "uv.toml" not in done.stderr) is accepted
