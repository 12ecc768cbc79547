"""The mirror's web server: runs alone in a container, on the distribution's Python and its standard library.

`/srv/mirror/www/<host name>/<path>` answers for `https://<host name>/<path>`; all else is 404. The name
`untrusted.gpufleet.test` shows a certificate of an authority that nobody trusts.
"""

from __future__ import annotations

import functools
import http.server
import ssl
from pathlib import Path

ROOT = Path("/srv/mirror")
UNTRUSTED = "untrusted.gpufleet.test"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve the folder of the asked host name."""

    # With 1.0 each answer ends by an abrupt close, which trixie's apt reports as a broken repository.
    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        """Return the file for a request; no listing of a folder ever."""
        host = Path(self.headers.get("Host", "").partition(":")[0]).name or "none"
        self.directory = str(ROOT / "www" / host)
        found = super().translate_path(path)
        return found if Path(found).is_file() else "/nonexistent"


def context(folder: Path) -> ssl.SSLContext:
    """Return the TLS side with the certificate in a folder."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "server.crt", folder / "server.key")
    return made


def choose(untrusted: ssl.SSLContext, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    """Show the untrusted certificate to those who ask for it by name."""
    if name == UNTRUSTED:
        connection.context = untrusted


def main() -> None:
    """Serve until stopped."""
    trusted = context(ROOT / "tls/trusted")
    trusted.sni_callback = functools.partial(choose, context(ROOT / "tls/untrusted"))
    server = http.server.ThreadingHTTPServer(("", 443), Handler)
    # The handshake happens in the connection's own thread: a client that never speaks must not stop the others.
    server.socket = trusted.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
