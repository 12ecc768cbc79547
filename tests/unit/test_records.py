"""The host record survives a full disk and a crash in mid write: a reader finds the old one or the new one, whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Tree, parse_entry

ROOT = Path(__file__).resolve().parents[2]
# Writes a record of a megabyte again and again, each with another number all over.
WRITER = """
import sys
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Tree, parse_entry
print("ready", flush=True)
for number in range(int(sys.argv[2]), 100000):
    content = '{"schema": 1, "numbers": [' + ", ".join([str(number)] * 200000) + "]}"
    Tree([parse_entry({"path": sys.argv[1], "state": "file", "content": content, "mode": "0644"})]).apply()
"""


def start(record: Path, first: int, limit: int | None = None) -> subprocess.Popen[str]:
    def full_disk() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails in the middle, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/collections", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(record), str(first)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=full_disk if limit else None,
    )


def whole(record: Path) -> int:
    """Return the number of a record that is whole."""
    numbers = json.loads(record.read_text())["numbers"]
    assert len(numbers) == 200000
    assert len(set(numbers)) == 1
    return int(numbers[0])


def test_a_crash_in_mid_write(tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - the same on each run, and no secret
    record, seen = tmp_path / "record.json", set()
    for turn in range(12):
        writer = start(record, turn * 1000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.1 + chance.random() * 0.2)
        writer.kill()
        writer.wait()
        if record.exists():
            seen.add(whole(record))
    assert len(seen) > 6  # the kills came at different moments


def test_a_full_disk(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text('{"schema": 1}')
    writer = start(record, 5, limit=300_000)
    _said, problem = writer.communicate(timeout=60)
    assert writer.returncode != 0
    assert "File too large" in problem
    assert record.read_text() == '{"schema": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize(("age", "stays"), [(3600, False), (5, True)])
def test_what_a_killed_run_left_goes_with_the_next_write(tmp_path: Path, age: int, stays: bool) -> None:
    left = tmp_path / ".record.json.gpufleet-0123456789ab"
    other = tmp_path / ".record.json.gpufleet-of-mine"
    for path in (left, other):
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    entry = {"path": f"{tmp_path}/record.json", "state": "file", "content": "{}"}
    Tree([parse_entry(entry)]).apply()
    assert left.exists() == stays
    assert other.exists()
