"""What the host trusts, by what OpenSSL and Python say when a server shows its certificate."""

from __future__ import annotations

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
