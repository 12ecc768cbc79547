"""What the engine does, asked as its users ask, and what is left of its owner's settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from damage import Damage, found_and_mended

# Every test asks for `host`: pytest would run the others after those that do, and so after test_absent.
Again = Callable[..., Any]
PROXY = "/etc/systemd/system/docker.service.d/gpufleet-proxy.conf"
INSTALLS = "docker_engine: Say in check mode what would be installed"
SETTINGS, TARGET = "/etc/docker/daemon.json", "/srv/config/daemon.json"
# No registry is reached from here: an image of the host's own shell, with a stand-in for a GPU's device node.
IMAGE = (
    "tar -C / -chf - bin/sleep bin/cat bin/sh $(ldd /bin/sleep /bin/cat /bin/sh | grep -o '/lib[^ ]*' | sort -u)"
    " 2>/dev/null | docker import - tiny"
)
THEIRS = {
    "labels": ["rack=7"],
    "features": {"buildkit": True},
    "registry-mirrors": ["https://theirs.invalid/"],
    "max-download-attempts": 9007199254740993,
}


@pytest.fixture(scope="module")
def image(host: Any) -> str:
    made = host.run(IMAGE)
    assert made.rc == 0, made.stderr
    return "tiny"


def info(host: Any) -> dict[str, Any]:
    told = host.run("docker info --format '{{json .}}'")
    assert told.rc == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def settings(host: Any) -> dict[str, Any]:
    now: dict[str, Any] = json.loads(host.file(TARGET).content.decode("utf-8-sig"))
    return now


def pid(host: Any) -> str:
    return str(host.run("systemctl show --value --property MainPID docker").stdout)


def test_a_container_runs_and_can_be_bounded(host: Any, image: str) -> None:
    ran = host.run(f"docker run --rm --memory 64m {image} /bin/cat /etc/hostname")
    assert ran.rc == 0, ran.stderr


def test_settings_are_in_force_beside_those_of_others(host: Any) -> None:
    told = info(host)
    assert told["LoggingDriver"] == "local"
    assert told["LiveRestoreEnabled"] is True
    assert told["Labels"] == ["rack=7"]
    assert told["RegistryConfig"]["Mirrors"] == ["https://theirs.invalid/", "https://mirror.gpufleet.test/"]
    now = settings(host)
    assert {key: now[key] for key in THEIRS if key != "registry-mirrors"} == {
        key: value for key, value in THEIRS.items() if key != "registry-mirrors"
    }
    assert list(now)[:4] == list(THEIRS), "the order of the owner's keys"


def test_form_of_the_settings_is_the_owners(host: Any) -> None:
    assert host.file(SETTINGS).linked_to == TARGET
    assert host.file(TARGET).mode == 0o600
    content = host.file(TARGET).content
    assert content.startswith(b"\xef\xbb\xbf") == (not host.system_info.release.startswith("12"))
    assert b'\n    "max-download-attempts": 9007199254740993' in content


def test_proxy_reaches_the_daemon_and_its_password_nobody(host: Any) -> None:
    assert info(host)["HttpsProxy"].endswith("@proxy.invalid:3128")
    assert info(host)["NoProxy"] == "localhost"
    assert host.run("systemctl show docker | grep PasswordOf").rc != 0
    assert host.run("grep -rl PasswordOf /etc /var/lib/gpufleet").stdout.split() == ["/etc/gpufleet/docker-proxy.env"]
    assert host.file("/etc/gpufleet/docker-proxy.env").mode == 0o600


def test_it_starts_with_the_host(host: Any) -> None:
    assert host.service("docker").is_enabled


def test_builds_and_composes_where_the_distribution_can(host: Any) -> None:
    if host.system_info.release.startswith("12"):
        assert host.run("docker build --help").rc == 0
        return
    assert host.run("docker buildx version").rc == 0
    assert host.run("docker compose version").rc == 0


def test_an_engine_that_is_there_is_adopted(host: Any, again: Again) -> None:
    ran = again(source="docker")
    assert ran.ok, ran.sentence
    assert ran.changed == 0


def test_drift_is_found_and_mended_and_nothing_else(host: Any, again: Again) -> None:
    ways = {
        "a line of daemon.json": Damage(
            rf"""sed -zi 's|,\s*"https://mirror.gpufleet.test"||' {TARGET}""", "docker_engine: /registry-mirrors"
        ),
        "a proxy": Damage(f"echo >>{PROXY}", f"docker_engine: {PROXY}", ("docker_engine: Start Docker again",)),
        "a stopped service": Damage(
            "systemctl disable docker.service && systemctl stop docker.socket docker.service",
            "docker_engine: Have Docker run, now and after the next start",
        ),
    }
    if not host.system_info.release.startswith("12"):
        ways["a removed package"] = Damage("apt-get -q remove -y docker-buildx", INSTALLS)
    found_and_mended(host, again, ways, left_out=("/var/lib/docker", "/var/lib/containerd"), whole=[INSTALLS])


def test_a_small_change_is_a_signal_and_a_container_lives_on(host: Any, again: Again, image: str) -> None:
    assert host.run(f"docker run -d --name lives {image} /bin/sleep 600").rc == 0
    before = pid(host)
    assert again(mirrors=["https://mirror.gpufleet.test", "https://second.invalid"]).ok
    assert pid(host) == before
    assert "https://second.invalid/" in info(host)["RegistryConfig"]["Mirrors"]
    assert again(mirrors=["https://mirror.gpufleet.test"]).ok
    assert "https://second.invalid/" not in info(host)["RegistryConfig"]["Mirrors"]
    assert host.run("docker inspect --format '{{.State.Running}}' lives").stdout.strip() == "true"


def test_a_gpu_job_in_a_container_keeps_the_engine_from_starting_again(host: Any, again: Again, image: str) -> None:
    """The job holds a device node that is called like a GPU's."""
    job = f"docker run -d --name job --device /dev/null:/dev/nvidia0 {image} /bin/sh -c '/bin/sleep 600 </dev/nvidia0'"
    assert host.run("ln -s null /dev/nvidia0").rc == 0  # without one on the host nobody looks for jobs
    assert host.run(job).rc == 0
    before, wish = pid(host), {"proxy": {"http_proxy": "http://other.invalid"}}
    ran = again(**wish)
    assert ran.ok, ran.sentence
    assert pid(host) == before
    assert "Found containers that use a GPU" in json.dumps(ran.result)
    assert again(**wish).changed > 0, "the change still waits"
    assert pid(host) == before
    assert host.run("docker rm -f job; rm /dev/nvidia0").rc == 0
    assert again(**wish).ok
    assert pid(host) != before
    assert "other.invalid" in info(host)["HttpProxy"]
    assert host.run("docker inspect --format '{{.State.Running}}' lives").stdout.strip() == "true", "live-restore"
    ran = again()
    assert ran.ok, ran.sentence
    assert again().changed == 0


def test_an_engine_that_systemd_would_not_start_any_more_is_started(host: Any, again: Again) -> None:
    """Three starts a minute are all that its unit allows, also after somebody has mended what kept it from starting."""
    assert host.run("for _ in 1 2 3 4; do systemctl restart docker || exit 1; done").rc != 0
    assert host.run("systemctl start docker").rc != 0
    ran = again()
    assert ran.ok, ran.sentence
    assert host.service("docker").is_running
    assert again().changed == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n  "debug": true, // for now\n}', "daemon.json, line 2, column 18: a comment (//)"),
        ('{"debug": true, "debug": false}', "the key 'debug' for the second time"),
    ],
)
def test_broken_settings_are_refused_by_line(host: Any, again: Again, text: str, said: str) -> None:
    host.run(f"cp -p {SETTINGS} /root/good.json && printf '%s' '{text}' > {SETTINGS}")
    before = pid(host)
    ran = again()
    assert said in ran.sentence
    assert host.file(TARGET).content_string == text
    assert pid(host) == before
    assert host.run(f"cp -p /root/good.json {SETTINGS}").rc == 0


def test_what_the_daemon_would_not_start_with_is_refused(host: Any, again: Again) -> None:
    if host.system_info.release.startswith("12"):
        pytest.skip("this dockerd cannot be asked")
    ran = again(docker_engine_settings={"log-driver": "local", "no-such-key": True})
    assert "no-such-key" in ran.sentence
    assert "no-such-key" not in host.file(TARGET).content_string


def test_absent(host: Any, again: Again) -> None:
    """Next to last: settings of the owner stay as they were, the packages that came from here go."""
    ran = again("--check", docker_engine_state="absent")
    assert ran.ok, ran.sentence
    assert ran.changed > 0
    ran = again(docker_engine_state="absent")
    assert ran.ok, ran.sentence
    assert settings(host) == THEIRS
    assert host.run("dpkg-query -W -f '${db:Status-Status}' docker.io").stdout != "installed"
    left = host.run("find /var/lib/gpufleet /etc/gpufleet /etc/systemd/system/docker.service.d -type f").stdout
    assert left == ""
    assert again(docker_engine_state="absent").changed == 0


def test_an_engine_that_somebody_installed_stays(host: Any, again: Again) -> None:
    """Last: it is adopted, given its settings, and left there without them."""
    more = "" if host.system_info.release.startswith("12") else " docker-cli"
    assert host.run(f"apt-get -qq install -y --no-install-recommends docker.io{more}").rc == 0
    assert again().ok
    assert info(host)["LoggingDriver"] == "local"
    ran = again(docker_engine_state="absent")
    assert ran.ok, ran.sentence
    assert settings(host) == THEIRS
    assert host.run("dpkg-query -W -f '${db:Status-Status}' docker.io").stdout == "installed"
    assert info(host)["LoggingDriver"] == "json-file"
