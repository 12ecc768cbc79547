"""An offline bundle: what it is proved by and made of, and what is left out of the plan of a host that uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.filter.bundle import bundle_needs
from ansible_collections.gpufleet.host.plugins.module_utils import bundle
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from host_facts import H100, host

Bundle = tuple[Path, str]


@pytest.fixture
def made(tmp_path: Path) -> Bundle:
    for name in ("wheels/a-1-py3-none-any.whl", "apt/debian-13-x86_64/a_1_all.deb", "python/downloads.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path, bundle.write_manifest(tmp_path)


def test_a_whole_bundle_is_proved(made: Bundle) -> None:
    assert bundle.prove(*made) == 3


def test_sha256sum_reads_the_manifest(made: Bundle) -> None:
    lines = (made[0] / "MANIFEST").read_text().splitlines()
    assert lines[-1] == hashlib.sha256(b"wheels/a-1-py3-none-any.whl").hexdigest() + "  wheels/a-1-py3-none-any.whl"


def _append(root: Path) -> None:
    (root / "wheels/a-1-py3-none-any.whl").write_text("else")


def _remove(root: Path) -> None:
    (root / "python/downloads.json").unlink()


def _unfinished(root: Path) -> None:
    (root / "MANIFEST").unlink()


def _forged(root: Path) -> None:
    _append(root)
    bundle.write_manifest(root)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_append, "damaged bundle (wheels/a-1-py3-none-any.whl is not what was packed)"),
        (_remove, "damaged bundle (python/downloads.json is missing)"),
        (_unfinished, "an incomplete bundle, without its MANIFEST"),
        (_forged, "gpufleet_bundle_checksum="),
    ],
)
def test_any_other_bundle_is_refused(made: Bundle, damage: Callable[[Path], None], words: str) -> None:
    damage(made[0])
    with pytest.raises(bundle.BundleError) as refusal:
        bundle.prove(*made)
    assert words in str(refusal.value)
    assert "wished is gpufleet_bundle" in str(refusal.value)


def test_no_checksum_is_no_consent(made: Bundle) -> None:
    with pytest.raises(bundle.BundleError, match="gpufleet_bundle_checksum=nothing"):
        bundle.prove(made[0], "")


@pytest.mark.parametrize("path", ["", "bundle"])
def test_a_bundle_has_one_path_on_every_host(path: str) -> None:
    with pytest.raises(bundle.BundleError, match=r"gpufleet_bundle=.*mounted or copied"):
        bundle.prove(Path(path), "0" * 64)


def test_a_bundle_that_is_made_again_and_fails_is_none(made: Bundle) -> None:
    def run(_words: list[str], _environment: dict[str, str]) -> str:
        raise bundle.BundleError("`apt-get` ended with 100.")

    wish = {"path": str(made[0]), "platform": "debian-13-x86_64", "repositories": [], "packages": ["a"]}
    with pytest.raises(bundle.BundleError, match="apt-get"):
        bundle.make(wish, run, lambda _url, _target: None)
    with pytest.raises(bundle.BundleError, match="without its MANIFEST"):
        bundle.prove(*made)


def test_uv_of_another_checksum_is_not_packed(tmp_path: Path) -> None:
    wish = {
        "path": str(tmp_path),
        "uv_version": "0",
        "uv_archive_url": "https://m.example/uv.tar.gz",
        "uv_checksum": "0" * 64,
    }
    wish |= {"index_url": "", "downloads_json_url": ""}
    python = bundle.Python(wish, tmp_path, lambda _words, _environment: "", lambda _url, target: _text(target))
    with pytest.raises(bundle.BundleError, match="uv_python_uv_archive_checksums=000"):
        python.make()
    assert list(tmp_path.rglob("*.gz")) == []


def _text(target: Path) -> None:
    target.write_text("another uv")


def test_a_repository_of_another_key_is_not_read(tmp_path: Path) -> None:
    key = Path(__file__).parents[1] / "fixtures/keys"
    source = {
        "url": "https://m.example/",
        "suites": ["/"],
        "key_url": "https://m.example/key",
        "fingerprints": ["A" * 40],
    }
    wish = {"path": str(tmp_path), "platform": "x", "repositories": [source], "packages": []}
    some = next(path for path in sorted(key.rglob("*")) if path.is_file())
    packages = bundle.Packages(
        wish, tmp_path, lambda _w, _e: "", lambda _u, target: target.write_bytes(some.read_bytes()) and None
    )
    with pytest.raises(bundle.BundleError, match="wished is AAAA"):
        packages.make()


def test_the_pip_of_the_locks_downloads() -> None:
    pip = "pip==26.3 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    lock = f"numpy==2 \\\n    --hash=sha256:aa\n{pip}six==1 \\\n    --hash=sha256:dd\n"
    assert bundle._requirement("pip", [lock]) == pip
    with pytest.raises(bundle.BundleError, match=r"core\.txt"):
        bundle._requirement("pip", ["six==1\n"])


def test_an_offline_host_has_no_repository() -> None:
    facts = host(H100, driver=None, held=None)
    wishes: dict[str, Any] = {"containers": True, "engine_source": "docker"}
    for offline, some in ((False, True), (True, False)):
        plan = make_plan(facts, {**wishes, "offline": offline})
        assert [bool(plan[part]["repository"]) for part in ("driver", "engine", "toolkit")] == [some] * 3


def test_a_bundle_is_for_debian_and_its_kin() -> None:
    rocky = host(system__distribution="rocky", system__version_id="9", system__os_family="RedHat")
    assert "gpufleet_offline=True" in " ".join(make_plan(rocky, {"offline": True})["refusals"])


def test_needs_are_those_of_a_bare_host() -> None:
    """This machine's own engine and packages do not shorten the list."""
    there = host(
        engines__docker="26.1.5", containers__packages={"docker.io": "26.1.5", "nvidia-container-toolkit": "1.20.1-1"}
    )
    needs = bundle_needs(there, {"containers": True})
    assert {"ca-certificates", "docker.io", "htop", "nvidia-container-toolkit=1.20.1-1"} <= set(needs["packages"])
    assert [source["url"] for source in needs["repositories"]] == [
        "https://nvidia.github.io/libnvidia-container/stable/deb/amd64/"
    ]
    assert bundle_needs(there, {})["packages"] == ["ca-certificates"]
