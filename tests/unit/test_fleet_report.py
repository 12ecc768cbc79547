"""The fleet's report: from records to data, JUnit, Prometheus and a screen. The page has a test of its own."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fleet_records
import jsonschema  # type: ignore[import-untyped]
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpufleet.host.plugins.module_utils.host_record import (
    RECORD,
    actions_of,
    probe_brief,
    record_of,
    versions_of,
)
from ansible_collections.gpufleet.host.plugins.modules import host_record
from ansible_collections.gpufleet.host.plugins.plugin_utils import fleet
from fleet_records import NOW, record, result

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs/fleet.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
filters = importlib.import_module("ansible_collections.gpufleet.host.plugins.filter.fleet")


def report(results: Any) -> dict[str, Any]:
    made: dict[str, Any] = fleet.fleet_report(results, NOW, "0.2.0")
    VALIDATOR.validate(made)
    return made


def host_of(made: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(host for host in made["hosts"] if host["name"] == name)
    return found


def notes_of(made: dict[str, Any], name: str, kind: str) -> list[str]:
    return [note["text"] for note in host_of(made, name)["notes"] if note["kind"] == kind]


def walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from walk(inner)


def test_the_committed_schema_is_the_codes() -> None:
    """To make it anew: python -c 'import json; ...fleet.schema()' as docs/data.md says."""
    assert json.loads(SCHEMA.read_text()) == fleet.schema()


def test_three_hosts_at_a_glance() -> None:
    made = report(fleet_records.small_fleet())
    assert {host["name"]: (host["state"], host["status"]) for host in made["hosts"]} == {
        "gpu01": ("ok", "pass"),
        "gpu02": ("ok", "fail"),
        "gpu03": ("unreachable", "unreachable"),
    }
    assert (made["status"], made["counts"]) == ("fail", {"fail": 1, "unreachable": 1, "pass": 1})
    speed = host_of(made, "gpu02")["speed"]
    assert (speed["dtype"], speed["unit"], speed["basis"]) == ("bf16", "TFLOP/s", "reference")
    assert speed["ratio"] == pytest.approx(0.8636, abs=1e-3)  # the lowest of its eight
    assert [gpu["status"] for gpu in speed["gpus"]].count("fail") == 1
    assert "GPU 5" in notes_of(made, "gpu02", "straggler")[0]
    assert "16 equal GPUs in the fleet" in notes_of(made, "gpu02", "straggler")[0]


@pytest.mark.parametrize(
    ("found", "state", "status", "words"),
    [
        ({"unreachable": True, "msg": "Task failed: timed out"}, "unreachable", "unreachable", "timed out"),
        (None, "unreachable", "unreachable", "no answer"),
        ({"failed": True, "msg": "MODULE FAILURE"}, "bad_record", "error", "MODULE FAILURE"),
        ({"state": "no_record", "why": "run `site` there", "record": None}, "no_record", "no_record", "run `site`"),
        ({"state": "bad_record", "why": "is not JSON", "record": None}, "bad_record", "error", "is not JSON"),
        ({"state": "no such state", "msg": "odd"}, "bad_record", "error", "odd"),
        ({"state": "ok", "record": None}, "ok", "unknown", "no measurement"),
        ({"state": "ok", "record": [1, 2]}, "ok", "unknown", "no measurement"),
    ],
)
def test_a_host_without_a_record_is_in_the_report(found: Any, state: str, status: str, words: str) -> None:
    made = report({"good": result(record("no_gpu", driver="")), "odd": found})
    host = host_of(made, "odd")
    assert (host["state"], host["status"]) == (state, status)
    assert words in host["summary"]
    assert host_of(made, "good")["status"] == "pass"


def test_drift_is_what_most_equal_hosts_have_otherwise() -> None:
    made = report(
        {f"n{i}": result(record("peers_1", driver="570.172.08" if i == 2 else "580.178.04")) for i in range(4)}
    )
    assert notes_of(made, "n2", "drift") == ["driver is 570.172.08 here and 580.178.04 on 3 of 4 such hosts"]
    assert notes_of(made, "n0", "drift") == []
    assert host_of(made, "n2")["status"] == "pass"  # it computes; that it differs is to know
    pair = report({f"n{i}": result(record("peers_1", driver=f"580.0.{i}")) for i in range(2)})
    assert notes_of(pair, "n0", "drift") == []  # of two nobody knows which has drifted
    mixed = report(
        {"a": result(record("peers_1")), "b": result(record("rtx4090", driver="570.1")), "c": result(record("peers_1"))}
    )
    assert notes_of(mixed, "b", "drift") == []


def test_stale_reboot_left_and_rolled_back_are_to_know() -> None:
    plan = {
        "changes": ["Install the NVIDIA driver 580"],
        "warnings": ["W"],
        "driver": {"reboot": {"required": True, "reasons": [{"code": "loaded_differs", "text": "loaded is 570"}]}},
    }
    upgrade = {
        "schema": 1,
        "status": "rolled_back",
        "reason": "software.kernel: no.",
        "time": NOW,
        "before": {"user_space": "570.1"},
        "after": {"user_space": "570.1"},
    }
    made = report(
        {
            "a": result(record("h100_x8", days=40, plan=plan), upgrade),
            "b": result(record("h100_x8"), {**upgrade, "status": "begun"}),
            "c": result(record("h100_x8"), {**upgrade, "status": "done"}),
        }
    )
    kinds = {note["kind"]: note["text"] for note in host_of(made, "a")["notes"]}
    assert kinds["stale"] == "the record is 85 days old"
    assert kinds["reboot"] == "a reboot is due: loaded is 570"
    assert kinds["left"] == "left to do: Install the NVIDIA driver 580"
    assert kinds["upgrade"] == "the last upgrade failed and was rolled back, driver 570.1 is back: software.kernel: no."
    assert host_of(made, "a")["status"] == host_of(made, "b")["status"] == "warn"
    assert (host_of(made, "c")["status"], notes_of(made, "c", "upgrade")) == ("pass", [])


def test_a_straggler_that_nobody_sees_in_its_host_worsens_its_verdict() -> None:
    made = report({f"n{i}": result(record("peers_1", 0.915 if i == 3 else 1.0)) for i in range(5)})
    assert [host["status"] for host in made["hosts"]] == ["pass", "pass", "pass", "warn", "pass"]
    assert "of the median of 5 equal GPUs" in notes_of(made, "n3", "straggler")[0]


def test_a_cap_explains_all_products() -> None:
    made = report({"a": result(record("peers_1")), "b": result(record("peers_1")), "c": result(record("h100_capped"))})
    assert host_of(made, "c")["status"] == "explained"
    assert all("capped by configuration" in text for text in notes_of(made, "c", "straggler"))
    assert "capped by configuration" in notes_of(made, "c", "problem")[0]


def test_a_fleet_of_the_past_is_read_too() -> None:
    """0.1.0 recorded a status and a path and no numbers."""
    old = record("h100_x8")
    old = {**old, "collection": "0.1.0", "probe": {"status": "warn", "path": "/var/lib/gpufleet/probe.json"}}
    for name in ("versions", "actions", "rebooted"):
        del old[name]
    host = host_of(report({"old": result(old)}), "old")
    assert (host["status"], host["versions"]["after"]["driver"], host["system"]["gpus"]) == ("warn", "580.178.04", 8)
    assert host["versions"]["before"]["driver"] is None


def test_only_what_is_named_leaves_a_host() -> None:
    """A canary in every field that the shape does not name, and in texts as a secret: none is in any rendering."""
    canary = "c4nary-Zq7xW1v9"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                **{name: poison(inner) for name, inner in value.items()},
                "env": {"HF_TOKEN": canary},
                canary: canary,
            }
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return value

    found = poison(record("h100_x8_straggler"))
    found["probe"]["summary"] = f"https://user:{canary}@index.example failed with HF_TOKEN={canary}"
    found["plan"]["changes"] = [f"export PASSWORD='{canary}'"]
    found["probe"]["checks"][0]["message"] = f"Authorization: Bearer {canary}"
    raw = {"state": "ok", "record": record_of(found, {"status": "rolled_back", "reason": f"token={canary}"})}
    assert canary not in json.dumps(raw)  # it does not even cross the wire
    hostile = {"state": "ok", "why": canary * 99, "record": poison(raw["record"])}  # the host's module may be a lie
    made = report({"a": raw, "b": hostile})
    for text in (json.dumps(made), *renderings(made)):
        assert canary not in text.replace(canary * 2, "")
    assert "(redacted)" in json.dumps(made)


def test_the_names_of_a_host_are_a_short_list() -> None:
    """What a report may hold is reviewed here: a new name has to be added by hand."""
    assert set(RECORD.of) == {
        "time",
        "collection",
        "system",
        "versions",
        "actions",
        "left",
        "warnings",
        "reboot",
        "upgrade",
        "probe",
    }
    assert set(RECORD.schema()["properties"]["system"]["properties"]) == {
        "hostname",
        "pretty_name",
        "architecture",
        "virtualization",
        "cpu",
        "vcpus",
        "memory_bytes",
        "gpus",
        "device_ids",
    }
    assert set(fleet.HOST.of) - set(RECORD.of) == {"name", "state", "status", "summary", "age_days", "speed", "notes"}


def renderings(made: dict[str, Any]) -> list[str]:
    page = importlib.import_module("ansible_collections.gpufleet.host.plugins.plugin_utils.fleet_html")
    return [page.render_html(made), filters.fleet_junit(made), filters.fleet_prometheus(made), *fleet.lines_of(made)]


HOSTILE: list[Any] = [
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, "", "\x00\x1b[31m", "</script><script>", "\ud800",
    "x" * 100_000, [], [[]], [None], {}, {"a": {}}, [{"dtype": {}}], {"status": "fail"}, [{"status": []}],
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from _places(inner, (*path, name))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from _places(value[0], (*path, 0))


def test_nothing_that_a_host_sends_breaks_the_report() -> None:
    """Every field of a record in turn is replaced by what it never is."""
    good = result(record("h100_x8_straggler"))
    good["record"]["probe"]["gpus"] = good["record"]["probe"]["gpus"][5:6]
    other = copy.deepcopy(good)
    count = 0
    for number, path in enumerate(_places(good["record"])):
        bad = copy.deepcopy(good)
        place = bad["record"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = HOSTILE[number % len(HOSTILE)]
        made = report({"bad": bad, "good": other})
        renderings(made)
        json.dumps(made, allow_nan=False)
        count += 1
    assert count > 100
    for odd in HOSTILE:
        for name in ("facts", "plan", "probe", "versions", "actions"):
            report({"bad": result({**record("no_gpu", driver=""), name: odd}), "good": other})
        report({"bad": result(odd, odd), "worse": {"state": "ok", "record": odd}, "worst": odd})


def test_texts_are_on_one_line_and_bounded() -> None:
    found = record("h100_x8_straggler")
    found["probe"]["checks"][0]["message"] = "a\nb\x1b[31m\u202ec\u0000" + "x" * 10_000
    host = host_of(report({"a": result(found)}), "a")
    message = host["probe"]["checks"][0]["message"]
    assert message.startswith("a b\ufffd[31m\ufffdc\ufffdxx")
    assert len(message) <= 400


def test_what_is_clean_stays_as_it_is() -> None:
    brief = probe_brief(fleet_records.report("h100_x8_straggler"), "/x.json")
    assert probe_brief(brief) == brief
    assert len(json.dumps(brief)) < 20_000  # of 330 kB
    cleaned = record_of(record("h100_x8_straggler"))
    assert {**RECORD.clean(cleaned), "probe": probe_brief(cleaned["probe"])} == cleaned


def test_many_bad_checks_are_counted() -> None:
    checks = [{"id": f"x.{i}", "status": "warn", "message": "m"} for i in range(60)]
    checks.append({"id": "bad", "status": "fail", "message": "m"})
    brief = probe_brief({"status": "fail", "checks": checks})
    assert (len(brief["checks"]), brief["checks_left_out"], brief["checks"][0]["id"]) == (40, 21, "bad")
    assert probe_brief(brief) == brief
    assert "and 21 more such verdicts" in json.dumps(report({"a": {"state": "ok", "record": {"probe": brief}}}))


def test_actions_are_what_is_no_longer_to_do() -> None:
    assert actions_of(["a", "b"], ["b"]) == ["a"]
    assert actions_of(None, [1]) == []


def test_versions_come_from_the_facts() -> None:
    versions = versions_of(record("h100_x8")["facts"])
    assert (versions["driver"], versions["python"]) == ("580.178.04", "3.12.13")
    assert versions_of(None)["driver"] is None


def test_junit_has_a_suite_a_host_and_no_skip_is_a_pass() -> None:
    made = report(fleet_records.large_fleet(64))
    suites = ElementTree.fromstring(filters.fleet_junit(made).encode())  # noqa: S314 - our own
    assert len(suites) == 64
    by_name = {suite.get("name"): suite for suite in suites}
    assert by_name["gpufleet on gpu0000.lab.example"].get("failures") == "0"
    assert int(str(by_name["gpufleet on gpu0003.lab.example"].get("failures"))) > 0
    assert by_name["gpufleet on gpu0007.lab.example"].get("errors") != "0"  # unreachable
    assert by_name["gpufleet on gpu0017.lab.example"].get("skipped") != "0"  # no record


def test_prometheus_has_every_host_and_no_line_twice() -> None:
    made = report(fleet_records.large_fleet(64))
    lines = filters.fleet_prometheus(made).splitlines()
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))
    assert all(re.fullmatch(r'gpu_probe_\w+\{host="[^"]+"(,\w+="(?:[^"\\]|\\.)*")*\}', line) for line in series)
    assert 'gpu_probe_status{host="gpu0003.lab.example",status="fail",profile="quick"} 1' in lines
    assert 'gpu_probe_status{host="gpu0007.lab.example",status="error",profile=""} 1' in lines
    assert not [line for line in lines if "timestamp" in line and "gpu0007" in line]  # it has no time
    assert len([line for line in lines if line.startswith("# TYPE gpu_probe_status ")]) == 1


def test_a_thousand_hosts_are_compared_quickly_and_fit_a_screen() -> None:
    results = fleet_records.large_fleet(1000)
    begun = time.process_time()
    lines = fleet.lines_of(fleet.fleet_report(results, NOW, "0.2.0"))
    assert time.process_time() - begun < 20
    assert len(lines) < 30
    assert ": FAIL  " in lines[0]  # the worst first
    assert lines[-1].startswith("1000 hosts: 30 fail, ")
    assert any("more hosts with something to know" in line for line in lines)


def test_wrong_input_names_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match="fleet_documents"):
        filters.fleet_documents([], NOW, "0.2.0")
    empty = filters.fleet_documents({}, NOW, "0.2.0")
    assert json.loads(empty["json"])["hosts"] == []
    assert empty["lines"] == ["0 hosts: none"]


# --- the module ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "shown"),
    [("2026-11-26T02:00:00Z", "fail"), ("2026-11-01T02:00:00Z", "pass"), (None, "pass"), (["2027"], "pass")],
)
def test_the_timers_measurement_is_shown_where_it_is_the_later_one(tmp_path: Path, started: Any, shown: str) -> None:
    (tmp_path / "record.json").write_text(json.dumps(record("h100_x8")))
    later = fleet_records.report("h100_x8_straggler") | {"started_at": started}
    (tmp_path / "probe_timer.json").write_text(json.dumps(later))
    found = host_record.look(str(tmp_path))["record"]["probe"]
    assert found["status"] == shown
    assert found["path"].endswith("/probe_timer.json" if shown == "fail" else "/probe.json")


def test_a_damaged_measurement_of_the_timer_hides_no_record(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(record("h100_x8")))
    (tmp_path / "probe_timer.json").write_text("{")
    found = host_record.look(str(tmp_path))
    assert (found["state"], found["record"]["probe"]["status"]) == ("ok", "pass")


def test_the_module_reads_a_record(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(record("h100_x8")))
    found = host_record.look(str(tmp_path))
    assert (found["state"], found["record"]["probe"]["status"]) == ("ok", "pass")
    (tmp_path / "upgrade.json").write_text('{"status": "rolled_back"}')
    assert host_record.look(str(tmp_path))["record"]["upgrade"]["status"] == "rolled_back"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "state", "words"),
    [
        (lambda path: None, "no_record", "run `site` there"),
        (lambda path: _write(path, b"{"), "bad_record", "is not JSON"),
        (lambda path: _write(path, b"\xff\xfe\x00"), "bad_record", "is not JSON"),
        (lambda path: _write(path, b"[" * 100_000), "bad_record", "is not JSON"),
        (lambda path: _write(path, b"[]"), "bad_record", "is not a JSON object"),
        (lambda path: _write(path, b" " * (host_record.MOST_BYTES + 1)), "bad_record", "more than"),
        (os.mkfifo, "bad_record", "no regular file"),
        (Path.mkdir, "bad_record", "no regular file"),
    ],
)
def test_a_record_that_cannot_be_read_is_a_state(tmp_path: Path, make: Any, state: str, words: str) -> None:
    make(tmp_path / "record.json")
    found = host_record.look(str(tmp_path))
    assert (found["state"], found["record"]) == (state, None)
    assert words in found["why"]


# --- the playbook ----------------------------------------------------------------------------------------------------


def test_the_playbook_gathers_what_there_is_and_does_not_fail(tmp_path: Path) -> None:
    """The first host does not answer, which must not keep the rest from being written."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/record.json").write_text(json.dumps(record("h100_x8_straggler")))
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {
        "a-gone": {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_common_args": "-o BatchMode=yes"},
        "here": {**shared, "gpufleet_state_path": str(tmp_path / "state")},
        "new": {**shared, "gpufleet_state_path": str(tmp_path / "nowhere")},
    }
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), "--check"]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PWD": str(tmp_path)}
    done = subprocess.run(
        [*command, str(ROOT / "playbooks/report.yml")], capture_output=True, text=True, env=environment, cwd=tmp_path,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"changed=[1-9]", done.stdout)
    made = json.loads((tmp_path / "reports/fleet.json").read_text())
    VALIDATOR.validate(made)
    assert {host["name"]: host["status"] for host in made["hosts"]} == {
        "a-gone": "unreachable", "here": "fail", "new": "no_record"}  # fmt: skip
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {
        "fleet.json", "fleet.html", "fleet.xml", "fleet.prom"}  # fmt: skip


# --- records of older releases ---------------------------------------------------------------------------------------

OLDER = Path(__file__).parents[1] / "fixtures/records"


@pytest.mark.parametrize("name", [path.name for path in sorted(OLDER.glob("*.json"))])
def test_the_record_of_an_older_release_is_read(name: str, tmp_path: Path) -> None:
    """Written by the role torch_probe of that commit, on a test host."""
    written = json.loads((OLDER / name).read_text())
    (tmp_path / "record.json").write_text((OLDER / name).read_text())
    found = host_record.look(str(tmp_path))
    assert (found["state"], found["why"]) == ("ok", "")
    assert found["record"]["time"] == written["time"]
    assert found["record"]["collection"] == "0.1.0"
    assert found["record"]["system"]["pretty_name"] == "Debian GNU/Linux 13 (trixie)"
    assert found["record"]["versions"]["after"]["kernel"] == written["facts"]["system"]["kernel"]
    assert found["record"]["probe"]["status"] == written["probe"]["status"]
    # Beside a host of today, in one report.
    made = report({"old": {"changed": False, **found}, "new": result(record("h100_x8"))})
    assert host_of(made, "old")["time"] == written["time"]
