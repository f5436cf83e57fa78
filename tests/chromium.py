"""Pages in a real Chromium without a screen, through its DevTools protocol on a pipe: no driver, no port.

The protocol is one JSON message after another, each ended by a zero byte, on the browser's file descriptors
3 (to it) and 4 (from it); see https://chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def found() -> str | None:
    """Path of the browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


_IS_DRAWN = """canvas => {
  const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const heights = new Set();
  for (let i = 0; i < data.length; i += 4) {
    const [red, green, blue, opaque] = data.slice(i, i + 4);
    const vivid = Math.max(red, green, blue) - Math.min(red, green, blue) > 40;
    if (opaque > 20 && vivid) heights.add(Math.floor(i / 4 / width));
  }
  return width > 100 && heights.size > 5;
}"""


class Page:
    """One page, with what it asked the network for and what it complained about.

    Attributes:
        requests: addresses that were asked for.
        complaints: errors and warnings of the console, uncaught exceptions, and violated policies.
    """

    def __init__(self, to_browser: int, from_browser: int, *, timeout_s: float = 30.0) -> None:
        self._to, self._from, self._timeout_s = to_browser, from_browser, timeout_s
        self._unread, self._last, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._events: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def open(self, file: Path) -> None:
        """Load a file, with the network cut off, and wait until the page is drawn."""
        self.send(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        self._events.clear()
        self.send("Page.navigate", url=file.absolute().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._hear(self._receive())
        self.settle()

    def open_afresh(self, file: Path) -> Page:
        """Load a file on a wide window in light colours, and forget what earlier ones asked for."""
        self.look()
        self.requests.clear()
        self.complaints.clear()
        self.open(file)
        return self

    def settle(self) -> None:
        """Wait for two frames: what was asked for is then on the screen."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1) -> None:
        """Give the window a size and the page a colour scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.settle()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.send("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click in the middle of the first element of a CSS selector, as a hand would."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{find}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({find}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of the first select of a CSS selector, by its value."""
        select = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{select}.value = {json.dumps(value)}; {select}.dispatchEvent(new Event('change'))")
        self.settle()

    def count(self, selector: str) -> int:
        """How many elements a CSS selector has."""
        return int(self.value(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def text(self, selector: str) -> str:
        """The text of the first element of a CSS selector."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).textContent"))

    def each(self, selector: str, what: str) -> list[Any]:
        """What an expression of `node` gives for each element of a CSS selector that is laid out."""
        nodes = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found: list[Any] = self.value(f"{nodes}.filter(n => n.getClientRects().length).map(node => {what})")
        return found

    def all_drawn(self, canvases: str) -> bool:
        """Whether each canvas of a CSS selector has colour at several heights, with the first in sight."""
        self.value(f"document.querySelector({json.dumps(canvases)}).scrollIntoView()")
        self.settle()
        drawn = self.each(canvases, f"({_IS_DRAWN})(node)")
        return bool(drawn) and all(drawn)

    def press(self, key: str) -> None:
        """Press a key, where the focus is."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        down = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **down, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **down)
        self.settle()

    def type(self, text: str) -> None:
        """Put text where the focus is."""
        self.send("Input.insertText", text=text)
        self.settle()

    def picture(self, *, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        return base64.b64decode(data)

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command of the protocol and wait for its answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._hear(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + self._timeout_s
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer."
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "Chromium went away."
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _hear(self, event: dict[str, Any]) -> None:
        method, said = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(said["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(said["entry"]["text"])


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)


@contextlib.contextmanager
def page(browser: str) -> Iterator[Page]:
    """A page in a browser of its own, which has a fresh profile and is gone afterwards."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = _started([browser, *FLAGS, f"--user-data-dir={profile}"], theirs_in, theirs_out)
        try:
            yield Page(ours_out, ours_in)
        finally:
            os.close(ours_out)  # which ends it
            os.close(ours_in)
            _end(process)


def _started(command: list[str], commands: int, answers: int) -> int:
    """Start the browser with its ends of the pipes where it looks for them, and close ours of these."""
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, answers)]
    nowhere = [(os.POSIX_SPAWN_OPEN, end, os.devnull, os.O_RDWR, 0) for end in range(3)]
    ends = [(os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(high, (3, 4), strict=True)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=[*nowhere, *ends], setpgroup=0)
    for end in (commands, answers, *high):
        os.close(end)
    return process


def _end(process: int) -> None:
    """Wait for the browser, and end it and its helpers where it does not end by itself."""
    for _ in range(100):
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.1)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
