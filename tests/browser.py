"""A real browser for tests: Debian's chromium, spoken to by its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hosts.common import HostsError, need

_PATIENCE = 60.0


class BrowserError(Exception):
    """What the browser said, or that it said nothing."""


def missing() -> str:
    """Make sure that there is a browser; say in one sentence why there is none."""
    try:
        need("chromium")
    except HostsError as error:
        return str(error)
    return ""


class Page:
    """One page of a running browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._number, self._target, self._session, self._left = 0, "", "", b""
        self.messages: list[str] = []  # what the page said on its console, and what its policy refused
        self.requests: list[str] = []

    def open(self, path: Path, width: int = 1440, height: int = 900) -> None:
        """Load a file and wait until it is loaded."""
        if self._target:
            self.call("Target.closeTarget", targetId=self._target)
        self._target = target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)
        self.call("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + _PATIENCE
        while self.js("document.readyState") != "complete" or self.js("location.href") == "about:blank":
            if time.monotonic() > until:
                raise BrowserError(f"{path} was not loaded within {_PATIENCE:.0f} s")
            time.sleep(0.02)

    def size(self, width: int, height: int) -> None:
        """Set the size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, kind: str = "", scheme: str = "light") -> None:
        """Play `print` or the screen, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def key(self, key: str, code: str = "", text: str = "") -> None:
        """Press a key and let it go."""
        numbers = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
        common = {"key": key, "code": code or key, "windowsVirtualKeyCode": numbers.get(key, ord(key[0].upper()))}
        typed = {"text": text} if text else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click the middle of the first element of a selector, as a mouse does."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.js(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")
        place = (box[0] + box[2] / 2, box[1] + box[3] / 2)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def pdf(self) -> bytes:
        """Print."""
        answer = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer of the browser."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + _PATIENCE
        while True:
            for answer in self._read(until - time.monotonic()):
                self._note(answer)
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise BrowserError(f"{method}: {answer['error']}")
                    result: dict[str, Any] = answer["result"]
                    return result

    def _read(self, seconds: float) -> Iterator[dict[str, Any]]:
        if seconds <= 0 or not select.select([self._from], [], [], seconds)[0]:
            raise BrowserError(f"the browser said nothing for {_PATIENCE:.0f} s")
        piece = os.read(self._from, 1 << 20)
        if not piece:
            raise BrowserError("the browser has gone")
        *whole, self._left = (self._left + piece).split(b"\0")
        for text in whole:
            yield json.loads(text)

    def _note(self, answer: dict[str, Any]) -> None:
        method, what = answer.get("method"), answer.get("params", {})
        if method == "Log.entryAdded":
            self.messages.append(what["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(str([argument.get("value") for argument in what["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(what["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """Run a browser of its own, with an empty profile and without network."""
    if problem := missing():
        raise BrowserError(problem)
    read_end, to_browser = os.pipe()
    from_browser, write_end = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-background-networking"]
        options += ["--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"]
        command = shlex.join([shutil.which("chromium") or "chromium", *options])
        # The browser speaks on 3 and 4, whatever numbers the pipes have here; sh takes no numbers above 9.
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command} 3<&{read_end} 4>&{write_end}"],
            pass_fds=(read_end, write_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": profile},
        )
        os.close(read_end)
        os.close(write_end)
        try:
            yield Page(to_browser, from_browser)
        finally:
            os.close(to_browser)
            os.close(from_browser)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
