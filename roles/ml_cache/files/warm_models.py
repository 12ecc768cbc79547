"""Download models into the cache that HF_HUB_CACHE names: warm_models.py [--check] REPO@REVISION ...

Runs without root, in an environment with huggingface_hub. Prints one JSON object: `changed`, the models that were
missing or grew, and `problems`, a sentence for each one that could not be had. With --check it only says which ones the
cache does not have, without the network.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path


class WarmError(Exception):
    """One sentence: what was found, and what to do."""


def place_of(repo: str) -> Path:
    """Where the hub's library keeps a model."""
    return Path(os.environ["HF_HUB_CACHE"], "models--" + repo.replace("/", "--"))


def blobs(repo: str) -> set[tuple[str, int]]:
    """What the cache has of a model: names and sizes."""
    paths = place_of(repo).rglob("*")
    return {(str(path), path.lstat().st_size) for path in paths if path.is_file() or path.is_symlink()}


def links(place: Path) -> Iterator[Path]:
    """Yield the links at a path and below it, without following any."""
    if place.is_symlink():
        yield place
        return
    for directory, directories, files in os.walk(place):
        yield from (path for path in (Path(directory, name) for name in directories + files) if path.is_symlink())


def refuse_foreign_links(repo: str) -> None:
    """Raise WarmError for a link out of the cache that a member put there, whether or not it would be followed.

    We have no rights to spoil what it leads to, but the library passes over that error, or reads it as a revision. Root
    may have put a model on another disk.
    """
    hub = os.path.normpath(os.environ["HF_HUB_CACHE"])
    place = place_of(repo)
    for link in (*links(place), *links(place.parent / ".locks" / place.name), *links_at(place.parent / ".locks")):
        target = os.path.normpath(link.parent / link.readlink())
        owner = link.lstat().st_uid
        if owner != 0 and not target.startswith(hub + os.sep):
            raise WarmError(
                f"Found the link {link} of {name_of(owner)}, which leads out of the cache to {target}, so {repo} is "
                "not downloaded: ask that user what it is for, remove it, and run again."
            )


def links_at(path: Path) -> Iterator[Path]:
    """Yield the path itself if it is a link."""
    if path.is_symlink():
        yield path


def name_of(uid: int) -> str:
    """A user's name, or the number where nobody has it."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def is_there(repo: str, revision: str) -> bool:
    """Whether any snapshot of the revision is in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repo, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def download(repo: str, revision: str) -> bool:
    """Download what is missing; whether that was anything."""
    from huggingface_hub import snapshot_download

    before = blobs(repo)
    snapshot_download(repo, revision=revision)
    return blobs(repo) != before


def is_new(model: str, check: bool) -> bool:
    """Whether a model was downloaded, or would be.

    Raises WarmError for whatever goes wrong: the library's own errors are many, and one model must not cost the others.
    """
    repo, _, revision = model.rpartition("@")
    try:
        refuse_foreign_links(repo)
        return not is_there(repo, revision) if check else download(repo, revision)
    except ImportError as error:
        raise WarmError(
            f"Found no huggingface_hub in {sys.prefix} ({error}): set ml_cache_venv_path to an environment that has it."
        ) from error
    except PermissionError as error:
        raise WarmError(
            f"Found no right to use {error.filename} for {repo}: let its owner run setfacl -R -m g:GROUP:rwX on the "
            "model's directory with the cache's group, or remove it, and run again."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise WarmError(
            f"Found no way to download {repo} at revision {revision} ({said[:300]}): check its name in "
            "ml_cache_warm_models, or set HF_ENDPOINT or HTTPS_PROXY in env_profile_overrides to what the host reaches."
        ) from error


def main(arguments: list[str]) -> int:
    """Download or look, and tell."""
    os.umask(0o002)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if not Path(os.environ.get(name) or "/nonexistent").is_file():
            os.environ.pop(name, None)
    told: dict[str, list[str]] = {"changed": [], "problems": []}
    for model in arguments:
        if model == "--check":
            continue
        try:
            if is_new(model, "--check" in arguments):
                told["changed"].append(model)
        except WarmError as problem:
            told["problems"].append(str(problem))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
