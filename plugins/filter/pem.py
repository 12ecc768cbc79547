# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filter: read PEM files of certificate authorities on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: authority_files
short_description: Read certificate authorities on the controller, one certificate a file
version_added: 0.1.0
description:
  - Stores of trusted authorities want one certificate a file; sites hand out bundles. Comments around them are dropped.
author:
  - The gpufleet.host contributors
positional: _input, pattern
options:
  _input:
    description: PEM files on the controller. A relative path counts from where C(ansible-playbook) runs.
    type: list
    elements: str
    required: true
  pattern:
    description: Path on the host, with C(%s) for a name made of the file's.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what would be trusted
  ansible.builtin.debug:
    msg: "{{ ['/etc/site-ca.pem'] | gpufleet.host.authority_files('/usr/local/share/ca-certificates/%s.crt') }}"
"""

RETURN = r"""
_value:
  description: What the files hold.
  type: dict
  contains:
    problems:
      description: One sentence for each file that cannot be used.
      type: list
      elements: str
    files:
      description: A mapping of path and content for each certificate, in order.
      type: list
      elements: dict
"""

import binascii
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.S)


class PemError(ValueError):
    """The end of a sentence that begins with the file's name."""


def authority_files(paths: list[str], pattern: str) -> dict[str, Any]:
    """Return the problems of the files, and the files that the host gets."""
    problems: list[str] = []
    files: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        try:
            certificates = pem_certificates(Path(path).expanduser().read_text("utf-8", "replace"))
        except OSError as error:
            problems.append(
                f"{path} cannot be read on the controller: {error.strerror}; give the path of a PEM file there."
            )
            continue
        except PemError as error:
            problems.append(f"{path} {error}.")
            continue
        name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(path).stem)
        for number, certificate in enumerate(certificates, 1):
            place = pattern % (name if number == 1 else f"{name}-{number}")
            if files.setdefault(place, certificate) != certificate:
                problems.append(f"{path} would be {place} on the host, which another file is already: rename it.")
    return {"problems": problems, "files": [{"path": place, "content": text} for place, text in files.items()]}


def pem_certificates(text: str) -> list[str]:
    """Return one PEM text for each certificate; raises PemError where one cannot be trusted."""
    if _KEY.search(text):
        raise PemError("holds a private key, which must not leave its owner: give a file with the certificate alone")
    blocks = _CERTIFICATE.findall(text)
    if not blocks:
        raise PemError("is not a PEM certificate (it has no BEGIN CERTIFICATE line): convert it by openssl x509")
    certificates = []
    for number, block in enumerate(blocks, 1):
        try:
            certificate = ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(block))
            problem = _authority_problem(certificate)
        except (ValueError, binascii.Error, ssl.SSLError):
            problem = "cannot be read as a certificate: copy the file anew"
        if problem:
            raise PemError(f"holds a certificate (number {number} of {len(blocks)}) that {problem}")
        certificates.append(certificate)
    return certificates


def _authority_problem(certificate: str) -> str:
    """Load it as OpenSSL would, which also tells an authority's certificate from a server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    authorities = context.get_ca_certs()
    if not authorities:
        return "is not of a certificate authority (CA:TRUE is missing): give the one that signed it"
    until = str(authorities[0]["notAfter"])
    if ssl.cert_time_to_seconds(until) < time.time():
        return f"expired on {until}: give the one that replaced it"
    return ""


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"authority_files": authority_files}
