"""A machine with a shell and a Python became a host by one command, without systemd."""

from __future__ import annotations

from typing import Any


def test_the_machine_was_bare(host: Any) -> None:
    for tool in ("pip", "pip3", "curl", "wget", "git"):
        assert host.run("command -v %s", tool).rc != 0, tool
    assert host.run("python3 -m pip").rc != 0
    assert not host.file("/run/systemd/system").exists


def test_the_first_run_says_what_it_does_and_ends_with_a_summary(host: Any) -> None:
    said = host.file("/root/site-first.log").content_string
    for line in ("Getting uv", "Making .venv", "Installing the tools", "source /opt/uv/venv/bin/activate", "probe "):
        assert line in said, said[-3000:]
    assert "failed=0" in said


def test_what_needs_systemd_is_left_out_by_name(host: Any) -> None:
    assert "left out  " in host.file("/root/site-first.log").content_string
    assert "systemd" in host.file("/root/site-first.log").content_string


def test_the_second_run_is_instant_and_changes_nothing(host: Any) -> None:
    said = host.file("/root/site-second.log").content_string
    assert "changed=0 " in said
    assert "Getting uv" not in said
    assert "Installing the tools" not in said


def test_python_312_runs_for_everyone(host: Any) -> None:
    done = host.run("setpriv --reuid=65534 --regid=65534 --clear-groups /opt/uv/venv/bin/python --version")
    assert done.stdout.startswith("Python 3.12."), done.stderr


def test_bad_calls_get_one_sentence(host: Any) -> None:
    done = host.run("cd /root/gpufleet && ./run dance")
    assert done.rc == 2
    assert done.stderr.strip() == "run: there is no verb 'dance'; ./run help lists them"
    done = host.run("cd /root/gpufleet && rm -r .venv && GPUFLEET_PYTHON=/bin/false ./run plan")
    assert done.rc == 2
    assert "GPUFLEET_PYTHON is /bin/false, which is no Python" in done.stderr
