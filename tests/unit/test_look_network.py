"""Addresses are asked for before anything changes; each way of not answering has its own words."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils._look_network import look_at_addresses


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        known = self.headers["Authorization"] == "Basic Y2k6aHVudGVyMg=="  # ci:hunter2
        self.send_response(
            {"/there": 200, "/private": 200 if known else 401, "/no-head": 405, "/old": 501}.get(self.path, 404)
        )
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/no-head" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the parent's name
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_answers_by_name(server: str, tmp_path: Path) -> None:
    here = tmp_path / "a file"
    here.touch()
    asked = {
        "there": f"{server}/there",
        "gone": f"{server}/gone",
        "private": f"{server}/private",
        "private, asked with the password": f"{server}/private".replace("//", "//ci:hunter%32@"),
        "without HEAD": f"{server}/no-head",
        "without HEAD, and gone": f"{server}/old",
        "file": here.as_uri(),
        "no file": (tmp_path / "none").as_uri(),
        "not set": "",
    }
    answers = look_at_addresses(asked, [])
    assert "hunter" not in repr(list(answers.values()))
    assert {name: answer["status"] for name, answer in answers.items()} == {
        "there": 200,
        "gone": 404,
        "private": 401,
        "private, asked with the password": 200,
        "without HEAD": 200,
        "without HEAD, and gone": 404,
        "file": 200,
        "no file": 404,
    }


def test_no_server_is_said_in_words() -> None:
    answer = look_at_addresses({"x": "https://127.0.0.1:1/"}, ["no certificate at all"])["x"]
    assert answer["status"] is None
    assert "refused" in answer["error"]


def test_nothing_asked_is_nothing_done() -> None:
    assert look_at_addresses({"x": ""}, []) == {}
