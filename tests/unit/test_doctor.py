"""The text for a bug report: what is in it, and what must never be."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fleet_records
import pytest

ROOT = Path(__file__).resolve().parents[2]
doctor = importlib.import_module("ansible_collections.gpufleet.host.plugins.plugin_utils.doctor")
CANARY = "c4nary-Zq7xW1v9"


def host(**more: Any) -> dict[str, Any]:
    record = fleet_records.record("h100_x8_straggler")
    read = fleet_records.result(record)["record"]
    return {"facts": record["facts"], "plan": record["plan"], "record": read, **more}


def text_of(hosts: Any, log: Path | str = "", **more: Any) -> str:
    text: str = doctor.bundle(hosts, "2026-11-25T12:00:00Z", "0.2.0", str(log), environment=more.pop("env", {}), **more)
    return text


def test_it_has_what_a_bug_report_needs(tmp_path: Path) -> None:
    log = tmp_path / "site.log"
    log.write_text("old\n" * 1000 + "2026 | \x1b[31mTASK [x]\x1b[0m failed\n")
    text = text_of({"gpu01": host()}, log)
    for words in ("collection 0.2.0", "ansible-core 2.", "## Host gpu01", '"kernel": "6.12.48+deb13-amd64"', "torch"):
        assert words in text
    assert "matmul.bf16.peers" in text  # of the last record
    assert '"loaded": "580.178.04"' in text  # of the facts
    assert "2026 | TASK [x] failed" in text
    assert text.count("old\n") < 500
    assert "\x1b" not in text


def test_a_host_that_does_not_answer_is_in_it() -> None:
    text = text_of({"gpu01": {"trouble": "timed out"}, "gpu02": None})
    assert "It could not be looked at: timed out" in text
    assert "## Host gpu02" in text


def test_no_log_is_said(tmp_path: Path) -> None:
    assert "none was kept" in text_of({})
    assert "cannot be read (No such file or directory)" in text_of({}, tmp_path / "no.log")


def plant(value: Any) -> Any:
    """A canary below each mapping, in each way in which a secret is written down."""
    if isinstance(value, dict):
        planted = {
            "hf_token": CANARY,
            "registry": f"https://user:{CANARY}@registry.example/",
            "line": f"export WANDB_API_KEY='{CANARY}'",
            "header": f"Authorization: Bearer {CANARY}",
            "key": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----",
            "passwords": [CANARY, {"deep": CANARY}],
        }
        return {**{name: plant(inner) for name, inner in value.items()}, **planted}
    return [plant(inner) for inner in value] if isinstance(value, list) else value


def test_no_canary_gets_into_it(tmp_path: Path) -> None:
    log = tmp_path / "site.log"
    log.write_text(
        f'fatal: [x] => {{"msg": "401 for https://me:{CANARY}@index.example/simple"}}\n'
        f"+export HF_TOKEN={CANARY}\n+password: {CANARY}\n"
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----\n"
        f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{CANARY.replace('-', '')}AAAA me@laptop\n"
    )
    text = text_of({"gpu01": plant(host()), "gpu02": {"trouble": f"token={CANARY}"}}, log)
    assert CANARY not in text
    assert CANARY.replace("-", "") not in text
    assert text.count("(redacted)") > 20


@pytest.mark.parametrize("secret", ["correct horse battery", 'with "quotes" and \\', "plainword99"])
def test_a_known_secret_is_hidden_wherever_it_stands(tmp_path: Path, secret: str) -> None:
    """No rule could know these by their look."""
    log = tmp_path / "site.log"
    log.write_text(f"the user typed {secret} there\n")
    hosts = {"a": host(secrets=[secret, None, ""], trouble=f"sudo said {secret}")}
    assert secret not in text_of(hosts, log)
    assert json.dumps(secret)[1:-1] not in text_of(hosts, log)
    by_environment = text_of({"a": {"trouble": f"said {secret}"}}, log, env={"MY_TOKEN": secret, "HOME": "collection"})
    assert secret not in by_environment
    assert "collection 0.2.0" in by_environment  # what bears no such name stays


def test_a_path_to_a_secret_is_none(tmp_path: Path) -> None:
    text = text_of({"a": {"trouble": f"{tmp_path} is odd"}}, env={"VAULT_PASSWORD_FILE": str(tmp_path), "A_TOKEN": "a"})
    assert f"{tmp_path} is odd" in text


def test_names_are_hidden_on_wish() -> None:
    found = host(address="10.1.2.3", trouble="gpu01.lab.example at 10.1.2.3: alice is not in the sudoers file")
    found["facts"]["users"] = {"alice": None, "root": None}
    found["facts"]["system"]["hostname"] = "secretbox"
    shown = text_of({"gpu01.lab.example": found})
    hidden = text_of({"gpu01.lab.example": found}, hide=True)
    for word in ("gpu01", "10.1.2.3", "alice", "secretbox", "GPU-00000000-0000"):
        assert word in shown
        assert word not in hidden


def test_nothing_in_a_log_ends_its_block(tmp_path: Path) -> None:
    log = tmp_path / "site.log"
    log.write_text("~~~\n~~~~~\n# a title\n")
    assert "\n~~~~~~\n~~~\n~~~~~\n# a title\n~~~~~~\n" in text_of({}, log)


def test_the_playbook_writes_it_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/record.json").write_text(json.dumps(fleet_records.record("h100_x8")))
    (tmp_path / "site.log").write_text(f"HF_TOKEN={CANARY} and Sup3rS3cr3t\n")
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    hosts = {
        "a-gone": {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_become_password": "Sup3rS3cr3t"},
        "here": {**shared, "gpufleet_state_path": str(tmp_path / "state")},
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts.json")]
    command += ["-e", json.dumps({"doctor_log_path": str(tmp_path / "site.log")}), str(ROOT / "playbooks/doctor.yml")]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PWD": str(tmp_path),
        "X_TOKEN": "sing-sing",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = tmp_path / "reports/doctor.txt"
    text = made.read_text()
    assert made.stat().st_mode & 0o777 == 0o600
    for words in ("## Host a-gone", "Connection refused", "## Host here", '"distribution"', "HF_TOKEN=(redacted) and"):
        assert words in text
    for secret in (CANARY, "Sup3rS3cr3t"):
        assert secret not in text
        assert secret not in done.stdout + done.stderr
