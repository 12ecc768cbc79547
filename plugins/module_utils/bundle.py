"""An offline bundle: a directory with all that a host would download, and a manifest that proves it.

    uv/<version>/uv-<arch>-unknown-linux-gnu.tar.gz     python-build-standalone/<tag>/...   python/downloads.json
    wheels/*.whl  simple/<project>/index.html           apt/<platform>/*.deb, Packages, InRelease, key.asc
    images/*      collection/*.tar.gz                   MANIFEST (as `sha256sum --check` reads it)

Everything is read by ``file://``, so the bundle is a mount or a copy at one path on every host, and nothing listens.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ansible_collections.gpufleet.host.plugins.module_utils.openpgp import NoKey, read_keys

MANIFEST = "MANIFEST"
_STANDALONE = "https://github.com/astral-sh/python-build-standalone/releases/download"
_BLOCK = 1 << 20

# Where Debian's kin have the trusted authorities; a Python made elsewhere may look in another place.
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

Run = Callable[[list[str], dict[str, str]], str]
Fetch = Callable[[str, Path], None]


class BundleError(Exception):
    """Why a bundle cannot be made or used, as one sentence."""


# --- proof -----------------------------------------------------------------------------------------------------------


def prove(root: Path, checksum: str) -> int:
    """Return the number of files, each of which is as the manifest says, and the manifest as the user says.

    Raises:
        BundleError: anything is missing or different.
    """
    if not root.is_absolute():
        raise BundleError(
            f"Found no absolute path of a bundle; wished are gpufleet_offline=true and gpufleet_bundle={root}; set it "
            "to where each host has the bundle, mounted or copied (./run bundle makes one)."
        )
    wished = f"wished is gpufleet_bundle={root}; mount or copy the whole bundle there, or make it anew (./run bundle)"
    manifest = root / MANIFEST
    if not manifest.is_file():
        what = "an incomplete bundle, without its MANIFEST" if root.is_dir() else "no bundle"
        raise BundleError(f"Found {what}; {wished}.")
    if sha256(manifest) != checksum:
        raise BundleError(
            f"Found a bundle whose MANIFEST has the SHA-256 {sha256(manifest)}; wished is "
            f"gpufleet_bundle_checksum={checksum or 'nothing'}; compare with what ./run bundle said when it made it."
        )
    lines = [line.partition("  ") for line in manifest.read_text().splitlines()]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda line: _sha256_or_none(root / line[2]), lines))
    wrong = [
        f"{path} {'is missing' if there is None else 'is not what was packed'}"
        for (said, _spaces, path), there in zip(lines, found)
        if said != there
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BundleError(f"Found a damaged bundle ({', '.join(wrong[:3])}{more}); {wished}.")
    return len(lines)


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sha256_or_none(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None


def write_manifest(root: Path) -> str:
    """Write the manifest last, so that a bundle that was not finished has none; return its checksum."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # apt reads as a user of its own
    partial = root / f".{MANIFEST}.partial"
    partial.write_text("".join(f"{sha256(path)}  {path.relative_to(root)}\n" for path in files))
    partial.chmod(0o644)
    partial.rename(root / MANIFEST)
    return sha256(root / MANIFEST)


# --- uv, Python, wheels ----------------------------------------------------------------------------------------------


class Python:
    """uv, the Python that it installs, and the wheels of the locks."""

    def __init__(self, wish: dict[str, Any], scratch: Path, run: Run, fetch: Fetch) -> None:
        """Keep what is wished; nothing is done yet."""
        self.root, self.wish, self.scratch, self.run, self.fetch = Path(wish["path"]), wish, scratch, run, fetch
        self.uv = scratch / "uv"
        self.environment = {
            "UV_CACHE_DIR": str(scratch / "cache"),
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_INSTALL_DIR": str(scratch / "python"),
            "UV_SYSTEM_CERTS": "true",
            **({"UV_DEFAULT_INDEX": wish["index_url"]} if wish["index_url"] else {}),
            **({"UV_PYTHON_DOWNLOADS_JSON_URL": wish["downloads_json_url"]} if wish["downloads_json_url"] else {}),
        }

    def make(self) -> None:
        """Bring all three, each proved by a checksum that is in the collection or in uv."""
        self._uv()
        self._python()
        self._wheels()

    def _uv(self) -> None:
        wish = self.wish
        archive = self.root / "uv" / wish["uv_version"] / wish["uv_archive_url"].rpartition("/")[2]
        self._have(wish["uv_archive_url"], archive)
        found = sha256(archive)
        if found != wish["uv_checksum"]:
            archive.unlink()
            raise BundleError(
                f"Found uv's archive {wish['uv_archive_url']} with the SHA-256 {found}; wished is "
                f"uv_python_uv_archive_checksums={wish['uv_checksum']}; "
                "set uv_python_uv_archive_url to a mirror that has it."
            )
        self.run(["tar", "-xzf", str(archive), "-C", str(self.scratch), "--strip-components=1"], {})

    def _python(self) -> None:
        """Let uv install it from the bundle, which compares it with uv's own checksum."""
        minor = self.wish["python_version"]
        words = [str(self.uv), "python", "list", minor, "--only-downloads", "--output-format", "json"]
        listing = self.run(words, self.environment)
        chosen = next((row for row in json.loads(listing) if row["implementation"] == "cpython"), None)
        place = re.search(r"/releases/download/(.+)$", chosen["url"] if chosen else "")
        if not chosen or not place:
            raise BundleError(f"Found no CPython {minor} in uv's list of downloads; set uv_python_downloads_json_url.")
        archive = self.root / "python-build-standalone" / unquote(place.group(1))
        mirror = self.wish["install_mirror"]
        self._have(f"{mirror.rstrip('/')}/{place.group(1)}" if mirror else chosen["url"], archive)
        self.run(
            [
                str(self.uv),
                "python",
                "install",
                "--no-bin",
                "--mirror",
                f"file://{self.root}/python-build-standalone",
                minor,
            ],
            self.environment,
        )
        downloads = self.root / "python/downloads.json"
        known = json.loads(downloads.read_text()) if downloads.exists() else {}
        known[chosen["key"]] = _download(chosen, place.group(1), sha256(archive))
        _write(downloads, json.dumps(known, indent=1, sort_keys=True) + "\n")

    def _wheels(self) -> None:
        """Let the pip of the locks download what they name; it compares every hash."""
        index = ["--index-url", self.wish["index_url"]] if self.wish["index_url"] else []
        trust = {"PIP_CERT": _AUTHORITIES} if Path(_AUTHORITIES).exists() else {}
        pip, venv = self.scratch / "pip.txt", self.scratch / "venv"
        pip.write_text(_requirement("pip", self.wish["locks"].values()))
        self.run(
            [str(self.uv), "venv", "--managed-python", "--python", self.wish["python_version"], str(venv)],
            self.environment,
        )
        self.run([str(self.uv), "pip", "sync", "--require-hashes", f"--python={venv}", str(pip)], self.environment)
        for name, lock in self.wish["locks"].items():
            path = self.scratch / f"{name}.txt"
            path.write_text(lock)
            words = [str(venv / "bin/python"), "-m", "pip", "download", "--require-hashes", "--no-deps"]
            words += ["--only-binary=:all:", "--disable-pip-version-check", "--quiet", *index]
            self.run([*words, "-d", str(self.root / "wheels"), "-r", str(path)], trust)
        self._list_wheels()

    def _list_wheels(self) -> None:
        """Write the index as uv reads it."""
        projects: dict[str, list[Path]] = {}
        for wheel in sorted((self.root / "wheels").glob("*.whl")):
            projects.setdefault(re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower(), []).append(wheel)
        for project, wheels in projects.items():
            links = "\n".join(
                f'<a href="../../wheels/{quote(wheel.name)}#sha256={sha256(wheel)}">{wheel.name}</a>'
                for wheel in wheels
            )
            _write(
                self.root / "simple" / project / "index.html",
                f"<!DOCTYPE html>\n<html><body>\n{links}\n</body></html>\n",
            )

    def _have(self, url: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            self.fetch(url, partial)
            partial.rename(target)


def _download(row: dict[str, Any], place: str, checksum: str) -> dict[str, Any]:
    """Return uv's own form of one download. With a mirror uv wants the beginning of github.com, and replaces it."""
    parts = row["version_parts"]
    return {
        "name": "cpython",
        "arch": {"family": row["arch"], "variant": None},
        **{key: row[key] for key in ("os", "libc")},
        **{key: parts[key] for key in ("major", "minor", "patch")},
        "prerelease": "",
        "url": f"{_STANDALONE}/{place}",
        "sha256": checksum,
        "variant": None,
        "build": place.partition("/")[0],
    }


def _requirement(name: str, locks: Iterable[str]) -> str:
    """Return the lines of one project from the first lock that has it.

    Raises:
        BundleError: none has it.
    """
    for lock in locks:
        found = re.search(rf"^{name}==(?:.*\\\n)*.*\n?", lock, re.MULTILINE)
        if found:
            return found.group()
    raise BundleError(
        f"Found no {name} in the locks, which downloads the others; add it to core.txt (uv_python_locks_path)."
    )


# --- packages --------------------------------------------------------------------------------------------------------


class Packages:
    """The packages with all that they depend on, in a repository with a key of its own."""

    def __init__(self, wish: dict[str, Any], scratch: Path, run: Run, fetch: Fetch) -> None:
        """Keep what is wished; nothing is done yet."""
        self.place = Path(wish["path"]) / "apt" / wish["platform"]
        self.wish, self.scratch, self.run, self.fetch = wish, scratch, run, fetch

    def make(self) -> None:
        """Download from the sources of this machine and those of the plan, and sign."""
        sources = self._sources()
        # An empty status: all that any host of this release may lack comes along, whatever this machine has.
        (self.scratch / "status").write_text("")
        options = {
            "APT::Sandbox::User": "root",
            "Dir::State": f"{self.scratch}/state",
            "Dir::State::status": f"{self.scratch}/status",
            "Dir::Cache": f"{self.scratch}/cache-apt",
            "Dir::Etc::sourceparts": f"{sources}",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Acquire::Retries": "3",
        }
        words = ["apt-get", "--quiet", "--yes", "--no-install-recommends"]
        words += [f"--option={key}={value}" for key, value in options.items()]
        quietly = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        self.run([*words, "update"], quietly)
        self.run([*words, "--download-only", "install", *self.wish["packages"]], quietly)
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        for archive in sorted((self.scratch / "cache-apt/archives").glob("*.deb")):
            shutil.copy(archive, self.place / quote(unquote(archive.name), safe="+~_.-"))
        self._index()
        self._sign()

    def _sources(self) -> Path:
        """Return the folder of sources: this machine's but for our own, and the plan's with their keys proved."""
        parts = self.scratch / "sources.list.d"
        for name in ("state/lists/partial", "cache-apt/archives/partial", "sources.list.d", "keys"):
            (self.scratch / name).mkdir(parents=True)
        for own in Path("/etc/apt/sources.list.d").glob("*"):
            if own.suffix in (".list", ".sources") and not own.name.startswith("gpufleet-"):
                shutil.copy(own, parts)
        for number, source in enumerate(self.wish["repositories"]):
            key = self._key(source, number)
            fields = {
                "Types": "deb",
                "URIs": source["url"],
                "Suites": " ".join(source["suites"]),
                "Components": " ".join(source.get("components") or []),
                "Architectures": " ".join(source.get("architectures") or []),
                "Signed-By": str(key),
            }
            lines = [f"{name}: {value}" for name, value in fields.items() if value]
            (parts / f"bundle-{number}.sources").write_text("\n".join([*lines, ""]))
        return parts

    def _key(self, source: dict[str, Any], number: int) -> Path:
        path = self.scratch / "keys" / str(number)
        self.fetch(source["key_url"], path)
        try:
            found = {key.fingerprint for key in read_keys(path.read_bytes())}
        except NoKey as error:
            raise BundleError(f"Found no key at {source['key_url']}: {error}; give an address that has it.") from error
        strangers = found - {text.replace(" ", "").upper() for text in source["fingerprints"]}
        if strangers:
            raise BundleError(
                f"Found the key {', '.join(sorted(strangers))} at {source['key_url']}; wished is "
                f"{', '.join(source['fingerprints'])}; compare with what its owner publishes."
            )
        armored = path.read_bytes().lstrip().startswith(b"-----BEGIN")
        return path.rename(path.with_suffix(".asc" if armored else ".gpg"))

    def _index(self) -> None:
        stanzas = []
        for archive in sorted(self.place.glob("*.deb")):
            control = self.run(["dpkg-deb", "--field", str(archive)], {}).rstrip("\n")
            size, checksum = archive.stat().st_size, sha256(archive)
            stanzas.append(f"{control}\nFilename: ./{archive.name}\nSize: {size}\nSHA256: {checksum}\n")
        text = "\n".join(stanzas)
        _write(self.place / "Packages", text)
        (self.place / "Packages.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        rows = [
            f" {sha256(self.place / name)} {(self.place / name).stat().st_size} {name}"
            for name in ("Packages", "Packages.gz")
        ]
        head = ["Origin: gpufleet bundle", f"Label: {self.wish['platform']}", f"Date: {self.wish['date']}", "SHA256:"]
        _write(self.place / "Release", "\n".join([*head, *rows, ""]))

    def _sign(self) -> None:
        """Sign by a key that is forgotten afterwards: nobody can add a package to this bundle."""
        home = tempfile.mkdtemp(prefix="gpg-")  # an agent's socket has to have a short path
        words = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]
        try:
            self.run([*words, "--quick-gen-key", "gpufleet bundle", "ed25519", "sign", "never"], {})
            self.run([*words, "--armor", "--output", str(self.place / "key.asc"), "--export"], {})
            release = self.place / "Release"
            self.run([*words, "--output", str(self.place / "InRelease"), "--clearsign", str(release)], {})
            release.unlink()
        finally:
            self.run(["gpgconf", "--homedir", home, "--kill", "all"], {})
            shutil.rmtree(home, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make(wish: dict[str, Any], run: Run, fetch: Fetch) -> str:
    """Make or complete a bundle; return the checksum of its manifest.

    Raises:
        BundleError: something could not be brought. There is no manifest then, and so no bundle.
    """
    root = Path(wish["path"])
    root.mkdir(parents=True, exist_ok=True)
    (root / MANIFEST).unlink(missing_ok=True)
    os.umask(0o022)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".bundle-") as scratch:
        Packages(wish, Path(scratch), run, fetch).make()
        Python(wish, Path(scratch), run, fetch).make()
    for image in wish["images"]:
        (root / "images").mkdir(exist_ok=True)
        shutil.copy(image, root / "images")
    return write_manifest(root)
