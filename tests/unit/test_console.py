"""The calm console: its text from states, and its behaviour on a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.gpufleet.host.plugins.plugin_utils.console import HINTS, Console, clean, cut, elapsed, hint_of

ROOT = Path(__file__).resolve().parents[2]


def console(*names: str) -> Console:
    made = Console(begun=0.0)
    made.expects(list(names))
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (0, "0:00"), (7.9, "0:07"), (751, "12:31"), (3723, "1:02:03"), (360000, "100:00:00")],
)
def test_time_is_told_as_on_a_clock(seconds: float, text: str) -> None:
    assert elapsed(seconds) == text


def test_a_host_at_work_shows_role_task_time_and_why_it_takes_long() -> None:
    made = console("gpu01")
    made.task("nvidia_driver", 10)
    made.begins("gpu01", "Install the packages", 10)
    assert made.frame(120, 24, 10.4) == ["⠋ gpu01  nvidia_driver: Install the packages", "  0:10"]
    assert made.frame(120, 24, 161, 1) == [
        "⠙ gpu01  nvidia_driver: Install the packages  2:31  (DKMS builds the module for each kernel: minutes)",
        "  2:41",
    ]
    made.ends("gpu01", changed=True)
    assert made.frame(120, 24, 162) == ["  2:42"]


def test_each_hint_is_for_a_task_that_there_is() -> None:
    """Without its role in this checkout a hint is for one to come."""
    for role, words, hint in HINTS:
        tasks = "".join(path.read_text() for path in (ROOT / "roles" / role).glob("tasks/*.yml"))
        if tasks:
            assert re.search(rf"name: .*{words}", tasks, re.IGNORECASE), (role, words)
        assert hint_of(role, words.upper()) == hint
    assert hint_of("uv_python", "Look at the host") == ""


def test_a_role_that_is_done_leaves_one_line() -> None:
    made = console("gpu01")
    assert made.task("preflight", 0) == []
    made.begins("gpu01", "Look", 0)
    made.ends("gpu01")
    assert made.task("nvidia_driver", 3) == ["  preflight            0:03  as wished"]
    # The driver's role imports preflight's look: that is no new role.
    assert made.task("preflight", 4) == []
    assert made.role == "nvidia_driver"
    made.ends("gpu01", changed=True)
    made.ends("gpu01", changed=True)
    assert made.task("", 5) == []
    assert made.role_ends(65) == ["  nvidia_driver        1:02  2 changed"]
    assert made.role_ends(66) == []


def test_many_hosts_fit_and_those_at_it_for_longest_come_first() -> None:
    names = [f"gpu{number:02d}" for number in range(50)]
    made = console(*names)
    made.task("uv_python", 0)
    for number, name in enumerate(names):
        made.begins(name, "Install the packages", 50 - number)
    lines = made.frame(100, 24, 60)
    assert len(lines) == 14
    assert "gpu49" in lines[0]
    assert lines[-2:] == ["  and 38 more hosts", "  1:00, 50 of 50 hosts at work"]
    assert len(made.frame(100, 8, 60)) <= 4
    made.ends("gpu49", "failed", "no")
    assert made.frame(100, 24, 60)[-1] == "  1:00, 49 of 50 hosts at work, 1 FAILED"
    made.begins("gpu49", "Go back", 61)  # rescued
    assert "FAILED" not in made.frame(100, 24, 62)[-1]
    made.ends("gpu00", changed=True)
    made.ends("gpu01", "failed", "no")
    assert made.role_ends(70) == ["  uv_python            1:10  changed on 1 of 50 hosts, FAILED on 1 host"]


def test_no_line_wraps_and_no_text_moves_the_cursor() -> None:
    made = console("gpu\x1b[2J01")
    made.task("nvidia_driver", 0)
    made.begins("gpu\x1b[2J01", "x\n\x1b[10Ay" + "z" * 500, 0)
    for line in made.frame(40, 24, 5):
        assert len(line) < 40
        assert not re.search(r"[\x00-\x1f]", line)
    assert clean("a\x1b]0;t\x07b\r\n") == "a ]0;t b"
    assert cut("abcdef", 5) == "abc…"


def test_the_summary_of_one_host_is_its_own() -> None:
    made = console("gpu01")
    made.says("gpu01", "gpu01: Debian\ntorch     2.14\nprobe     PASS: fine")
    made.ends("gpu01", changed=True)
    assert made.summary(80, 24, 192, set(), set()) == [
        "gpu01: Debian",
        "torch     2.14",
        "probe     PASS: fine",
        "well: 1 host in 3:12, 1 changed",
    ]


def test_the_summary_of_a_fleet_fits_a_screen_with_the_worst_on_top() -> None:
    names = [f"gpu{number:02d}" for number in range(50)]
    made = console(*names)
    for name in names:
        made.measured(name, "pass", "8 GPUs computed right")
    made.measured("gpu30", "warn", "GPU 5 is slow")
    made.task("nvidia_driver", 0)
    made.begins("gpu07", "Install the packages", 0)
    made.ends("gpu07", "failed", "E: no space left")
    made.ends("gpu08", "unreachable", "timed out")
    made.ends("gpu09", "failed", "rescued later")
    lines = made.summary(100, 24, 751, {"gpu07"}, {"gpu08"})
    assert len(lines) <= 22
    assert lines[0] == "gpu08  UNREACHABLE  timed out"
    assert lines[1] == "gpu07  FAILED       nvidia_driver: Install the packages: E: no space left"
    assert lines[2] == "gpu30  warn         GPU 5 is slow"
    assert lines[-2] == "and 32 more hosts"
    assert lines[-1] == "1 failed, 1 unreachable: 50 hosts in 12:31, 0 changed"


def test_a_rest_that_failed_is_counted() -> None:
    names = [f"gpu{number:02d}" for number in range(50)]
    made = console(*names)
    lines = made.summary(100, 10, 1, set(names), set())
    assert lines[-2] == "and 46 more hosts, 46 of them failed"


# --- on a terminal ---------------------------------------------------------------------------------------------------

PLAYBOOK = """
- name: Provision
  hosts: all
  gather_facts: false
  roles: [first, second]
  post_tasks:
    - name: Summary
      ansible.builtin.debug: {msg: "{{ inventory_hostname }} is ready"}
"""
FIRST = """
- name: Work for a while
  ansible.builtin.command: sleep 2.2
  changed_when: true
- name: Warn
  ansible.builtin.debug: {msg: "{{ 'a word to say' }}"}
"""
SECOND = """
- name: Refuse
  ansible.builtin.fail:
    msg: |
      first line of the reason
      second line of the reason
  when: inventory_hostname == 'bad'
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for role, tasks in (("first", FIRST), ("second", SECOND)):
        (tmp_path / f"roles/{role}/tasks").mkdir(parents=True)
        (tmp_path / f"roles/{role}/tasks/main.yml").write_text(tasks)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    return tmp_path


def command_of(project: Path, names: list[str]) -> list[str]:
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"hosts": dict.fromkeys(names), "vars": shared}}
    (project / "hosts.json").write_text(json.dumps(inventory))
    playbook = str(Path(sys.executable).parent / "ansible-playbook")
    return [playbook, "-i", str(project / "hosts.json"), str(project / "play.yml")]


def environment_of(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    calm = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "gpufleet.host.calm"}
    return {**kept, **calm, "TERM": "xterm", "ANSIBLE_NOCOLOR": "1", **more}


def typed(command: list[str], environment: dict[str, str], kill_after: float = 0) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of 100 x 30; return its status and all that it wrote."""
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", "100", "rows", "30"], stdin=slave, check=True)
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    said, begun = b"", time.monotonic()
    while time.monotonic() - begun < 120:
        if kill_after and time.monotonic() - begun > kill_after:
            process.send_signal(signal.SIGINT)  # what Ctrl-C sends
            kill_after = 0
        if select.select([master], [], [], 0.2)[0]:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            said += piece
    os.close(master)
    return process.wait(30), said.decode()


def screen_of(text: str) -> list[str]:
    """What a terminal then shows: the few sequences that the console uses, and no others."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif part == "\x1b[J":
            lines[row] = lines[row][:column]
            del lines[row + 1 :]
        elif part.startswith("\x1b["):
            assert part.endswith("A"), part
            row = max(0, row - int(part[2:-1] or 1))
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_one_host_on_a_terminal(project: Path) -> None:
    code, said = typed(command_of(project, ["box"]), environment_of())
    assert code == 0, said
    assert re.search(r"box  first: Work for a while  0:0[1-9]", said)  # it beat while the task worked
    shown = screen_of(said)
    text = "\n".join(line for line in shown if line)
    assert re.fullmatch(
        r"Provision\na word to say\n  first +0:\d\d  1 changed\n  second +0:\d\d  as wished\n"
        r"box is ready\nwell: 1 host in 0:\d\d, 1 changed",
        text,
    ), text


def test_an_error_is_shown_in_full_and_stays(project: Path) -> None:
    log = project / "site.log"
    code, said = typed(command_of(project, ["bad", "good"]), environment_of(ANSIBLE_LOG_PATH=str(log)))
    assert code == 2, said
    text = "\n".join(screen_of(said))
    assert "TASK [second : Refuse]" in text
    assert "fatal: [bad]: FAILED!" in text
    assert text.count("second line of the reason") >= 1
    assert "bad   FAILED" in text
    assert "good  ok" in text
    assert "1 failed: 2 hosts in" in text
    assert not re.search("[⠋⠙⠸⠴⠦⠇]", text)  # nothing of what moved is left
    logged = log.read_text()
    for words in ("TASK [first : Work for a while]", "changed: [good]", "second line of the reason", "a word to say"):
        assert words in logged
    assert "⠋" not in logged


def test_a_run_that_is_stopped_leaves_a_clean_screen(project: Path) -> None:
    _, said = typed(command_of(project, ["box"]), environment_of(), kill_after=3)
    assert not re.search("[⠋⠙⠸⠴⠦⠇]", "\n".join(screen_of(said)))


def test_without_a_terminal_it_is_the_default(project: Path) -> None:
    (project / "roles/first/tasks/main.yml").write_text(FIRST.replace("2.2", "0"))
    said = {}
    for callback in ("gpufleet.host.calm", "ansible.builtin.default"):
        environment = environment_of(ANSIBLE_STDOUT_CALLBACK=callback)
        done = subprocess.run(
            command_of(project, ["bad"]), env=environment, capture_output=True, text=True, check=False
        )
        said[callback] = re.sub(r"(start|end|delta): .*", r"\1", done.stdout + done.stderr)
    assert said["gpufleet.host.calm"] == said["ansible.builtin.default"]
    assert "TASK [second : Refuse]" in said["gpufleet.host.calm"]


def test_asked_for_everything_it_is_the_default(project: Path) -> None:
    (project / "roles/first/tasks/main.yml").write_text(FIRST.replace("2.2", "0"))
    _, said = typed([*command_of(project, ["box"]), "-v"], environment_of())
    assert "TASK [first : Work for a while]" in said
    assert "\x1b[J" not in said
