"""What a report becomes: text, JUnit, Prometheus, HTML, GitHub, exit codes; and what is kept of it as history."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from torch_probe import (
    beside,
    cli,
    history,
    judge,
    output,
    policy,
    render_github,
    render_html,
    render_junit,
    render_prometheus,
    render_text,
)
from torch_probe import report as reports
from torch_probe.checks import CATALOGUE
from torch_probe.history import History

HOSTS = Path(__file__).parents[1] / "fixtures" / "probe"
NAMES = sorted(path.stem for path in HOSTS.glob("*.json"))
Report = dict[str, Any]


@pytest.fixture
def report_of(tmp_path: Path) -> Any:
    def read(name: str, *options: str) -> Report:
        target = tmp_path / "report.json"
        cli.main(["--simulate", str(HOSTS / f"{name}.json"), "--json", str(target), "--format", "none", *options])
        found: Report = json.loads(target.read_text(encoding="utf-8"))
        return found

    return read


# ------------------------------------------------------------------------------------------------ JUnit


@pytest.mark.parametrize("name", NAMES)
def test_junit_has_a_case_a_check_and_skips_are_no_passes(report_of: Any, name: str) -> None:
    report = report_of(name)
    suite = ElementTree.fromstring(render_junit.render_junit(report).encode())  # noqa: S314 - our own
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert len(cases) == len(report["checks"]) == int(suite.get("tests") or 0)
    for check in report["checks"]:
        case = cases[check["id"] + (f" [{check['gpu']}]" if check["gpu"] else "")]
        tags = {child.tag for child in case}
        expected = {
            "pass": set(),
            "fail": {"failure"},
            "error": {"error"},
            "skipped": {"skipped"},
            "not_run": {"skipped"},
            "unknown": {"skipped"},
            "pending_reboot": {"skipped"},
        }
        assert tags == expected.get(check["status"], {"system-out"}), check
    for kind, statuses in (("failures", ["fail"]), ("errors", ["error"]), ("skipped", render_junit.SKIPPED)):
        assert int(suite.get(kind) or 0) == sum(check["status"] in statuses for check in report["checks"])


def test_junit_survives_what_xml_cannot_hold(report_of: Any) -> None:
    report = report_of("nvml_18")
    report["checks"][4].update(message='a \x00\x1b[31m & <b> "q" \ud800 message', remedy=None)
    suite = ElementTree.fromstring(render_junit.render_junit(report).encode())  # noqa: S314 - our own
    assert '& <b> "q"' in ElementTree.tostring(suite, encoding="unicode", method="text") or any(
        '& <b> "q"' in (child.get("message") or "") for child in suite.iter()
    )


# ------------------------------------------------------------------------------------------------ Prometheus

SERIES = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+)')


@pytest.mark.parametrize("name", NAMES)
def test_prometheus_lines_are_well_formed_and_unique(report_of: Any, name: str) -> None:
    report = report_of(name)
    seen: set[str] = set()
    typed: set[str] = set()
    for line in render_prometheus.render_prometheus(report).splitlines():
        if line.startswith("# TYPE"):
            typed.add(line.split()[2])
        if line.startswith("#"):
            continue
        found = SERIES.fullmatch(line)
        assert found, line
        assert found.group(1) in typed
        assert line.rpartition(" ")[0] not in seen
        seen.add(line.rpartition(" ")[0])
        float(found.group(3))
    verdicts = [line for line in seen if line.startswith("gpu_probe_check{")]
    assert len(verdicts) == len(report["checks"])
    assert f'gpu_probe_status{{status="{report["status"]}",profile="quick"}}' in seen


def test_a_skip_is_not_a_pass_in_prometheus(report_of: Any) -> None:
    text = render_prometheus.render_prometheus({**report_of("no_gpu"), "status": "skipped"})
    assert 'gpu_probe_status{status="skipped",profile="quick"} 1\n' in text
    assert 'gpu_probe_status{status="pass",profile="quick"} 0\n' in text
    assert 'gpu_probe_check{id="matmul.bf16.correct",gpu="",status="skipped"} 1\n' in text
    assert "gpu_probe_timestamp_seconds 1795521600\n" in text  # 2026-11-24T12:00:00Z, to the second


def test_prometheus_values_and_escapes(report_of: Any) -> None:
    report = report_of("peers_1")
    report["gpus"][0].update(uuid='GPU-"a\\b\n')
    text = render_prometheus.render_prometheus(report)
    labels = 'gpu="GPU-\\"a\\\\b\\n",dtype="bf16",mode="together"'
    assert f'gpu_probe_matmul_tflops{{{labels},kind="sustained"}} 780\n' in text
    assert f'gpu_probe_matmul_ratio{{{labels},baseline="reference"}} 0.9864\n' in text


# ------------------------------------------------------------------------------------------------ HTML, GitHub, text


class Page(HTMLParser):
    """Tags that are open, and every address."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_whole_fetches_nothing_and_says_the_verdict(report_of: Any, name: str) -> None:
    report = report_of(name)
    text = render_html.render_html(report)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert report["summary"] in page.words
    for check in report["checks"]:
        assert check["id"] in page.words
        if check["status"] in ("fail", "error"):
            assert check["message"] in page.words


def test_the_page_escapes_what_a_host_says(report_of: Any) -> None:
    report = report_of("peers_1")
    report["host"]["hostname"] = report["gpus"][0]["name"] = "<script>alert(1)</script>"
    assert "<script>" not in render_html.render_html(report)


def test_github_annotates_problems_on_one_line_each(report_of: Any) -> None:
    report = report_of("h100_x8_straggler")
    report["checks"][5].update(status="fail", message="100 %: a\nb", remedy="do\r\nit")
    lines = render_github.render_github(report).splitlines()
    errors = [line for line in lines if line.startswith("::error title=")]
    assert any("matmul.bf16.peers" in line for line in errors)
    assert any(line.endswith("::100 %25: a%0Ab. do%0D%0Ait") for line in errors)
    assert lines[-1] == "::endgroup::"


def test_the_text_line_of_a_gpu(report_of: Any) -> None:
    screen = render_text.render_text(report_of("h100_x8_straggler")).splitlines()
    assert screen[6] == (
        "GPU5 H100 80GB HBM3  bf16 682.9 TFLOP/s  86% of expected | 84% eff @1500 MHz | 690 W 58C | "
        "PCIe 5x16 55 GB/s | ECC ok | FAIL"
    )
    assert screen[-1].startswith("FAIL  8 GPUs: 7 pass, 1 fail; GPU 5: ")
    assert sum(line.startswith("      do: ") for line in screen) == 1  # one problem, though four rates are slow


# ------------------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("h100_x8", [], 0),
        ("peers_2", [], 0),
        ("peers_3", [], 1),
        ("h100_x8", ["--exit-style=nagios"], 0),
        ("peers_2", ["--exit-style=nagios"], 1),
        ("peers_3", ["--exit-style=nagios"], 2),
        ("no_gpu", ["--skip-exit-code=77"], 0),  # the CPU was measured: that is a pass
        ("no_gpu", ["--require-gpu"], 1),
        ("no_gpu", ["--require-gpu", "--exit-style=nagios"], 2),
        ("h100_x8", ["--expect-gpus=8"], 0),
        ("h100_x8", ["--expect-gpus=4"], 1),
    ],
)
def test_exit_codes(name: str, options: list[str], code: int) -> None:
    assert cli.main(["--simulate", str(HOSTS / f"{name}.json"), "--format=none", *options]) == code


@pytest.mark.parametrize(
    ("status", "code", "style", "skip", "expected"),
    [
        ("skipped", 0, "simple", 77, 77),
        ("skipped", 0, "nagios", 0, 0),
        ("error", 2, "simple", 0, 2),
        ("error", 2, "nagios", 0, 3),
        ("pending_reboot", 0, "nagios", 0, 1),
        ("pass", 0, "nagios", 77, 0),
    ],
)
def test_exit_styles(status: str, code: int, style: str, skip: int, expected: int) -> None:
    assert output.Outputs(exit_style=style, skip_exit_code=skip).exit_code(status, code) == expected


def test_every_file_is_written_and_readable_by_others(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("json", "junit", "prometheus", "html")}
    options = [f"--{name}={path}" for name, path in paths.items()]
    assert cli.main(["--simulate", str(HOSTS / "peers_3.json"), "--format=none", *options]) == 1
    assert {path.name for path in tmp_path.iterdir()} == set(paths)
    assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o644}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--simulate", "/nowhere/host.json"], "No such file"),
        (["--simulate", "{tmp}/list.json"], "is no JSON object"),
        (["--simulate", "{tmp}/odd.json"], "is no report of the probe"),
        (["--junit", "/nowhere/x.xml"], "the directory /nowhere does not exist"),
        (["--html", "/tmp"], "is a directory"),
        (["--reference", "/nowhere/table.json"], "No such file"),
        (["--policy", "/nowhere/policy.json"], "No such file"),
        (["--update-baseline", "on-pass"], "needs --baseline"),
        (["--skip-exit-code", "300"], "none of 0 to 255"),
    ],
)
def test_wrong_usage_is_2_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "odd.json").write_text('{"checks": [1]}')
    with pytest.raises(SystemExit) as stopped:
        cli.main([option.replace("{tmp}", str(tmp_path)) for option in options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ history


def probe(name: str, file: Path, factor: float = 1.0, mode: str = "on-pass", **changes: Any) -> Report:
    """Judge a recording, slower or faster by a factor, against the history in a file, and add it there."""
    recording = json.loads((HOSTS / f"{name}.json").read_text(encoding="utf-8"))
    recording.update(changes)
    for gpu in recording["gpus"]:
        for row in gpu["matmul"]:
            row["tflops"]["sustained"] *= factor
    changed, target = file.parent / "changed.json", file.parent / "out.json"
    changed.write_text(json.dumps(recording))
    options = ["--baseline", str(file), "--update-baseline", mode, "--json", str(target), "--format=none"]
    cli.main(["--simulate", str(changed), *options])
    report: Report = json.loads(target.read_text(encoding="utf-8"))
    return report


def row(report: Report, check_id: str) -> Report:
    found: Report = next(check for check in report["checks"] if check["id"] == check_id)
    return found


def test_a_gpu_is_held_against_its_own_past(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    assert row(probe("peers_1", file), "matmul.bf16.history")["status"] == "skipped"
    for factor in (1.0, 1.004, 0.997):
        assert row(probe("peers_1", file, factor), "matmul.bf16.history")["status"] == "pass"
    slow = row(probe("peers_1", file, 0.955), "matmul.bf16.history")
    assert (slow["status"], "its own median of 4 earlier passes" in slow["message"]) == ("warn", True)
    assert probe("peers_1", file, 0.955)["gpus"][0]["matmul"][2]["ratio"]["history"] == pytest.approx(0.955, abs=0.002)
    assert row(probe("peers_1", file, 0.89), "matmul.bf16.history")["status"] == "fail"
    # Runs that warned or failed moved nothing.
    assert len(next(iter(history.load(file).runs.values()))["matmul.bf16"]["values"]) == 4


def test_a_slow_creep_is_seen_against_the_best(tmp_path: Path) -> None:
    """Never more than 3 % a step, each of them a pass: the median follows, the best does not."""
    file = tmp_path / "history.json"
    statuses = [row(probe("peers_1", file, factor), "matmul.fp32.history") for factor in [0.98**n for n in range(8)]]
    assert [check["status"] for check in statuses][:4] == ["skipped", "pass", "pass", "pass"]
    assert any("the best it ever gave" in check["message"] for check in statuses if check["status"] == "warn")


@pytest.mark.parametrize(
    "change",
    [
        {"software": {"torch": "2.15.0", "driver": "580.95.05"}},
        {"software": {"torch": "2.14.1+cu130", "driver": "590.1"}},
        {"tool": {"profile": "standard"}},
    ],
)
def test_other_software_and_another_profile_are_another_past(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "history.json"
    probe("peers_1", file)
    assert row(probe("peers_1", file, 0.5, **change), "matmul.bf16.history")["status"] == "skipped"


def test_another_power_limit_is_another_past(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    probe("peers_1", file)
    assert row(probe("h100_capped", file), "matmul.bf16.history")["status"] == "skipped"
    # What has a known cause for being low is no baseline.
    assert all("400 W" not in key or "matmul.bf16" not in runs for key, runs in history.load(file).runs.items())


def test_a_first_pass_is_kept_and_never_moves(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    for factor in (1.0, 1.02, 1.04):
        probe("peers_1", file, factor, "if-missing")
    (runs,) = history.load(file).runs.values()
    assert runs["matmul.bf16"]["values"] == [780.0]


def test_never_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    probe("peers_1", file, 1.0, "never")
    assert not file.exists()


def test_bits_that_differ_from_earlier_passes_fail(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    probe("peers_1", file)
    recording = json.loads((HOSTS / "peers_1.json").read_text(encoding="utf-8"))
    recording["gpus"][0]["integrity"]["digest"] = "0000"
    check = row(probe("peers_1", file, gpus=recording["gpus"]), "integrity.history")
    assert check["status"] == "fail"
    assert row(probe("peers_1", file), "integrity.history")["status"] == "pass"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no history"),
        ('{"version": 1, "runs": {"GPU-1|torch', "no history"),  # torn
        ("[1, 2]", "no history"),
        ('{"runs": {}}', "no history"),
        ('{"version": 99, "runs": {}}', "newer version"),
        ('{"version": 1, "runs": {"k": {"matmul.bf16": {"values": ["x", null, 0, -1]}}}}', None),
        ('{"version": 0, "runs": {"k": {"matmul.bf16": [780, 781]}}}', None),  # before a best was kept
        ('{"version": 1, "runs": {"k": 5}}', "no history"),
        ("\ud800", None),
    ],
)
def test_a_torn_older_or_foreign_file_is_no_error(tmp_path: Path, text: str, problem: str | None) -> None:
    file = tmp_path / "history.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = history.load(file)
    assert problem is None or problem in (found.problem or "")
    report = probe("peers_1", file)
    check = row(report, "matmul.bf16.history")
    assert (report["status"], check["status"]) == ("pass", "skipped")
    if problem == "newer version":
        assert file.read_text() == text  # left alone
    else:
        assert history.load(file).problem is None
    older = history.History(dict(history._runs({"k": {"m": [780, 781]}}))).baseline("k", "m")
    assert older is not None
    assert (older.median, older.best, older.count) == (780.5, 781.0, 2)


def test_it_is_bounded() -> None:
    kept = History()
    for number in range(history.KEYS + 50):
        kept.add(f"GPU-{number}", {"matmul.bf16": 780.0}, "d")
    assert len(kept.runs) == len(kept.digests) == history.KEYS
    assert "GPU-0" not in kept.runs
    for number in range(100):
        kept.add("GPU-300", {"matmul.bf16": 700.0 + number})
    entry = kept.runs["GPU-300"]["matmul.bf16"]
    assert len(entry["values"]) == history.KEPT
    assert entry["best"] == 799.0


def test_noise_widens_the_limits() -> None:
    """A GPU that scatters by 2 % is not accused at 3 %."""
    noisy = History()
    for value in (760, 790, 775, 800, 770):
        noisy.add("k", {"m": float(value)})
    past = noisy.baseline("k", "m")
    assert past is not None
    assert 1 - policy.load()["noise.history"] * past.noise < policy.load()["warn.history"]


def test_the_history_has_no_uuid_of_nobody() -> None:
    assert history.key_of({"software": {}}, {"uuid": None}) is None


def test_rules_are_described() -> None:
    rules = judge.Rules()
    assert rules.describe()["policy"]["source"] == "builtin"
    assert copy.copy(rules.describe()["reference"])["version"] == "2026.11"


# ------------------------------------------------------------------------------------------------ beside

HERE = {"status": "pass", "gpus": [{"uuid": "GPU-1"}, {"uuid": "GPU-2"}]}


@pytest.mark.parametrize(
    ("there", "status", "words"),
    [
        ({"status": "pass", "gpus": [{"uuid": "GPU-2"}, {"uuid": "GPU-1"}]}, "pass", "says pass too"),
        ({"status": "warn", "gpus": HERE["gpus"]}, "pass", "says warn too"),
        ({"status": "fail", "summary": "no GPU", "gpus": HERE["gpus"]}, "fail", "the one beside it fail: no GPU"),
        ({"status": "pass", "gpus": [{"uuid": "GPU-1"}]}, "fail", "sees GPU-1, this one GPU-1, GPU-2"),
        ({"status": "skipped", "gpus": []}, "fail", "sees no GPU"),
        ("ended with 125 and no report: No such image", "fail", "No such image"),
    ],
)
def test_two_places_agree_or_the_run_fails(there: Any, status: str, words: str) -> None:
    check = beside.compare(HERE, there)
    assert (check.status, words in check.message) == (status, True), check.message
    assert bool(check.remedy) == (status == "fail")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/nowhere/docker run", "does not start"),
        ("sh -c 'echo no such image >&2; exit 125'", "ended with 125 and no report: no such image"),
        ("sh -c 'echo [1]'", "ended with 0 and no report: [1]"),
        ("sleep 30", "gave no answer within 1 s"),
    ],
)
def test_a_place_without_a_report_is_one_sentence(command: str, words: str) -> None:
    options = [] if command.startswith(("sh", "/")) else ["--for-sleep"]
    command = "sh -c 'sleep 30'" if options else command
    found = beside.probe(command, options, 1.0)
    assert isinstance(found, str)
    assert words in found


def test_a_place_gets_the_options_behind_its_own_words(tmp_path: Path) -> None:
    script = tmp_path / "stand in.sh"
    script.write_text('#!/bin/sh\nprintf \'{"status": "pass", "summary": "%s"}\' "$*"\n')
    script.chmod(0o755)
    found = beside.probe(f"'{script}' run --rm image", ["--profile", "quick"], 5.0)
    assert found == {"status": "pass", "summary": "run --rm image --profile quick --format none --json -"}


def test_the_published_schema_is_the_one_that_is_printed() -> None:
    """`files/torch_probe.py --schema > docs/probe.schema.json` after a change of the report."""
    published = json.loads((Path(__file__).parents[2] / "docs/probe.schema.json").read_text(encoding="utf-8"))
    assert published == reports.schema(list(CATALOGUE))
