"""A headless Chromium that tests drive by the DevTools protocol, over two pipes.

Nothing beside the browser is needed. A test skips with a reason where there is no Chromium.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIMIT_S = 90.0  # for an answer, so that a broken browser fails instead of hanging
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35}
KEYS |= {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}


class Tab:
    """A page in the browser, with what it logged and what it tried to fetch."""

    def __init__(self, browser: subprocess.Popen[bytes], read: int, write: int) -> None:
        self.browser, self.read, self.write = browser, read, write
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + LIMIT_S
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.read, 1 << 20)
            assert part, f"the browser ended with {self.browser.poll()}"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def open(self, path: Path, place: str = "") -> None:
        """Loads a file and waits for it; ``place``: from "#" on."""
        for address in ("about:blank", path.as_uri() + place):  # the first leaves nothing behind
            self.events.clear()
            self.ask("Page.navigate", url=address)
            while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
                self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; the page then has time to follow."""
        wrapped = (
            f"(async () => {{ const value = await ({script}); "
            f"await new Promise((done) => setTimeout(done, 30)); return value; }})()"
        )
        return self._value(expression=wrapped, awaitPromise=True)

    def state(self, script: str) -> Any:
        """The value of a JavaScript expression at once, of a page that runs no program too."""
        return self._value(expression=script)

    def _value(self, **params: Any) -> Any:
        found = self.ask("Runtime.evaluate", returnByValue=True, **params)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other."""
        for key in keys:
            fields = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **fields, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **fields)

    def mouse(self, left: float, top: float, *, click: bool = False) -> None:
        """Moves the mouse to a place in the window, and clicks there."""
        place = {"x": left, "y": top}
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            button = {"button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **place, **button)

    def tap(self, left: float, top: float) -> None:
        """Taps with a finger at a place in the window."""
        self.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": left, "y": top}])
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def look(
        self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False
    ) -> None:
        """Sets the size of the window, and the colour scheme that the reader prefers."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.ask("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """Writes what the window shows, or the whole page, as PNG."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    @property
    def faults(self) -> list[str]:
        """Errors and warnings that the page caused since it was opened."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            if event.get("method") == "Runtime.consoleAPICalled":
                found.append(str(params["args"]))
            if event.get("method") == "Log.entryAdded":
                found.append(params["entry"]["text"])
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself included, pictures in the page excluded."""
        found = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [address for address in found if not address.startswith("data:")]


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A browser with one page; ended afterwards. Skips the test where there is no Chromium."""
    if PROGRAM is None:
        pytest.skip("needs Chromium, which is not installed")
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
    ]
    # the browser reads from its descriptor 3 and writes to 4
    moved = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    browser = subprocess.Popen(
        ["bash", "-c", moved, "bash", PROGRAM, *arguments],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Tab(browser, read, write)
    finally:
        os.close(write)  # ends the browser
        os.close(read)
        try:
            browser.wait(20)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
