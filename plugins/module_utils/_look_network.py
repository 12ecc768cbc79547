"""Whether the addresses that a run will download from answer this host.

Asked before the first change, with the certificates that the run is going to make the host trust.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

# What a server says that answers GET only.
_NO_HEAD = (405, 501)


def look_at_addresses(addresses: dict[str, str], certificates: list[str], timeout: float = 10.0) -> dict[str, Any]:
    """Return {name: {``status``, ``error``}}, all asked at once; the addresses stay out, as one may hold a password.

    Args:
        addresses: name to ``https://``, ``http://`` or ``file://`` address; empty ones are left out.
        certificates: PEM texts of authorities to trust beside the host's own.
        timeout: seconds for each.

    ``status`` is the HTTP status, or null where no server answered; then ``error`` says why in a few words.
    """
    asked = {name: str(address) for name, address in addresses.items() if "://" in str(address)}
    if not asked:
        return {}
    context = ssl.create_default_context()
    for certificate in certificates:
        try:
            context.load_verify_locations(cadata=certificate)
        except ssl.SSLError:
            continue  # ca_trust refuses such a file by its name
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        answers = pool.map(lambda address: _ask(address, context, timeout), asked.values())
        return dict(zip(asked, answers))


def _ask(address: str, context: ssl.SSLContext, timeout: float) -> dict[str, Any]:
    if address.startswith("file://"):
        there = Path(unquote(urlsplit(address).path)).exists()
        return {"status": 200 if there else 404, "error": None}
    answer = _answer(_request(address, "HEAD"), context, timeout)
    if answer["status"] in _NO_HEAD:
        answer = _answer(_request(address, "GET"), context, timeout)
    return answer


def _answer(request: urllib.request.Request, context: ssl.SSLContext, timeout: float) -> dict[str, Any]:
    handler = urllib.request.HTTPSHandler(context=context)
    try:
        with urllib.request.build_opener(handler).open(request, timeout=timeout) as reply:
            return {"status": reply.status, "error": None}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "error": None}
    except (urllib.error.URLError, OSError, ValueError) as error:
        return {"status": None, "error": _in_words(error)}


def _request(address: str, method: str) -> urllib.request.Request:
    """Return the request; urllib would take a user and password in the address for a part of the host's name."""
    parts = urlsplit(address)
    account, at, host = parts.netloc.rpartition("@")
    plain = urlunsplit(parts._replace(netloc=host))
    request = urllib.request.Request(plain, method=method)  # noqa: S310 # the plan refuses other schemes
    if at:
        request.add_header("Authorization", "Basic " + b64encode(unquote(account).encode()).decode())
    return request


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {reason.verify_message}"
    return str(reason) or type(reason).__name__
