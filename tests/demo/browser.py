"""Headless Chromium, driven over the W3C WebDriver protocol; and the picture of the docs.

python tests/demo/browser.py URL FOLDER IMAGES…      writes FOLDER/{wide,narrow,dark}.png
"""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # name in the protocol


class Browser:
    """One window. Made by `browser`."""

    def __init__(self, address: str):
        self._address = address

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """A command of the protocol, below the session."""
        return _ask(method, f"{self._address}{path}", body)

    def open(self, url: str) -> None:
        self.ask("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of JavaScript."""
        return self.ask("POST", "/execute/sync", script=script, args=list(arguments))

    def find(self, selector: str) -> str:
        """An element, by CSS selector."""
        value = self.ask("POST", "/element", using="css selector", value=selector)
        return value[ELEMENT]

    def type(self, selector: str, text: str) -> None:
        """Keys; to an input of files, their paths, a line each."""
        self.ask("POST", f"/element/{self.find(selector)}/value", text=text)

    def choose(self, files: Sequence[Path]) -> None:
        self.type("#images", "\n".join(str(file.resolve()) for file in files))

    def press(self, key: str) -> None:
        """A key, wherever the focus is."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until JavaScript gives something that is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.05)
        return value

    def size(self, width: int, height: int) -> None:
        """Of the page, which no window's frame narrows."""
        self._devtools("Emulation.setDeviceMetricsOverride",
                       width=width, height=height, deviceScaleFactor=1, mobile=False)  # fmt: skip

    def dark(self, dark: bool) -> None:
        value = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[value])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def log(self) -> list[str]:
        """Returns the messages of the console, including blocks by the Content-Security-Policy."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", type="browser")]

    def _devtools(self, cmd: str, **params: Any) -> None:
        self.ask("POST", "/goog/cdp/execute", cmd=cmd, params=params)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A new window of a new profile; needs chromedriver."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as profile:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        driver = subprocess.Popen(
            [shutil.which("chromedriver") or "chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{port}"
        session = ""
        try:
            _until_ready(address)
            options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            made = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
            session = f"{address}/session/{made['sessionId']}"
            yield Browser(session)
        finally:
            if session:
                _ask("DELETE", session, None)
            driver.terminate()
            driver.wait()


def _until_ready(address: str) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            if _ask("GET", f"{address}/status", None)["ready"]:
                return
        time.sleep(0.1)
    raise AssertionError("chromedriver does not start")


def _ask(method: str, url: str, body: Any) -> Any:
    data = None if method in ("GET", "DELETE") else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error.read().decode()[:500]}") from error


def main(url: str, folder: Path, images: Sequence[Path]) -> None:
    """Sends the images and saves screenshots of the results."""
    with browser() as window:
        window.size(1100, 1000)
        window.open(url)
        window.choose(images)
        window.wait(f"return document.querySelectorAll('article').length >= {len(images)}")
        height = "return document.documentElement.scrollHeight"
        folder.mkdir(parents=True, exist_ok=True)
        for name, width, dark in (
            ("wide", 1100, False),
            ("narrow", 400, False),
            ("dark", 1100, True),
        ):
            window.dark(dark)
            window.size(width, 600)
            for _ in range(2):  # without the scroll bar it may get shorter
                window.size(width, window.run(height))
            window.screenshot(folder / f"{name}.png")
            wide = window.run("return document.documentElement.scrollWidth")
            assert wide <= width, f"{name}: {wide} pixels wide"
        print("\n".join(window.log()[:5]) or "the console is empty")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
