"""PEM files as sites hand them out, made by openssl."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.gpufleet.host.plugins.filter.pem import PemError, authority_files, pem_certificates

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("pem")

    def make(name: str, *options: str) -> str:
        subject = ["-subj", f"/CN={name}", "-keyout", str(place / "key"), "-out", str(place / name)]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(["openssl", "req", "-x509", *curve, *subject, *options], check=True, capture_output=True)
        return (place / name).read_text()

    return {
        "one": make("one", "-days", "2"),
        "two": make("two", "-days", "2"),
        "leaf": make("leaf", "-days", "2", "-addext", "basicConstraints=critical,CA:FALSE"),
        "key": (place / "key").read_text(),
    }


def test_bundle_is_taken_apart(made: dict[str, str]) -> None:
    text = f"# subject: one\n{made['one']}\r\n\nbetween\n{made['two']}"
    assert pem_certificates(text) == [made["one"], made["two"]]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("key", "holds a private key"),
        ("rsa", "holds a private key"),
        ("der", "is not a PEM certificate"),
        ("empty", "is not a PEM certificate"),
        ("request", "is not a PEM certificate"),
        ("leaf", "(number 1 of 1) that is not of a certificate authority"),
        ("cut", "(number 2 of 2) that cannot be read"),
        ("no base64", "that cannot be read"),
        ("expired", "that expired on Jan  1 00:00:00 2011 GMT"),
    ],
)
def test_refused(made: dict[str, str], name: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made["one"]
    texts = {
        "key": one + made["key"],
        "rsa": "-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----\n" + one,
        "der": base64.b64decode("".join(one.splitlines()[1:-1])).decode("latin-1"),
        "empty": "",
        "request": one.replace("CERTIFICATE", "CERTIFICATE REQUEST"),
        "leaf": made["leaf"],
        "cut": one + "\n".join([*made["two"].splitlines()[:3], "-----END CERTIFICATE-----"]),
        "no base64": "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "expired": one,
    }
    if name == "expired":
        monkeypatch.setattr("ssl.SSLContext.get_ca_certs", lambda self: [{"notAfter": "Jan  1 00:00:00 2011 GMT"}])
    with pytest.raises(PemError, match=re.escape(problem)):
        pem_certificates(texts[name])


def test_files(made: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "Site CA.pem").write_text(made["one"] + made["two"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/Site CA.pem").write_text(made["two"])
    (tmp_path / "server.key").write_text(made["key"])
    good, twin, key = (f"{tmp_path}/{name}" for name in ("Site CA.pem", "other/Site CA.pem", "server.key"))
    files = [{"path": "/ca/Site-CA.crt", "content": made["one"]}, {"path": "/ca/Site-CA-2.crt", "content": made["two"]}]
    assert authority_files([good, good], "/ca/%s.crt") == {"problems": [], "files": files}
    problems = authority_files([good, twin, key, "/no/such"], "/ca/%s.crt")["problems"]
    assert problems == [
        f"{twin} would be /ca/Site-CA.crt on the host, which another file is already: rename it.",
        f"{key} holds a private key, which must not leave its owner: give a file with the certificate alone.",
        "/no/such cannot be read on the controller: No such file or directory; give the path of a PEM file there.",
    ]
