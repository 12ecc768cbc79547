"""What the host trusts, by what OpenSSL and Python say when a server shows its certificate."""

from __future__ import annotations

import os
from collections.abc import Callable
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
Again = Callable[..., Any]
DIRECTORY = "/usr/local/share/ca-certificates"


def handshake(host: Any) -> str:
    result = host.run("python3 -c %s", HANDSHAKE)
    return str((result.stdout + result.stderr).strip().splitlines()[-1])


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


def test_key_is_refused_by_name(host: Any, again: Again) -> None:
    key = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "site.key"
    said = again(ca_trust_certificates=[str(key)]).sentence
    assert f"ca_trust_certificates: {key} holds a private key" in said
    assert "BEGIN" not in said
    assert host.run(f"ls {DIRECTORY}").stdout.split() == ["gpufleet-site.crt"]


def test_run_that_was_cut_off_is_finished_by_the_next(host: Any, again: Again) -> None:
    """The file is there, the store was not made of it: files alone would say that all is well."""
    file = f"{DIRECTORY}/gpufleet-site.crt"
    away = f"mv {file} /root/ && update-ca-certificates --fresh && mv /root/gpufleet-site.crt {DIRECTORY}/"
    assert host.run(f"{away} && touch /var/lib/gpufleet/pending/ca_trust").rc == 0
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(host)
    ran = again()
    assert ran.ok, ran.sentence
    assert handshake(host) == "trusted"
    assert again().changed == 0


def test_absent(host: Any, again: Again) -> None:
    """Last: what somebody else put there stays."""
    assert host.run(f"cp /root/mirror.pem {DIRECTORY}/theirs.crt").rc == 0
    assert again(ca_trust_state="absent").ok
    assert host.run(f"ls {DIRECTORY}").stdout.split() == ["theirs.crt"]
    assert again(ca_trust_state="absent").changed == 0
    assert "gpufleet" not in host.run("ls /etc/ssl/certs").stdout
    assert host.run(f"rm {DIRECTORY}/theirs.crt && update-ca-certificates --fresh").rc == 0
    assert "CERTIFICATE_VERIFY_FAILED" in handshake(host)
