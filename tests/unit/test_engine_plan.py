"""Engine and toolkit by tables: what a host has and wishes, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import engine_plan
from ansible_collections.gpufleet.host.plugins.module_utils._look_containers import look_at_containers
from ansible_collections.gpufleet.host.plugins.module_utils._look_packages import Package
from ansible_collections.gpufleet.host.plugins.module_utils._root import Root
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from host_facts import RTX_4090, host

RELEASES = {
    "debian 12": {"distribution": "debian", "version_id": "12", "codename": "bookworm"},
    "debian 13": {"distribution": "debian", "version_id": "13", "codename": "trixie"},
    "ubuntu 24.04": {"distribution": "ubuntu", "version_id": "24.04", "codename": "noble"},
    "rocky 9": {"distribution": "rocky", "version_id": "9.6", "codename": None, "os_family": "RedHat"},
}
RUNTIME = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
CDI = {"features": {"cdi": True}}


def box(
    release: str = "debian 13",
    docker: str | None = None,
    packages: dict[str, str] | None = None,
    gpus: int = 1,
    **containers: Any,
) -> dict[str, Any]:
    facts = host(*[RTX_4090] * gpus)
    facts["system"].update(RELEASES[release])
    facts["engines"]["docker"] = docker
    facts["containers"]["packages"] = packages or {}
    for name, value in containers.items():
        place, _separator, field = name.partition("__")
        if field:
            facts["containers"][place][field] = value
        else:
            facts["containers"][place] = value
    return facts


def plan(facts: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    made: dict[str, Any] = make_plan(facts, {"containers": True, **wishes})
    return made


SOURCES = [
    ("debian 12", "auto", "docker", "docker-ce"),
    ("debian 12", "distribution", "distribution", "docker.io"),
    ("debian 13", "auto", "distribution", "docker-cli"),
    ("debian 13", "docker", "docker", "docker-compose-plugin"),
    ("ubuntu 24.04", "auto", "distribution", "docker-compose-v2"),
]


@pytest.mark.parametrize(("release", "wished", "source", "package"), SOURCES)
def test_where_an_engine_comes_from(release: str, wished: str, source: str, package: str) -> None:
    made = plan(box(release), engine_source=wished)
    engine = made["engine"]
    assert (engine["action"], engine["source"]) == ("install", source)
    assert package in engine["packages"]
    assert (engine["repository"] is not None) == (source == "docker")
    assert made["refusals"] == []
    assert any(package in change for change in made["changes"])


def test_what_brings_the_same_files_goes() -> None:
    made = plan(box("debian 12", packages={"podman-docker": "4.3.1", "podman": "4.3.1", "runc": "1.1.5"}))
    assert made["engine"]["conflicts"] == ["podman-docker", "runc"]
    assert made["engine"]["removals"] == ["podman-docker"], "apt knows of the other"
    assert any(
        change.endswith("from Docker's repository in place of podman-docker, runc") for change in made["changes"]
    )


def test_dockers_repository() -> None:
    repository = plan(box("debian 12"))["engine"]["repository"]
    assert repository["url"] == "https://download.docker.com/linux/debian"
    assert (repository["suites"], repository["components"]) == (["bookworm"], ["stable"])
    assert repository["key_url"] == "https://download.docker.com/linux/debian/gpg"
    assert repository["fingerprints"] == ["9DC858229FC7DD38854AE2D88D81803C0EBFCD88"]
    mine = {"engine_repository_url": "https://m.example/docker", "engine_repository_fingerprints": ["A" * 40]}
    repository = plan(box("debian 12"), **mine)["engine"]["repository"]
    assert repository["key_url"] == "https://m.example/docker/gpg"
    assert repository["fingerprints"] == ["A" * 40]


ADOPTED = [
    ({"docker-ce": "5:29.4.3-1~debian.13~trixie"}, "29.4.3", ["docker-buildx-plugin", "docker-compose-plugin"]),
    ({"docker-ce": "5:29.4.3-1", "docker-compose-plugin": "5.6.0-1"}, "29.4.3", ["docker-buildx-plugin"]),
    ({"docker.io": "26.1.5+dfsg1-9", "docker-compose": "2.26.1-4"}, "26.1.5", ["docker-buildx"]),
    ({"moby-engine": "27.0.1"}, "27.0.1", []),
    ({}, "28.0.0", []),
]


@pytest.mark.parametrize(("packages", "version", "missing"), ADOPTED)
@pytest.mark.parametrize("wished", ["auto", "docker", "distribution", "existing"])
def test_an_engine_that_is_there_is_never_replaced(
    packages: dict[str, str], version: str, missing: list[str], wished: str
) -> None:
    made = plan(box(docker=version, packages=packages), engine_source=wished)
    engine = made["engine"]
    assert (engine["action"], engine["source"], engine["packages"]) == ("keep", "existing", missing)
    assert engine["repository"] is None
    assert engine["conflicts"] == []
    assert made["refusals"] == []
    other = {"docker": "docker-ce", "distribution": "docker.io"}.get(wished)
    assert any("replaces no engine" in text for text in made["warnings"]) == (bool(other) and other not in packages)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (box(), {"engine_source": "existing"}, "Found no Docker on this host; wished is docker_engine_source=existing"),
    (box("rocky 9"), {}, "Found rocky 9.6 without Docker"),
    (box(snap=True), {}, "Found Docker as a snap"),
    (
        box(docker="29.1.3", docker__data_used=True),
        {"engine_data_root": "/srv/docker"},
        "Found images or containers in /var/lib/docker, which Docker would no longer see",
    ),
    (
        box(docker="29.1.3", docker__flags=["hosts", "log-driver"]),
        {"engine_settings": {"log-driver": "local"}},
        "Found --log-driver among the flags that dockerd is started with",
    ),
    (box(docker="29.1.3", docker__swarm=True), {"engine_settings": {"live-restore": True}}, "Found a swarm"),
    (box(), {"engine_settings": ["no"]}, "no mapping"),
    (
        box(),
        {"engine_registry_mirrors": ["https://anna:hush@m.example"]},
        "engine_registry_mirrors=['https://***@m.example']",
    ),
]


@pytest.mark.parametrize(("facts", "wishes", "said"), REFUSED, ids=[said for _, _, said in REFUSED])
def test_engine_that_cannot_be_is_refused(facts: dict[str, Any], wishes: dict[str, Any], said: str) -> None:
    made = plan(facts, **wishes)
    assert any(said in text for text in made["refusals_of"]["docker_engine"])
    assert any(said in text for text in made["refusals"])
    unwished = make_plan(facts, wishes)
    assert not any(said in text for text in unwished["refusals"]), "nobody asked for containers"
    assert unwished["unwished_roles"] == ["docker_engine", "container_toolkit", "dev_container"]
    assert plan(facts, docker_engine_state="absent", **wishes)["refusals_of"]["docker_engine"] == []


ROOTLESS = [
    ("debian 12", None, {}, "docker-ce-rootless-extras", "/usr/bin/dockerd-rootless-setuptool.sh"),
    ("debian 12", "29.4.3", {"docker-ce": "5:29.4.3-1"}, "docker-ce-rootless-extras", "/usr/bin/"),
    ("ubuntu 24.04", "29.1.3", {"docker.io": "29.1.3-1"}, "rootlesskit", "/usr/share/docker.io/contrib/"),
]


@pytest.mark.parametrize(("release", "docker", "packages", "package", "script"), ROOTLESS)
def test_rootless_engines(
    release: str, docker: str | None, packages: dict[str, str], package: str, script: str
) -> None:
    facts = box(release, docker, packages=packages)
    facts["users"]["alice"]["rootless_docker"] = True
    made = plan(facts, engine_rootless_users=["alice", "bob"])
    rootless = made["engine"]["rootless"]
    assert package in made["engine"]["packages"]
    assert package in rootless["packages"]
    assert rootless["script"].startswith(script)
    assert rootless["users"] == [{"name": "bob", "uid": 1001}], "alice has hers"
    assert made["refusals"] == []
    assert any("rootless engine for bob" in change for change in made["changes"])
    assert not any("no-cgroups" in str(value) for value in (made["engine"], made["toolkit"]))
    assert plan(facts)["engine"]["rootless"] == {"users": [], "packages": [], "script": None}


def test_rootless_engine_that_would_see_no_gpu_or_has_no_user_is_refused() -> None:
    (said,) = plan(box("debian 13"), engine_rootless_users=["alice"])["refusals_of"]["docker_engine"]
    assert "Docker 26.1.5 has no GPUs for rootless engines" in said
    assert "docker_engine_rootless_users=" in said
    without = plan(box("debian 13", gpus=0), engine_rootless_users=["alice"])
    assert without["refusals"] == []
    assert not any("preview" in warning for warning in without["warnings"])
    (said,) = plan(box("debian 12"), engine_rootless_users=["carol"])["refusals_of"]["docker_engine"]
    assert "Found no user 'carol'" in said


def test_data_root_with_force_and_unchanged() -> None:
    used = box(docker="29.1.3", docker__data_used=True)
    assert plan(used, engine_data_root="/srv/docker", engine_force=True)["refusals"] == []
    assert plan(used, engine_data_root="/var/lib/docker")["refusals"] == []


DEFAULTS = [
    (box(), {}, ["log-driver", "live-restore", "default-ulimits"]),
    (box(docker__swarm=True), {}, ["log-driver", "default-ulimits"]),
    (box(docker__flags=["log-opts"]), {}, ["live-restore", "default-ulimits"]),
    (box(), {"engine_settings": {"log-driver": "journald"}}, ["live-restore", "default-ulimits"]),
    (box(), {"engine_defaults": False}, []),
]


@pytest.mark.parametrize(("facts", "wishes", "first"), DEFAULTS)
def test_defaults_go_where_nobody_said_anything(facts: Any, wishes: Any, first: list[str]) -> None:
    assert [next(iter(group)) for group in plan(facts, **wishes)["engine"]["defaults"]] == first


def test_nobody_in_a_container_raises_a_limit() -> None:
    facts = box()
    facts["system"]["container"] = True
    assert [next(iter(group)) for group in plan(facts)["engine"]["defaults"]] == ["log-driver", "live-restore"]


def test_settings_and_what_can_be_asked() -> None:
    wishes = {"engine_registry_mirrors": ["https://m"], "engine_data_root": "/d", "engine_settings": {"debug": True}}
    engine = plan(box(), **wishes)["engine"]
    assert engine["settings"] == {"debug": True, "registry-mirrors": ["https://m"], "data-root": "/d"}
    assert engine["validate"]
    assert not plan(box("debian 12", docker="20.10.24"))["engine"]["validate"]
    assert "features" not in engine["reloaded"]


def test_compose_that_is_old_or_missing_is_told() -> None:
    old = box("debian 12", docker="20.10.24", packages={"docker.io": "20.10.24", "docker-compose": "1.29.2-3"})
    assert any("Docker Compose 1.29.2" in text for text in plan(old)["warnings"])
    assert plan(old)["engine"]["compose"] == "1.29.2"
    assert any(
        "No Docker Compose 2" in text for text in plan(box("debian 12"), engine_source="distribution")["warnings"]
    )
    new = box(
        docker="26.1.5", packages={"docker.io": "26.1.5", "docker-compose": "2.26.1-4", "docker-buildx": "0.13.1"}
    )
    assert not any("Compose" in text for text in plan(new)["warnings"])
    assert (plan(new)["engine"]["compose"], plan(new)["engine"]["buildx"]) == ("2.26.1", "0.13.1")


def test_gpu_jobs_in_containers_are_named() -> None:
    facts = box(docker="29.1.3")
    job = {"name": "python", "uid": 1000, "user": "alice"}
    facts["gpu_processes"] = [{**job, "pid": 7, "container": "a" * 64}, {**job, "pid": 8, "container": None}]
    assert plan(facts)["engine"]["busy"] == ["python (pid 7, container aaaaaaaaaaaa)"]


# --- toolkit

WAYS = [
    ("20.10.24", "auto", "runtime", RUNTIME, "cdi"),
    ("24.0.9", "auto", "runtime", RUNTIME, "cdi"),
    ("25.0.0", "auto", "cdi", CDI, None),
    ("26.1.5", "auto", "cdi", CDI, None),
    ("28.1.9", "auto", "cdi", CDI, None),
    ("28.2.0", "auto", "cdi", {}, None),
    ("29.4.3", "auto", "cdi", {}, None),
    ("29.4.3", "legacy", "legacy", RUNTIME, None),
]


@pytest.mark.parametrize(("docker", "mode", "way", "settings", "config"), WAYS)
def test_way_by_engine(docker: str, mode: str, way: str, settings: dict[str, Any], config: str | None) -> None:
    toolkit = plan(box(docker=docker), toolkit_mode=mode)["toolkit"]
    assert (toolkit["way"], toolkit["settings"], toolkit["config_mode"]) == (way, settings, config)


def test_new_engine_whose_owner_forbade_it_is_told_again() -> None:
    assert plan(box(docker="29.4.3", docker__cdi=False))["toolkit"]["settings"] == CDI


def test_way_of_the_engine_that_will_come() -> None:
    assert plan(box("debian 12"), engine_source="distribution")["toolkit"]["way"] == "runtime"
    assert plan(box("debian 13"))["toolkit"]["settings"] == CDI
    assert plan(box("debian 12"))["toolkit"]["settings"] == {}  # Docker's own
    assert make_plan(box("debian 12"), {})["toolkit"]["docker"] is None


VERSIONS = [
    ("1.20.1-1", None),
    ("1.20.1", None),
    ("1.19.1-1", None),
    ("1.19.0-1", "older than 1.19.1"),
    ("1.9.9-1", "older than 1.19.1"),
    ("latest", "Found no version"),
    ("", "Found no version"),
]


@pytest.mark.parametrize(("version", "said"), VERSIONS)
def test_versions(version: str, said: str | None) -> None:
    made = plan(box(docker="29.4.3"), toolkit_version=version)
    refusals = made["refusals_of"]["container_toolkit"]
    assert len(refusals) == (said is not None)
    assert said is None or (said in refusals[0] and "container_toolkit_version" in refusals[0])


def test_known_bad_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine_plan.KNOWN_BAD, "1.20.1", "breaks everything")
    assert "breaks everything" in plan(box(docker="29.4.3"))["refusals_of"]["container_toolkit"][0]


def test_packages_pins_and_repository() -> None:
    toolkit = plan(box(docker="29.4.3"), toolkit_version="1.20.1")["toolkit"]
    assert toolkit["packages"] == [f"{name}=1.20.1-1" for name in engine_plan.TOOLKIT_PACKAGES]
    assert toolkit["pins"] == [
        {"packages": list(engine_plan.TOOLKIT_PACKAGES), "pin": "version 1.20.1-1", "priority": 1001}
    ]
    assert toolkit["repository"]["url"] == "https://nvidia.github.io/libnvidia-container/stable/deb/amd64/"
    assert toolkit["repository"]["fingerprints"] == ["C95B321B61E88C1809C4F759DDCAE044F796ECB0"]
    there = dict.fromkeys(engine_plan.TOOLKIT_PACKAGES, "1.20.1-1")
    assert plan(box(docker="29.4.3", packages=there))["toolkit"]["packages"] == []
    older = {**there, "libnvidia-container1": "1.20.0-1"}
    assert len(plan(box(docker="29.4.3", packages=older))["toolkit"]["packages"]) == 4


def test_without_a_gpu_there_is_nothing_to_do() -> None:
    made = plan(box(docker="29.4.3", gpus=0), toolkit_version="0.0.1-1")
    assert made["toolkit"]["action"] == "none"
    assert made["refusals_of"]["container_toolkit"] == []
    assert plan(box(gpus=0), toolkit_without_gpu=True)["toolkit"]["action"] == "install"


SPECS = [
    ("26.1.0", None, []),
    ("26.0.2", None, ["no-additional-gids-for-device-nodes"]),
    ("20.10.24", None, []),
    ("29.4.3", "4.9.3", ["no-additional-gids-for-device-nodes"]),
    ("29.4.3", "5.1.0", []),
]


@pytest.mark.parametrize(("docker", "podman", "flags"), SPECS)
def test_specification_for_older_readers(docker: str, podman: str | None, flags: list[str]) -> None:
    facts = box(docker=docker)
    facts["engines"].update(podman=podman, containerd="1.6.20")  # Docker's own
    assert plan(facts)["toolkit"]["feature_flags"] == flags


def others(facts: dict[str, Any], wished: list[str] | None = None, **engines: str | None) -> dict[str, Any]:
    facts["engines"].update(engines)
    return plan(facts, toolkit_engines=wished or [], docker_engine_state="absent")


ENGINES = [
    ({}, [], [], []),
    ({"containerd": "1.7.24"}, [], ["containerd"], ["/etc/containerd/conf.d/99-gpufleet-nvidia.toml"]),
    ({"containerd": "1.6.20"}, [], [], []),
    ({"docker": "26.1.5", "containerd": "1.7.24"}, [], ["docker"], []),
    ({"docker": "26.1.5", "podman": "5.4.2"}, [], ["docker", "podman"], []),
    ({"podman": "4.0.9"}, [], [], []),
    ({"docker": "26.1.5", "podman": "5.4.2"}, ["podman"], ["podman"], []),
    (
        {"docker": "26.1.5", "containerd": "1.7.24"},
        ["docker", "containerd", "crio"],
        ["docker", "containerd", "crio"],
        ["/etc/containerd/conf.d/99-gpufleet-nvidia.toml", "/etc/crio/crio.conf.d/99-gpufleet-nvidia.toml"],
    ),
]


@pytest.mark.parametrize(("found", "wished", "served", "files"), ENGINES)
def test_engines_that_are_served(found: dict[str, str], wished: list[str], served: list[str], files: list[str]) -> None:
    made = others(box(), wished, **found)
    toolkit = made["toolkit"]
    assert (toolkit["engines"], [drop_in["path"] for drop_in in toolkit["drop_ins"]]) == (served, files)
    assert toolkit["proofs"] == [
        {"docker": "cdi", "podman": "podman"}[name] for name in served if name in "docker podman"
    ]
    assert (toolkit["settings"] == CDI) == ("docker" in served)
    too_old = [name for name in ("podman", "containerd") if name in found and not toolkit["drop_ins"] + served]
    assert all(any(text.startswith(name) and "left out" in text for text in made["warnings"]) for name in too_old)


def test_an_engine_that_nobody_knows_is_refused() -> None:
    assert "container_toolkit_engines=['lxc']" in others(box(), ["lxc"])["refusals_of"]["container_toolkit"][0]


CONTAINERD = [
    ("1.7.24", {}, 'plugins."io.containerd.grpc.v1.cri"', "version = 2", "file"),
    ("2.1.4", {}, "plugins.'io.containerd.cri.v1.runtime'", "version = 3", "file"),
    ("2.1.4", {"configured": True, "version": 2}, 'plugins."io.containerd.grpc.v1.cri"', "version = 2", "line"),
    ("1.7.24", {"imports": ["/etc/containerd/conf.d/*.toml"]}, "grpc", "version = 2", "none"),
    ("1.7.24", {"imports": ["/elsewhere/*.toml"], "systemd_cgroup": True}, "grpc", "version = 2", "none"),
]


@pytest.mark.parametrize(("version", "configured", "plugin", "form", "action"), CONTAINERD)
def test_containerd_reads_a_drop_in(
    version: str, configured: dict[str, Any], plugin: str, form: str, action: str
) -> None:
    facts = box()
    facts["containers"]["containerd"].update(configured)
    made = others(facts, containerd=version)
    (drop_in,) = made["toolkit"]["drop_ins"]
    assert drop_in["unit"] == "containerd.service"
    assert drop_in["lines"][0] == form
    assert plugin in "\n".join(drop_in["lines"])
    assert ("SystemdCgroup = true" in drop_in["lines"]) == bool(configured.get("systemd_cgroup"))
    assert made["toolkit"]["imports"]["action"] == action
    assert any("/elsewhere/*.toml" in text for text in made["warnings"]) == ("elsewhere" in str(configured))


def test_links_for_the_legacy_way_alone() -> None:
    assert plan(box(docker="29.4.3"), toolkit_mode="legacy")["toolkit"]["dev_char"]
    assert not plan(box(docker="29.4.3"))["toolkit"]["dev_char"]


FLAWS = [("20.10.24", "1.19.1-1", True), ("20.10.24", "1.20.0-1", False), ("29.4.3", "1.19.1-1", False)]


@pytest.mark.parametrize(("docker", "version", "told"), FLAWS)
def test_flaws_of_a_version_are_told_where_they_matter(docker: str, version: str, told: bool) -> None:
    warnings = plan(box(docker=docker), toolkit_version=version)["warnings"]
    assert any("has a flaw" in text for text in warnings) == told


def test_what_others_left() -> None:
    made = plan(
        box(docker="29.4.3", cdi_specs=["/etc/cdi/nvidia.yaml", "/run/cdi/nvidia.yaml"], toolkit__no_cgroups=True)
    )
    assert made["toolkit"]["stale"] == ["/etc/cdi/nvidia.yaml"]
    assert any("no-cgroups = true" in text for text in made["warnings"])


# --- facts


def write(folder: Path, files: dict[str, str]) -> Root:
    for name, text in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Root(str(folder))


def test_facts_of_a_bare_host(tmp_path: Path) -> None:
    facts = host()["containers"]
    assert look_at_containers(Root(str(tmp_path)), []) == facts


def test_facts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "/etc/docker/daemon.json": '\ufeff{"data-root": "/srv/d", "features": {"cdi": false}}',
            "/srv/d/image/x": "",
            "/srv/d/swarm/docker-state.json": "{}",
            "/lib/systemd/system/docker.service": "ExecStart=/usr/sbin/dockerd -H fd:// --log-driver= \\\n --label a\n",
            "/etc/default/docker": '# DOCKER_OPTS="--debug"\nDOCKER_OPTS="--registry-mirror https://m --dns 8.8.8.8"\n',
            "/etc/cdi/nvidia.yaml": "kind: nvidia.com/gpu\n",
            "/etc/cdi/other.yaml": "kind: vendor.com/nic\n",
            "/run/cdi/nvidia.yaml": '{"kind": "nvidia.com/gpu"}',
            "/etc/nvidia-container-runtime/config.toml": (
                'mode = "wrong"\n[nvidia-container-cli]\n#no-cgroups = false\nno-cgroups = true\n'
                '[nvidia-container-runtime]\n# mode = "x"\nmode = "cdi"\n'
                '[nvidia-container-runtime.modes.cdi]\nmode = "no"\n'
            ),
            "/etc/containerd/config.toml": (
                '# imports = ["/no/*.toml"]\nversion = 2\nimports = [\n  "/a/*.toml",\n  \'/b.toml\',\n]\n[plugins]\n'
                "  [plugins.x.options]\n    SystemdCgroup = true\nversion = 9\n"
            ),
            "/snap/bin/docker": "",
        },
    )
    packages = [
        Package("docker.io", "installed", "26.1.5-1"),
        Package("docker-ce", "config-files", "5:29-1"),
        Package("vim", "installed", "9"),
    ]
    assert look_at_containers(root, packages) == {
        "packages": {"docker.io": "26.1.5-1"},
        "snap": True,
        "docker": {
            "data_root": "/srv/d",
            "data_used": True,
            "swarm": True,
            "cdi": False,
            "flags": ["dns", "hosts", "labels", "log-driver", "registry-mirrors"],
        },
        "containerd": {
            "configured": True,
            "version": 2,
            "imports": ["/a/*.toml", "/b.toml"],
            "systemd_cgroup": True,
        },
        "toolkit": {"mode": "cdi", "no_cgroups": True},
        "cdi_specs": ["/etc/cdi/nvidia.yaml", "/run/cdi/nvidia.yaml"],
        "images": None,
        "built": {},
    }


def test_what_is_no_key_of_containerds_file_itself(tmp_path: Path) -> None:
    text = 'imports = [\n  # "/old/*.toml"\n]\n[plugins.x]\nversion = 9\n[plugins.y]\nimports = ["/no/*.toml"]\n'
    root = write(tmp_path, {"/etc/containerd/config.toml": text})
    assert look_at_containers(root, [])["containerd"] == {
        "configured": True,
        "version": None,
        "imports": [],
        "systemd_cgroup": False,
    }


def test_flags_that_a_drop_in_replaces(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "/lib/systemd/system/docker.service": "ExecStart=/usr/bin/dockerd -H fd:// --debug\n",
            "/etc/systemd/system/docker.service.d/own.conf": "ExecStart=\nExecStart=dockerd --storage-driver=zfs\n",
        },
    )
    assert look_at_containers(root, [])["docker"]["flags"] == ["storage-driver"]


@pytest.mark.parametrize("text", ["{", "[]", '{"features": "x"}'])
def test_broken_settings_are_no_error_of_the_look(tmp_path: Path, text: str) -> None:
    root = write(tmp_path, {"/etc/docker/daemon.json": text})
    assert look_at_containers(root, [])["docker"]["cdi"] is None


LINES = [
    (box(), {}, []),
    (box(), {"containers": True}, ["Docker from distribution, GPUs by CDI"]),
    (box("debian 12"), {"containers": True, "engine_source": "distribution"}, ["through the runtime nvidia"]),
    (
        box(docker="26.1.5", packages={"docker-compose": "2.26.1-4"}),
        {},
        ["Docker 26.1.5 (compose 2.26.1, buildx none)"],
    ),
    (box(gpus=0), {"containers": True}, ["Docker from distribution"]),
]


@pytest.mark.parametrize(("facts", "wishes", "lines"), LINES)
def test_summary_tells_the_engine(facts: Any, wishes: dict[str, Any], lines: list[str]) -> None:
    told = [line for line in make_plan(facts, wishes)["summary"] if line.startswith("containers")]
    assert len(told) == len(lines)
    assert all(line in text for line, text in zip(lines, told))
