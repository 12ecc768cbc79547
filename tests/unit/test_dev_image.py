"""What names a dev container's image, and the Dockerfile that it is built from."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.plugins.filter.core import FilterModule as Core
from ansible_collections.gpufleet.host.plugins.module_utils.dev_image import image_differences, image_hash, torch_lock

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/dev_container"
CHANNELS = ["seed", "cu128", "cu13"]
WHEEL = " \\\n    --hash=sha256:" + "0" * 64 + "\n"


def core(channel: str) -> str:
    return (ROOT / f"files/environments/{channel}/core.txt").read_text()


def names(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))


# --- the lock of the heavy layer ---


@pytest.mark.parametrize(
    ("channel", "pins"),
    [
        ("seed", {"torch==2.6.0", "torchvision==0.21.0", "torchaudio==2.6.0", "triton==3.2.0"}),
        ("cu128", {"torch==2.10.0", "torchvision==0.25.0", "torchaudio==2.10.0", "triton==3.6.0"}),
        ("cu13", {"torch==2.14.1", "torchvision==0.29.2", "torchaudio==2.11.0", "triton==3.8.0"}),
    ],
)
def test_the_heavy_lock_has_what_weighs_and_nothing_else(channel: str, pins: set[str]) -> None:
    lock = torch_lock(core(channel))
    assert pins <= set(re.findall(r"^\S+==\S+", lock, re.MULTILINE))
    assert {name for name in names(core(channel)) if name.startswith(("nvidia-cu", "nvidia-nc", "cuda-"))} <= names(
        lock
    )
    assert not names(lock) & {"numpy", "pyarrow", "transformers", "setuptools", "sympy", "pip", "filelock"}


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_heavy_lock_keeps_hashes_and_markers(channel: str) -> None:
    lock, whole = torch_lock(core(channel)), core(channel)
    blocks = re.split(r"\n(?=[a-z])", lock.rstrip("\n"))
    assert len(blocks) == len(names(lock))
    for block in blocks:
        assert "--hash=sha256:" in block
        assert f"{block}\n" in f"{whole}\n"
        assert not block.endswith("\\")


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_light_bump_leaves_the_heavy_lock_as_it_is(channel: str) -> None:
    bumped = re.sub(r"(?m)^tqdm==\S+", "tqdm==999", core(channel))
    assert bumped != core(channel)
    assert torch_lock(bumped) == torch_lock(core(channel))
    heavier = re.sub(r"(?m)^torch==\S+", "torch==999", core(channel))
    assert torch_lock(heavier) != torch_lock(core(channel))


def test_a_lock_without_torch_has_an_empty_heavy_lock() -> None:
    assert torch_lock("") == ""
    assert torch_lock("# nvidia-cublas==1\npip==26.3" + WHEEL) == ""


# --- the hash ---

INPUTS: dict[str, Any] = {
    "context": {
        "Dockerfile": "FROM a\n",
        "requirements/dev.txt": "mypy==1.20.2" + WHEEL + "ruff==0.17.5" + WHEEL,
        ".devcontainer/image/entrypoint.sh": 'exec "$@"\n',
    },
    "args": {"BASE_IMAGE": "base:1", "USER_UID": "1000"},
    "platform": "x86_64",
}


def test_the_hash_is_the_same_whatever_the_order_and_on_every_controller() -> None:
    turned = {key: INPUTS[key] for key in reversed(INPUTS)}
    turned["context"] = dict(reversed(INPUTS["context"].items()))
    assert image_hash(turned) == image_hash(INPUTS)
    # Written down, so that a new release of Python or of this collection that names every image anew is seen here.
    assert image_hash({"b": "ü", "a": [1, True, None]}) == (
        "cc42bf694d2df1658663999ce8650ec4430e3840ecbf9feb8cdf159836367ca4"
    )


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    after = copy.deepcopy(INPUTS)
    place = after
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return after


RUFF = INPUTS["context"]["requirements/dev.txt"].replace("0.17.5", "0.17.6")
DIFFERENCES = [
    (("context", "requirements/dev.txt"), RUFF, ["requirements/dev.txt: ruff 0.17.5 -> 0.17.6"]),
    (("context", "requirements/dev.txt"), "mypy==1.20.2" + WHEEL, ["requirements/dev.txt: ruff 0.17.5 -> none"]),
    (("context", "requirements/dev.txt"), RUFF.replace("0.17.6", "0.17.5").replace("00", "0a"), None),
    (("context", "Dockerfile"), "FROM b\n", ["Dockerfile changed"]),
    (("context", "Dockerfile"), "FROM a", ["Dockerfile changed"]),
    (("context", ".devcontainer/image/ca.pem"), "x", ["new .devcontainer/image/ca.pem"]),
    (("context", ".devcontainer/image/entrypoint.sh"), None, ["no more .devcontainer/image/entrypoint.sh"]),
    (("args", "BASE_IMAGE"), "base:2", ["BASE_IMAGE base:1 -> base:2"]),
    (("args", "USER_UID"), "1001", ["USER_UID 1000 -> 1001"]),
    (("args", "USER_GID"), "1001", ["USER_GID unset -> 1001"]),
    (("platform",), "aarch64", ["platform x86_64 -> aarch64"]),
]


@pytest.mark.parametrize(("path", "value", "reasons"), DIFFERENCES)
def test_every_difference_has_another_hash_and_a_reason(
    path: tuple[str, ...], value: Any, reasons: list[str] | None
) -> None:
    after = changed(path, value)
    assert image_hash(after) != image_hash(INPUTS)
    assert image_differences(INPUTS, after) == (reasons or ["requirements/dev.txt changed"])


def test_no_difference_has_no_reason() -> None:
    assert image_differences(INPUTS, copy.deepcopy(INPUTS)) == []


def test_many_moved_versions_are_counted() -> None:
    after = re.sub(r"(?m)^([a-z0-9-]+==)", r"\g<1>9", core("cu13"))
    inputs = [{"context": {"requirements/core.txt": text}} for text in (core("cu13"), after)]
    (reason,) = image_differences(*inputs)
    assert reason.endswith(f" and {len(names(core('cu13'))) - 5} more")


# --- the Dockerfile ---


def rendered(**other: Any) -> str:
    image = {
        "base": "base.example/ubuntu:24.04@sha256:1",
        "tools": "gpufleet-tools:uv0.13.0-py3.12.15",
        "python": "3.12.15",
        "python_path": "/opt/uv/python/cpython-3.12.15-linux-x86_64-gnu",
        "uv": "0.13.0",
        "channel": "cu13",
        "groups": ["dev", "notebook"],
        "packages": ["ffmpeg"],
        "user": "vscode",
        "uid": 1007,
        "gid": 1008,
        "slim": False,
        "name": "torch-starter",
        "project": "torch-starter",
        "workspace": "torch_starter",
        "index_url": "",
        "certificates": False,
        **other,
    }
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters.update(Core().filters())
    return environment.from_string((ROLE / "templates/Dockerfile.j2").read_text()).render(__dev_container_image=image)


def stage(text: str, name: str) -> str:
    return re.split(r"(?m)^FROM ", text.split(f" AS {name}\n", 1)[1])[0]


VARIANTS = [{}, {"slim": True}, {"certificates": True}, {"groups": []}, {"index_url": "https://index.example/simple"}]


@pytest.mark.parametrize("other", VARIANTS, ids=str)
def test_it_builds_without_a_registry_on_the_oldest_buildkit(other: dict[str, Any]) -> None:
    text = rendered(**other)
    assert not re.search(r"(?im)^#\s*(syntax|escape|check)\s*=", text)
    assert "<<" not in text
    # Flags that BuildKit 0.8 of Docker 20.10 does not know.
    assert not re.search(r"--(start-interval|link|parents|exclude|checksum|security|network)\b", text)
    # Nothing is fetched from an image by name but the base and the tools.
    sources = set(re.findall(r"(?m)^(?:FROM |COPY --from=)(\S+)", text))
    assert sources <= {
        "${BASE_IMAGE}",
        "${TOOLS_IMAGE}",
        "scratch",
        "tools",
        "locks",
        "base-deps",
        "python-env",
        "deps-install",
    }


def test_the_guides_four_stages_stand_upon_each_other() -> None:
    found = re.findall(r"(?m)^FROM (\S+) AS (base-deps|python-env|deps-install|final)$", rendered())
    assert found == [
        ("${BASE_IMAGE}", "base-deps"),
        ("base-deps", "python-env"),
        ("python-env", "deps-install"),
        ("deps-install", "final"),
    ]


def test_people_with_other_numbers_share_all_but_the_last_stage() -> None:
    text = rendered()
    assert text == rendered(uid=1, gid=2)
    for name in ("base-deps", "python-env", "deps-install"):
        assert not re.search(r"USER_UID|USER_GID|BUILD_HASH|useradd|/home/", stage(text, name)), name


def test_the_heavy_layer_sees_its_own_lock_alone() -> None:
    before, after = stage(rendered(), "deps-install").split("uv pip install", 1)
    assert re.findall(r"(?m)^COPY .*$", before) == ["COPY --from=locks /torch.txt /opt/locks/torch.txt"]
    assert "--no-deps" in after.split("\n", 1)[0]
    assert "uv pip sync" in after


def test_no_package_comes_in_by_its_name_alone() -> None:
    commands = re.findall(r"uv pip (?:install|sync) .*", rendered())
    assert len(commands) == 4  # each once more without an index
    assert all("--require-hashes" in command for command in commands)


def test_caches_are_mounts_and_stay_full() -> None:
    text = rendered()
    assert "docker-clean" in stage(text, "base-deps")
    assert not re.search(r"(?m)^ENV\b.*UV_CACHE_DIR|rm -rf /var/lib/apt|apt-get clean|--no-cache", text)
    for line in re.findall(r"(?m)^RUN .*\\\n(?:.*\\\n)*.*$", text):
        if "apt-get" in line:
            assert line.count("--mount=type=cache") == 2
            assert line.count("sharing=locked") == 2
        if "uv pip" in line:
            assert "--mount=type=cache,id=gpufleet-uv" in line
            assert "UV_LINK_MODE=copy" in line


def test_uv_trusts_in_the_container_what_the_host_trusts() -> None:
    (variables,) = re.findall(r"(?m)^ENV VIRTUAL_ENV=(?:.*\\\n)*.*$", stage(rendered(), "python-env"))
    assert "UV_SYSTEM_CERTS=true" in variables


def test_secrets_are_mounts_and_no_arguments() -> None:
    text = rendered(index_url="https://index.example/simple")
    assert set(re.findall(r"(?m)^ARG (\w+)", text)) == {
        "BASE_IMAGE",
        "TOOLS_IMAGE",
        "LOCKS",
        "USER_UID",
        "USER_GID",
        "BUILD_HASH",
    }
    assert "--mount=type=secret,id=netrc" in text


def test_compilers_are_there_but_in_slim() -> None:
    assert {"gcc", "g++", "libc6-dev"} <= set(stage(rendered(), "base-deps").split())
    assert not {"gcc", "g++"} & set(stage(rendered(slim=True), "base-deps").split())
    assert "ffmpeg" in stage(rendered(slim=True), "base-deps").split()


def test_slim_never_had_pythons_headers() -> None:
    assert "COPY --from=tools / /" in stage(rendered(), "python-env")
    slim = stage(rendered(slim=True), "python-env")
    assert "COPY --from=tools" not in slim
    (step,) = re.findall(r"(?m)^RUN .*from=tools(?:.*\\\n)*.*$", slim)
    assert "rm -r /opt/uv/python/cpython-3.12.15-linux-x86_64-gnu/include" in step


def test_autoreload_is_for_notebooks() -> None:
    assert "autoreload.py" in rendered()
    assert "autoreload.py" not in rendered(groups=["dev"])


@pytest.mark.parametrize("other", VARIANTS, ids=str)
def test_hadolint_has_nothing_to_say(other: dict[str, Any]) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("requirements/dev.txt has no hadolint for this machine")
    # The versions of the distribution's packages are those of its archive (DL3008); the first stages need root and the
    # last has another user (DL3002), called by name as in the guide (DL3066); the tools' image is ours alone (DL3067).
    ignored = [f"--ignore={rule}" for rule in ("DL3002", "DL3008", "DL3066", "DL3067")]
    done = subprocess.run(
        [program, "--no-color", *ignored, "-"], input=rendered(**other), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_end_of_it() -> None:
    last = stage(rendered(), "final").strip().splitlines()
    assert "USER vscode" in last
    assert any(line.startswith("HEALTHCHECK") for line in last)
    text = "\n".join(last)
    assert text.index("ARG BUILD_HASH") > text.index("useradd")
    for label in ("workspace", "torch-channel", "uv-version", "build-hash"):
        assert f"host.gpufleet.{label}=" in text


def test_only_what_the_image_needs_goes_to_the_engine() -> None:
    lines = [
        line
        for line in (ROLE / "templates/dockerignore.j2").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    assert sorted(lines[1:]) == ["!.devcontainer/image", "!locks", "!requirements"]


# --- the program that builds ---


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROLE / f"files/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_texts_are_the_same_context() -> None:
    program = load("build_image")
    files = {"Dockerfile": "FROM a\n", "a/ü.txt": "ü"}
    packed = program.context_of(files)
    assert packed == program.context_of(dict(reversed(files.items())))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert sorted(archive.getnames()) == ["Dockerfile", "a/ü.txt"]
        member = archive.extractfile("a/ü.txt")
        assert member is not None
        assert member.read() == "ü".encode()
        assert {(entry.uid, entry.gid, entry.mtime) for entry in archive} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("base", "remedy"),
    [
        ("base:1", "make the file anew with `docker save base:1`."),
        ("base@sha256:1", "name the image by its tag in dev_container_base_image."),
    ],
)
def test_a_file_without_the_base_is_said(base: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load("build_image")
    monkeypatch.setattr(program, "docker", lambda *words: "" if words[0] == "load" else None)
    with pytest.raises(program.BuildError) as caught:
        program.have_base({"args": {"BASE_IMAGE": base}, "base_archive": "/root/base.tar"})
    assert str(caught.value).startswith(
        f"Found no image {base} in /root/base.tar; wished is dev_container_base_archive"
    )
    assert str(caught.value).endswith(remedy)


def test_the_secret_is_named_and_not_told() -> None:
    order: dict[str, Any] = {
        "args": {"BASE_IMAGE": "b"},
        "hash": "h" * 64,
        "image": "w:cu13-1",
        "moving": "w:cu13",
        "network": "none",
        "netrc": "/root/site.netrc",
    }
    program = load("build_image")
    words = program.build_command(order)
    assert "id=netrc,src=/root/site.netrc" in words
    assert f"BUILD_HASH={'h' * 64}" in words
    assert "--network=none" in words
    assert "--secret" not in program.build_command({**order, "netrc": ""})


def test_the_sites_proxy_is_named_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    order: dict[str, Any] = {"args": {}, "hash": "h", "image": "i", "moving": "m", "network": "default", "netrc": ""}
    program = load("build_image")
    for name in program._PROXIES:
        monkeypatch.delenv(name, raising=False)
    assert "https_proxy" not in program.build_command(order)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    words = program.build_command(order)
    assert words[words.index("https_proxy") - 1] == "--build-arg"
    assert not any("proxy.example" in word for word in words)


def test_tools_are_packed_as_roots_with_the_links_that_lead_to_them(tmp_path: Path) -> None:
    python = tmp_path / "python/cpython-3.12.15"
    (python / "bin").mkdir(parents=True)
    (python / "bin/python3.12").write_text("x")
    (tmp_path / "python/cpython-3.12").symlink_to("cpython-3.12.15")
    (tmp_path / "python/elsewhere").symlink_to("/nowhere")
    stream = io.BytesIO()
    load("build_image").pack([str(python)], stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        members = {Path(entry.name).name: entry for entry in archive}
    assert {"cpython-3.12.15", "python3.12", "cpython-3.12"} <= set(members)
    assert "elsewhere" not in members
    entry = tarfile.TarInfo("somebodys")
    entry.uid, entry.gid, entry.uname = 1000, 1000, "somebody"
    assert (load("build_image")._of_root(entry).uid, entry.gid, entry.uname) == (0, 0, "root")


# --- what runs in the image ---


@pytest.fixture
def noted(tmp_path: Path) -> tuple[Path, Path]:
    site = tmp_path / "site"
    for name in ("torch-2.14.1.dist-info", "numpy-1.26.4.dist-info"):
        (site / name).mkdir(parents=True)
    note = tmp_path / "note.json"
    note.write_text(json.dumps({"site": str(site), "packages": sorted(path.name for path in site.iterdir())}))
    return note, site


def test_an_environment_as_it_was_is_healthy(noted: tuple[Path, Path], tmp_path: Path) -> None:
    note, site = noted
    trouble = load("image/healthcheck").trouble
    assert trouble(note, tmp_path / "no-gpu") is None
    (site / "torch-2.14.1.dist-info").rename(site / "torch-2.15.0.dist-info")
    assert "torch-2.14.1" in trouble(note, tmp_path / "no-gpu")
    note.unlink()
    assert "cannot be read" in trouble(note, tmp_path / "no-gpu")


def test_a_gpu_that_does_not_answer_is_no_health(
    noted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = load("image/healthcheck").trouble
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not answer" in trouble(noted[0], tmp_path / "nvidiactl")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert trouble(noted[0], tmp_path / "nvidiactl") is None


def test_the_bill_of_materials_names_each_package_once() -> None:
    bill = load("image/note").bill([("PyYAML", "6.0.3"), ("torch", "2.14.1"), ("torch", "2.14.1")])
    assert [component["purl"] for component in bill["components"]] == ["pkg:pypi/pyyaml@6.0.3", "pkg:pypi/torch@2.14.1"]
