"""A headless Chromium, spoken to over a pipe in its DevTools protocol: no library and no port is needed.

It is looked for under the usual names, or where the environment variable POLYAK_CHROMIUM says.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome",
    "headless_shell",
    "chromium-headless-shell",
)
FLAGS = ("--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--single-process", "--in-process-gpu")
SAID = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
# A browser reads commands from 3 and writes answers to 4.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The program, None where there is none."""
    return os.environ.get("POLYAK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a browser of its own."""

    def __init__(self, program: str, profile: Path):
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        ends = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (read, write)]  # away from 3 and 4
        words = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, *map(str, ends), *words],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (read, write, *ends):
            os.close(descriptor)
        self.count, self.rest, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are kept."""
        self.count += 1
        said = {"id": self.count, "method": method, "params": params}
        said |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(said).encode() + b"\0")
        while True:
            heard = self.hear()
            if heard.get("id") == self.count:
                assert "error" not in heard, heard
                return heard["result"]
            self.events.append(heard)

    def hear(self, seconds: float = 60) -> dict[str, Any]:
        """The next message."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            assert select.select([self.read], [], [], max(0, end - time.monotonic()))[0], (
                "the browser is silent"
            )
            more = os.read(self.read, 1 << 20)
            assert more, "the browser is gone"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1200, scheme: str = "light") -> float:
        """Show a file, and the seconds until all of it was there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events, began = [], time.monotonic()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.hear())
        return time.monotonic() - began

    def ask(self, expression: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element."""
        x, y = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); "
            f"return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({selector!r}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def point(self, selector: str, across: float, touch: bool = False) -> None:
        """Move the mouse to, or tap with a finger, a place in an element: a share of its width, half of its height."""
        x, y = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); "
            f"return [r.x + r.width * {across}, r.y + r.height / 2]; }})(document.querySelector({selector!r}))"
        )
        if not touch:
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
            return
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """What the console said since the page was opened."""
        return [event for event in self.events if event["method"] in SAID]

    @property
    def requests(self) -> list[str]:
        """What was asked for, but for the page's own data."""
        asked = (
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        )
        return [url for url in asked if not url.startswith("data:")]

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))
