"""Name the test files that the changes since the last commit touch, and those with a test that failed last time.

Usage: changed_tests.py WORKSPACE. Prints a path a line for pytest; a single `.` is all of them, nothing is none. A
test is touched when it, or a module that it imports at any remove, has changed; imports are read, not run, so one that
is made at run time goes unseen. Called by `./dev.sh test`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SKIP = {".venv", ".git", "data", "__pycache__", "node_modules", ".profile", ".cache"}
# What every test depends on.
SETTINGS = {"pyproject.toml", "pytest.ini", "setup.cfg", "tox.ini", "uv.lock"}


def git(root: Path, *words: str) -> str:
    """What git says of this directory; an empty text where it says nothing."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def changed(root: Path) -> set[str] | None:
    """The paths that differ from the last commit, or from what was pushed; None where there is no commit."""
    if not git(root, "rev-parse", "--verify", "HEAD"):
        return None
    base = git(root, "merge-base", "HEAD", "@{upstream}").strip() or "HEAD"
    listed = git(root, "diff", "--name-only", "--no-renames", "--relative", "-z", base)
    return set((listed + git(root, "ls-files", "--others", "--exclude-standard", "-z")).split("\0")) - {""}


def is_test(path: Path) -> bool:
    """Whether pytest would look for tests in it."""
    return path.suffix == ".py" and (path.name.startswith("test_") or path.stem.endswith("_test"))


def test_files(root: Path) -> Iterator[Path]:
    """The test files of a workspace, as paths in it."""
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if is_test(inside) and not SKIP & set(inside.parts):
            yield inside


class Imports:
    """Which files of the workspace a file depends on."""

    def __init__(self, root: Path, gone: set[str]) -> None:
        self.root, self.gone = root, gone
        self.known: dict[Path, set[Path]] = {}

    def there(self, path: Path) -> bool:
        """A file that was deleted counts: what imports it is touched."""
        return str(path) in self.gone or (self.root / path).is_file()

    def files(self, module: str, base: Path) -> set[Path]:
        """The files that an import of `module` below `base` reads."""
        found, place = set(), base
        for part in module.split("."):
            place = place / part
            found |= {path for path in (place.with_suffix(".py"), place / "__init__.py") if self.there(path)}
        return found

    def direct(self, path: Path) -> set[Path]:
        """The files that this one imports itself, and the conftest files above it."""
        if path in self.known:
            return self.known[path]
        found = {parent / "conftest.py" for parent in path.parents if self.there(parent / "conftest.py")}
        roots = {Path("src"), Path(), Path("tests"), path.parent}
        try:
            tree = ast.parse((self.root / path).read_bytes())
        except (OSError, SyntaxError, ValueError):
            tree = ast.parse("")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names, bases = [alias.name for alias in node.names], roots
            elif isinstance(node, ast.ImportFrom):
                head = f"{node.module}." if node.module else ""
                names = [head + alias.name for alias in node.names]
                bases = {path.parents[min(node.level, len(path.parents)) - 1]} if node.level else roots
            else:
                continue
            found |= {file for name in names for base in bases for file in self.files(name, base)}
        self.known[path] = found - {path}
        return self.known[path]

    def all(self, path: Path) -> set[Path]:
        """The files that this one depends on at any remove, and itself."""
        seen, left = {path}, [path]
        while left:
            for other in self.direct(left.pop()) - seen:
                seen.add(other)
                left.append(other)
        return seen


def failed(root: Path) -> set[Path]:
    """The test files with a failure in pytest's memory."""
    try:
        last = json.loads((root / ".pytest_cache/v/cache/lastfailed").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    files = {Path(name.split("::")[0]) for name in last}
    return {path for path in files if (root / path).is_file()}


def touched(root: Path, changes: set[str]) -> list[str]:
    """The test files to run; a file that is no Python and stands where tests read runs them all."""
    for name in sorted(changes):
        path = Path(name)
        if name in SETTINGS or (path.suffix != ".py" and path.parts[0] in ("src", "tests")):
            print(f"Every test: {name} has changed.", file=sys.stderr)
            return ["."]
    imports = Imports(root, changes)
    hit = {Path(name) for name in changes}
    found = {path for path in test_files(root) if imports.all(path) & hit} | failed(root)
    return sorted(str(path) for path in found)


def main(root: Path) -> None:
    """Print the names."""
    changes = changed(root)
    if changes is None:
        print("Every test: there is no commit to compare with.", file=sys.stderr)
    for name in ["."] if changes is None else touched(root, changes):
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
