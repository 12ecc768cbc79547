"""A container gets the stand-in of a GPU, by what the toolkit and the engine do with a hand-made specification."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from damage import Damage, found_and_mended, path

# Every test asks for `host`: pytest would run the others after those that do, and so after test_absent.
Again = Callable[..., Any]
PACKAGES = [
    "libnvidia-container1",
    "libnvidia-container-tools",
    "nvidia-container-toolkit-base",
    "nvidia-container-toolkit",
]
INSTALLS = "container_toolkit: Say in check mode what would be installed"
CONFIG = "/etc/nvidia-container-runtime/config.toml"
THEIRS = {"features": {"buildkit": True}, "labels": ["rack=7"]}
CONTAINERD = "/etc/containerd/config.toml"
DROP_INS = ["/etc/containerd/conf.d/99-gpufleet-nvidia.toml", "/etc/crio/crio.conf.d/99-gpufleet-nvidia.toml"]


def old_engine(host: Any) -> bool:
    """Debian 12's engine reads no specifications."""
    return bool(host.system_info.release.startswith("12"))


def settings(host: Any) -> dict[str, Any]:
    now: dict[str, Any] = json.loads(host.file("/etc/docker/daemon.json").content_string)
    return now


def mode(host: Any) -> list[str]:
    return str(host.run(f"grep -E '^ *#? *mode *=' {CONFIG}").stdout).split("\n")[:-1]


def test_a_container_gets_its_gpu_and_keeps_it(host: Any, again: Again) -> None:
    """The role's own proof, by Docker and by podman; it goes red when the specification is taken away."""
    proof = again(playbook="proof.yml")
    assert proof.ok, proof.sentence
    way = "--runtime nvidia --env NVIDIA_VISIBLE_DEVICES=all" if old_engine(host) else "--device nvidia.com/gpu=all"
    said = json.dumps(proof.result)
    assert f"(docker run {way}) has /dev/nvidia0" in said
    assert "(podman run --device nvidia.com/gpu=all) has /dev/nvidia0" in said
    assert host.run("mv /run/cdi/nvidia.yaml /run/cdi/away").rc == 0
    assert "without its GPUs (/dev/nvidia0)" in again(playbook="proof.yml").sentence
    assert host.run("mv /run/cdi/away /run/cdi/nvidia.yaml").rc == 0
    assert host.run("for each in docker podman; do $each ps --all --quiet; $each images --quiet; done").stdout == ""


def test_podmans_container_is_asked_too(host: Any, again: Again) -> None:
    """It goes red for podman alone, while Docker's container has all."""
    podman = "/usr/local/bin/podman"
    assert host.run(f"printf '#!/bin/sh\necho no such device >&2; exit 125\n' > {podman}; chmod 755 {podman}").rc == 0
    try:
        sentence = again(playbook="proof.yml").sentence
    finally:
        host.run(f"rm {podman}")
    assert "(podman run --device nvidia.com/gpu=all) without its GPUs" in sentence
    assert "no such device" in sentence


def test_proof_sees_a_device_that_is_lost_when_systemd_reloads(host: Any, again: Again) -> None:
    """A systemctl of the test's own takes it away, as systemd's device controller does in the legacy way."""
    thief = "/usr/local/bin/systemctl"
    steal = "docker exec $(docker ps --quiet) /usr/bin/python3 -c 'import os; os.unlink(\"/dev/nvidia0\")'"
    assert host.run(f"cat > {thief} <<'EOF'\n#!/bin/sh\n{steal}\nEOF\nchmod 755 {thief}").rc == 0
    try:
        assert "after systemctl daemon-reload: /dev/nvidia0" in again(playbook="proof.yml").sentence
    finally:
        host.run(f"rm {thief}")


def test_the_four_packages_have_one_version_that_stays(host: Any) -> None:
    versions = host.run(f"dpkg-query -W -f '${{Version}}\\n' {' '.join(PACKAGES)}").stdout.split()
    assert versions == ["1.20.1-1"] * 4
    policy = host.run("apt-cache policy nvidia-container-toolkit").stdout
    assert "1.20.1-1 1001" in policy


def test_only_our_keys_of_the_settings_changed(host: Any) -> None:
    now = settings(host)
    if old_engine(host):
        assert now == {**THEIRS, "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
        assert mode(host) == ['mode = "cdi"']
    else:
        assert now == {**THEIRS, "features": {"buildkit": True, "cdi": True}}
        assert mode(host) == ['mode = "auto"']
    assert 'default-kind = "nvidia.com/gpu"' in host.file(CONFIG).content_string


def test_drift_is_found_and_mended_and_nothing_else(host: Any, again: Again) -> None:
    ways = {
        "a package upgraded by hand": Damage(
            "apt-get -q install -y --allow-downgrades nvidia-container-toolkit-base=1.20.0-1",
            INSTALLS,
        ),
        "a pin": path("container_toolkit", "/etc/apt/preferences.d/gpufleet-container-toolkit", "echo >>%"),
        "a drop-in": path("container_toolkit", DROP_INS[0], "echo '# mine' >>%"),
    }
    found_and_mended(
        host, again, ways, left_out=("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"), whole=[INSTALLS]
    )


def test_containerd_and_crio_read_a_drop_in(host: Any) -> None:
    """As containerd itself understands it; what its file said before is still there."""
    assert host.file(DROP_INS[1]).contains("runtime_path = ./usr/bin/nvidia-container-runtime.")
    if old_engine(host):  # whose containerd 1.6 reads no specifications
        assert not host.file(DROP_INS[0]).exists
        assert "gpufleet" not in host.file(CONTAINERD).content_string
        return
    dump = host.run("containerd config dump").stdout
    assert "enable_cdi = true" in dump
    assert 'BinaryName = "/usr/bin/nvidia-container-runtime"' in dump
    assert 'bin_dir = "/usr/lib/cni"' in dump
    assert host.service("containerd").is_running


def test_links_of_devices_are_for_the_legacy_way(host: Any, again: Again) -> None:
    rule = host.file("/etc/udev/rules.d/71-gpufleet-nvidia-dev-char.rules")
    assert not rule.exists
    ran = again("--check", container_toolkit_mode="legacy")
    assert ran.ok, ran.sentence
    assert "71-gpufleet-nvidia-dev-char.rules" in json.dumps(ran.result)


def test_older_podman_gets_a_specification_that_it_reads(host: Any) -> None:
    flag = "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS=no-additional-gids-for-device-nodes"
    told = host.run("systemctl show --property Environment nvidia-cdi-refresh.service").stdout
    assert (flag in told) == old_engine(host)  # podman 4.3 there, 5.4 in Debian 13


def test_specification_is_refreshed_before_the_devices_are_held(host: Any) -> None:
    for unit in ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"):
        assert host.run(f"systemctl is-enabled {unit}").stdout == "enabled\n"
    told = host.run("systemctl show --property Before,ActiveState nvidia-cdi-refresh.service").stdout
    assert "nvidia-persistenced.service" in told
    assert "ActiveState=failed" not in told


def test_old_specification_is_moved_away_with_a_copy(host: Any) -> None:
    assert host.run("ls /etc/cdi").stdout == ""
    assert len(host.run("ls /var/lib/gpufleet/backup/cdi").stdout.split()) == 1


def test_what_a_tutorial_left_is_told(host: Any, again: Again) -> None:
    wishes = {"gpufleet_containers": True, "container_toolkit_without_gpu": True}
    told = again(playbook="../../playbooks/plan.yml", **wishes)
    assert "Found no-cgroups = true in /etc/nvidia-container-runtime/config.toml" in json.dumps(told.result)
    ran = again(**wishes)
    assert ran.ok, ran.sentence
    assert ran.changed == 0
    assert host.run(f"grep '^no-cgroups = true' {CONFIG}").rc == 0, "it is not ours to change"


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.19.0-1", "older than 1.19.1 and so open to CVE-2026-24260"),
        ("newest", "Found no version of the container toolkit"),
    ],
)
def test_a_version_that_must_not_be_is_refused_by_its_variable(
    host: Any, again: Again, version: str, said: str
) -> None:
    sentence = again(container_toolkit_version=version).sentence
    assert said in sentence
    assert f"container_toolkit_version={version}" in sentence


def test_wrong_key_is_refused(host: Any, again: Again) -> None:
    wrong = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"  # NVIDIA's, and the mirror has its own
    assert wrong in again(container_toolkit_repository_fingerprints=[wrong]).sentence


def test_a_host_without_a_gpu_gets_one_line_and_nothing_else(host: Any, again: Again) -> None:
    ran = again(without_gpu=False)
    assert ran.ok, ran.sentence
    assert ran.changed == 0
    assert "No NVIDIA GPU was found, so there is no container toolkit" in json.dumps(ran.result)


def test_absent(host: Any, again: Again) -> None:
    """Last: everybody else's settings stay as they were."""
    ran = again("--check", container_toolkit_state="absent")
    assert ran.ok, ran.sentence
    assert ran.changed > 0
    ran = again(container_toolkit_state="absent")
    assert ran.ok, ran.sentence
    assert settings(host) == THEIRS
    assert mode(host) == ['mode = "auto"']
    assert not any(host.file(path).exists for path in DROP_INS)
    assert "gpufleet" not in host.file(CONTAINERD).content_string
    assert "nvidia-container-runtime" not in host.run("containerd config dump").stdout
    assert "nvidia-container" not in host.run("dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | grep ^ii").stdout
    left = host.run(
        "find /etc/apt /etc/systemd/system /var/lib/gpufleet/installed /var/lib/gpufleet/owned"
        " -name '*nvidia*' -o -name '*toolkit*'"
    )
    assert left.stdout == ""
    assert again(container_toolkit_state="absent").changed == 0
