"""What the host trusts, by what OpenSSL and Python say when a server shows its certificate."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

# A client and a server in one process, without a network: the client knows the system's store only.
HANDSHAKE = """
import ssl
client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server_context.load_cert_chain("/root/mirror.pem", "/root/mirror.key")
client = ssl.create_default_context().wrap_bio(client_in, client_out, server_hostname="developer.download.nvidia.com")
server = server_context.wrap_bio(client_out, client_in, server_side=True)
done = set()
while len(done) < 2:
    for name, side in (("client", client), ("server", server)):
        try:
            side.do_handshake()
            done.add(name)
        except ssl.SSLWantReadError:
            pass
print("trusted")
"""
DIRECTORY = "/usr/local/share/ca-certificates"


def handshake(host: Any) -> str:
    result = host.run("python3 -c %s", HANDSHAKE)
    return str((result.stdout + result.stderr).strip().splitlines()[-1])


def trial(tmp_path: Path, wishes: dict[str, Any]) -> str:
    """Run the role with other wishes, as a user of the collection would; gives what Ansible printed."""
    variables = tmp_path / "wishes.json"
    variables.write_text(json.dumps(wishes))
    play = Path(__file__).resolve().parents[1] / "trial.yml"
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "-e", f"@{variables}", str(play)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def test_server_of_the_site_is_trusted(host: Any) -> None:
    assert handshake(host) == "trusted"


def test_authority_that_left_the_list_is_not(host: Any) -> None:
    assert host.run(f"ls {DIRECTORY}").stdout.split() == ["gpufleet-site.crt"]
    assert "gpufleet-old" not in host.run("ls /etc/ssl/certs").stdout
    subjects = host.run(
        "openssl storeutl -noout -text -certs /etc/ssl/certs/ca-certificates.crt | grep Subject:"
    ).stdout
    assert "Site test authority" in subjects
    assert "Old test authority" not in subjects


def test_key_is_refused_by_name(host: Any, tmp_path: Path) -> None:
    key = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "site.key"
    said = trial(tmp_path, {"ca_trust_certificates": [str(key)]})
    assert f"ca_trust_certificates: {key} holds a private key" in said
    assert "BEGIN" not in said
    assert host.run(f"ls {DIRECTORY}").stdout.split() == ["gpufleet-site.crt"]


def test_run_that_was_cut_off_is_finished_by_the_next(host: Any, tmp_path: Path) -> None:
    """The file is there, the store was not made of it: files alone would say that all is well."""
    site = str(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "site.pem")
    file = f"{DIRECTORY}/gpufleet-site.crt"
    away = f"mv {file} /root/ && update-ca-certificates --fresh && mv /root/gpufleet-site.crt {DIRECTORY}/"
    assert host.run(f"{away} && touch /var/lib/gpufleet/pending/ca_trust").rc == 0
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(host)
    trial(tmp_path, {"ca_trust_certificates": [site]})
    assert handshake(host) == "trusted"
    assert "changed=0" in trial(tmp_path, {"ca_trust_certificates": [site]})


def test_absent(host: Any, tmp_path: Path) -> None:
    """Last: what somebody else put there stays."""
    assert host.run(f"cp /root/mirror.pem {DIRECTORY}/theirs.crt").rc == 0
    assert "failed=0" in trial(tmp_path, {"ca_trust_state": "absent"})
    assert host.run(f"ls {DIRECTORY}").stdout.split() == ["theirs.crt"]
    assert "changed=0" in trial(tmp_path, {"ca_trust_state": "absent"})
    assert "gpufleet" not in host.run("ls /etc/ssl/certs").stdout
    assert host.run(f"rm {DIRECTORY}/theirs.crt && update-ca-certificates --fresh").rc == 0
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(host)
