"""What uninstall leaves: the host as it was, but for what users have stored, and with the data nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SITE, UNINSTALL = "../../site.yml", "../../playbooks/uninstall.yml"
SNAPSHOT = Path(__file__).resolve().parents[1] / "snapshot.py"
Snapshot = dict[str, Any]


def snapshot(host: Any) -> Snapshot:
    program = json.dumps(SNAPSHOT.read_text())
    done = host.run("python3 -c %s /var/tmp/after.json", f"import sys; sys.argv[0] = 'x'; exec({program})")
    assert done.rc == 0, done.stderr
    return read(host, "after")


def read(host: Any, name: str) -> Snapshot:
    found: Snapshot = json.loads(host.file(f"/var/tmp/{name}.json").content_string)
    return found


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return every path, package and unit that is not the same."""
    paths = sorted(set(before["files"]) | set(after["files"]))
    found = [path for path in paths if before["files"].get(path) != after["files"].get(path)]
    for what in ("packages", "unit files", "active"):
        found += [f"{what}: {line}" for line in sorted(set(before[what]) ^ set(after[what]))]
    return found


def test_site_has_done_something(host: Any) -> None:
    changed = differences(read(host, "before"), snapshot(host))
    for path in ("/usr/local/bin/uv", "/etc/gpufleet/env.json", "/srv/ml/data", "/etc/group", "/opt/gpufleet"):
        assert path in changed
    assert "active: gpufleet-probe.timer" in " ".join(changed)


def test_without_consent_nothing_is_touched(host: Any, again: Callable[..., Any]) -> None:
    before = snapshot(host)
    run = again(playbook=UNINSTALL)
    assert not run.ok
    assert "uninstall_consent" in run.sentence
    assert "\n" not in run.sentence.strip()
    assert differences(before, snapshot(host)) == []


def test_the_word_false_is_no_consent(again: Callable[..., Any]) -> None:
    assert not again(playbook=UNINSTALL, uninstall_consent="false").ok


def test_check_mode_announces_and_changes_nothing(host: Any, again: Callable[..., Any]) -> None:
    before = snapshot(host)
    run = again("--check", playbook=UNINSTALL)
    assert run.ok, run.sentence
    assert run.changed > 4
    assert differences(before, snapshot(host)) == []


def test_what_users_stored_stays_and_all_else_is_as_before(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("su alice -c 'echo weights >/srv/ml/data/torch_starter/model.bin'")
    run = again(playbook=UNINSTALL, uninstall_consent=True)
    assert run.ok, run.sentence
    assert host.check_output("su bob -c 'cat /srv/ml/data/torch_starter/model.bin'") == "weights"
    stays = ("/srv/ml", "/home/alice/.cache", "/home/bob/.cache", "/home/bob/.config")
    records = ("/var/lib/gpufleet", "/var/lib/gpufleet/owned", "/var/lib/gpufleet/owned/group-ml")
    accounts = ("/etc/group", "/etc/gshadow")
    left = [
        path
        for path in differences(read(host, "before"), snapshot(host))
        if not path.startswith(stays) and path not in records + accounts
    ]
    assert left == []
    assert not host.file("/home/alice/.cache/huggingface/token").exists
    assert not host.file("/home/bob/.config/gpufleet/env").exists


def test_uninstall_again_changes_nothing(again: Callable[..., Any]) -> None:
    run = again(playbook=UNINSTALL, uninstall_consent=True)
    assert run.ok, run.sentence
    assert run.changes == set()


# What check mode says in words, since it cannot ask about what is not there yet, and what the run then does for it.
IN_WORDS = {
    "uv_python: Say in check mode that uv, Python or packages would be installed": {
        "uv_python: Unpack uv",
        "uv_python: Put uv in its place",
        "uv_python: Install Python 3.12",
        "uv_python: Create the virtual environment",
        "uv_python: Install the packages",
    },
}
# Handlers, which belong to the change of the files; and the archive, which may lie in the test hosts' common cache.
FOLLOWERS = (
    ": Make the store of trusted authorities",
    ": Fetch uv's release archive",
    ": Read the units of",
    ": Start the timer of",
    ": Stop the timer of",
    ": Forget that",
)


def in_the_runs_words(announced: set[str]) -> set[str]:
    return {done for one in announced for done in IN_WORDS.get(one, {one})}


def test_check_mode_on_a_bare_host_says_what_the_run_then_does(host: Any, again: Callable[..., Any]) -> None:
    """Bare but for the data and the group, which the last uninstall left."""
    announced = again("--check", playbook=SITE)
    assert announced.ok, announced.sentence
    done = again(playbook=SITE)
    assert done.ok, done.sentence
    real = {one for one in done.changes if not any(word in one for word in FOLLOWERS)}
    assert in_the_runs_words(announced.changes) == real


def test_uninstall_with_the_data_leaves_the_host_as_it_was(host: Any, again: Callable[..., Any]) -> None:
    assert host.file("/srv/ml/data/torch_starter/model.bin").content_string == "weights\n"
    run = again(playbook=UNINSTALL, uninstall_consent=True, ml_cache_remove_data=True)
    assert run.ok, run.sentence
    assert differences(read(host, "before"), snapshot(host)) == []
