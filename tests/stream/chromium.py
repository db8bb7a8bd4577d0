"""A headless Chromium, driven over its DevTools protocol (chromedevtools.github.io)."""

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

LONGEST_S = 30.0
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]


class Tab:
    """One page of the browser.

    Attributes:
        problems: what the browser said of errors in the page.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._asked = 0
        self.problems: list[str] = []
        for domain in ("Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its answer."""
        self._asked += 1
        self._connection.send(
            json.dumps({"id": self._asked, "method": method, "params": parameters})
        )
        while True:
            said = json.loads(self._connection.recv(timeout=LONGEST_S))
            if said.get("id") == self._asked:
                assert "error" not in said, said
                return said["result"]
            if said["method"] in ("Log.entryAdded", "Runtime.exceptionThrown") or (
                said["method"] == "Runtime.consoleAPICalled"
            ):
                self.problems.append(json.dumps(said["params"]))

    def open(self, url: str, width: int, height: int, scheme: str = "dark") -> None:
        """Show a page in a window of so many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What some JavaScript gives."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until some JavaScript gives something true, and return that."""
        until_s = time.monotonic() + LONGEST_S
        while True:
            value = self.value(expression)
            if value:
                return value
            assert time.monotonic() < until_s, f"never true: {expression}"
            time.sleep(0.05)

    def press(self, key: str, code: int) -> None:
        """A key with its Windows key code."""
        for kind in ("keyDown", "keyUp"):
            text = key if kind == "keyDown" and len(key) == 1 else ""
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code
            )

    def click(self, x: float, y: float) -> None:
        """The left button, in CSS pixels of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@contextmanager
def chromium() -> Iterator[Tab]:
    """A browser with one empty page; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    # Its helpers may still write when it ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [program, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        log = Path(folder) / "log"
        with log.open("w") as file:
            browser = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            with connect(_first_page(log), max_size=None, compression=None) as connection:
                yield Tab(connection)
        finally:
            browser.terminate()
            browser.wait(LONGEST_S)


def _first_page(log: Path) -> str:
    """The address of the first page's debugger, from what the browser says when it starts."""
    until_s = time.monotonic() + LONGEST_S
    while time.monotonic() < until_s:
        match = re.search(r"DevTools listening on ws://([^/]+)/", log.read_text())
        if match is not None:
            with urllib.request.urlopen(f"http://{match[1]}/json/list") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError(f"the browser did not start: {log.read_text()[-2000:]}")
