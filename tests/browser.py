"""A real headless Chromium, driven over the WebDriver protocol by the standard library alone.

``with Browser() as browser: browser.open(path.as_uri())``; put the mark ``BROWSER`` on tests that do.
Elements are found by CSS; what takes time is waited for by a condition in JavaScript, never by a sleep.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest
from servers import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
BROWSER = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="no chromium with its chromedriver is installed to look at the pages with",
)
START_S = 60
COMMAND_S = 120
WAIT_S = 60
POLL_S = 0.05
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-crash-reporter", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
# the key of an element in WebDriver's answers
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# WebDriver's code points for keys that print nothing
KEYS = {
    "Enter": "\ue007", "Tab": "\ue004", "Escape": "\ue00c", "Space": " ", "Backspace": "\ue003",
    "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015",
    "Home": "\ue011", "End": "\ue010", "PageUp": "\ue00e", "PageDown": "\ue00f", "Delete": "\ue017",
    "Shift": "\ue008", "Control": "\ue009",
}  # fmt: skip


class BrowserError(Exception):
    """The browser refused a command, such as finding an element that is not there."""


@dataclass(frozen=True)
class Asked:
    """A thing that a page asked for: its address, and ``Document``, ``Script``, ``Image``, ``Fetch``, ..."""

    url: str
    kind: str


@dataclass(frozen=True)
class Element:
    """An element of the page that is open; stale once the page has replaced it."""

    browser: Browser
    id: str

    def click(self) -> None:
        """Click in its middle, after scrolling it into view, as a person would."""
        self._tell("click", {})

    @property
    def text(self) -> str:
        """What a person can read in it: hidden parts left out."""
        return str(self.browser.command("GET", f"/element/{self.id}/text"))

    @property
    def shown(self) -> bool:
        """Whether it takes room on the page and is not hidden."""
        return bool(self.browser.command("GET", f"/element/{self.id}/displayed"))

    def attribute(self, name: str) -> str | None:
        """Give what its tag says; ``None`` when it says nothing."""
        value = self.browser.run("return arguments[0].getAttribute(arguments[1])", self, name)
        return None if value is None else str(value)

    def property(self, name: str) -> Any:
        """Give a property of its object, such as ``value`` or ``checked``."""
        return self.browser.run("return arguments[0][arguments[1]]", self, name)

    def style(self, name: str) -> str:
        """Give a computed style, such as ``color``."""
        return str(self.browser.command("GET", f"/element/{self.id}/css/{name}"))

    def type(self, text: str) -> None:
        """Focus it and type, after what it holds already."""
        self._tell("value", {"text": text})

    def clear(self) -> None:
        """Empty a field."""
        self._tell("clear", {})

    def choose(self, value: str) -> None:
        """Choose the option of this ``select`` that has a value."""
        self.find(f'option[value="{value}"]').click()

    def find(self, css: str) -> Element:
        """Give the first element below it; ``BrowserError`` when there is none."""
        return self.browser._element(f"/element/{self.id}/element", css)

    def find_all(self, css: str) -> list[Element]:
        """Give every element below it."""
        return self.browser._elements(f"/element/{self.id}/elements", css)

    def _tell(self, what: str, body: Mapping[str, object]) -> None:
        self.browser.command("POST", f"/element/{self.id}/{what}", body)


class Browser:
    """A browser with one page, an empty profile and its own driver; all end with the block.

    Args:
        width: Of the window, in pixels.
        height: Of the window, in pixels.
        dark: Whether the system prefers dark colours.
        flags: More of Chromium's own.
    """

    def __init__(
        self, width: int = 1400, height: int = 1000, *, dark: bool = False, flags: Sequence[str] = ()
    ) -> None:
        self._flags = (*FLAGS, f"--window-size={width},{height}", *flags)
        self._dark = dark
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._driver: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._session = ""
        self._requests: list[Asked] = []
        self._messages: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # no __exit__ follows, and pytest's own failures are no Exception
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def open(self, url: str) -> None:
        """Go to an address, and wait until the page has loaded."""
        self.command("POST", "/url", {"url": url})

    @property
    def title(self) -> str:
        """The page's title."""
        return str(self.command("GET", "/title"))

    @property
    def url(self) -> str:
        """Where the page has come to."""
        return str(self.command("GET", "/url"))

    @property
    def text(self) -> str:
        """All that a person can read on the page, or in the frame."""
        return self.find("body").text

    def find(self, css: str) -> Element:
        """Give the first element; ``BrowserError`` when there is none."""
        return self._element("/element", css)

    def find_all(self, css: str) -> list[Element]:
        """Give every element, in the page's order."""
        return self._elements("/elements", css)

    @property
    def focused(self) -> Element:
        """The element that has the keyboard."""
        return Element(self, self.command("GET", "/element/active")[ELEMENT])

    def click(self, css: str) -> None:
        """Click the first element that matches."""
        self.find(css).click()

    def press(self, *keys: str) -> None:
        """Press keys one after another, where the keyboard's focus is: a letter, or a name of ``KEYS``.

        ``Shift+Tab`` holds the first down while it presses the second.
        """
        steps: list[dict[str, str]] = []
        for chord in keys:
            parts = chord.split("+") if len(chord) > 1 else [chord]
            values = [KEYS.get(each, each) for each in parts]
            steps += [{"type": "keyDown", "value": each} for each in values]
            steps += [{"type": "keyUp", "value": each} for each in reversed(values)]
        self._act({"type": "key", "id": "keyboard", "actions": steps})

    def hover(self, element: Element, x: int = 0, y: int = 0) -> None:
        """Move the mouse over an element's middle, or this many pixels right of and below it."""
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        target = {"type": "pointerMove", "duration": 50, "origin": {ELEMENT: element.id}}
        # a step beside it first: a mouse that does not move tells a page nothing
        moves = [target | {"x": x + 3, "y": y + 3}, target | {"x": x, "y": y}]
        self._act(
            {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        )

    def press_mouse(self) -> None:
        """Press and release the mouse where it is, see ``hover``."""
        clicks = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._act(
            {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": clicks}
        )

    def run(self, javascript: str, *arguments: object) -> Any:
        """Run the body of a function in the page; ``arguments`` are there, and what it returns comes back.

        A promise that it returns is waited for.
        """
        sent = [self._sent(each) for each in arguments]
        return self._got(self.command("POST", "/execute/sync", {"script": javascript, "args": sent}))

    def wait_until(self, javascript: str, *arguments: object, wait_s: float = WAIT_S) -> Any:
        """Wait for an expression, such as ``document.querySelector('#x')``, to be true; gives its value."""
        deadline = time.monotonic() + wait_s
        while True:
            value = self.run(f"return ({javascript})", *arguments)
            if value:
                return value
            if time.monotonic() > deadline:
                pytest.fail(f"after {wait_s:g} s still not: {javascript}\nmessages: {self.messages()}")
            time.sleep(POLL_S)

    def wait_for(self, css: str, text: str = "", wait_s: float = WAIT_S) -> Element:
        """Wait until an element is there, shown, and has a text in it; gives it."""
        script = (
            "[...document.querySelectorAll(arguments[0])].find("
            "each => each.getClientRects().length && each.textContent.includes(arguments[1]))"
        )
        found: Element = self.wait_until(script, css, text, wait_s=wait_s)
        return found

    @contextlib.contextmanager
    def in_frame(self, frame: Element) -> Iterator[None]:
        """Look into an ``iframe``: all commands of the block see its page."""
        self.command("POST", "/frame", {"id": {ELEMENT: frame.id}})
        try:
            yield
        finally:
            self.command("POST", "/frame/parent", {})

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels, as on a screen that is this large."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features: str) -> None:
        """Emulate what a system prefers, such as ``prefers_color_scheme="dark"``."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.devtools("Emulation.setEmulatedMedia", {"features": wanted})

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write a PNG of what is in the window, or of the whole page however long."""
        if whole:
            options = {"format": "png", "captureBeyondViewport": True}
            data = self.devtools("Page.captureScreenshot", options)["data"]
        else:
            data = self.command("GET", "/screenshot")
        path.write_bytes(base64.b64decode(data))
        return path

    def requests(self) -> tuple[Asked, ...]:
        """Give all that the pages have asked for since the browser started, from the network's own log."""
        for line in self._log("performance"):
            event = json.loads(line["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                parameters = event["params"]
                self._requests.append(Asked(parameters["request"]["url"], parameters.get("type", "")))
        return tuple(self._requests)

    def foreign(self, *allowed: str) -> tuple[Asked, ...]:
        """Give what was asked for beyond files, the page's own blobs, and addresses that begin with these."""
        own = ("file:", "data:", "blob:", "about:", "chrome:", *allowed)
        return tuple(each for each in self.requests() if not each.url.startswith(own))

    def messages(self, level: str = "SEVERE") -> tuple[str, ...]:
        """Give what the console has been told since the start: errors of scripts, refused requests."""
        self._messages += [f"{line['level']}: {line['message']}" for line in self._log("browser")]
        return tuple(each for each in self._messages if each.startswith(level))

    def devtools(self, method: str, parameters: Mapping[str, object]) -> Any:
        """Send a command of Chromium's DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": method, "params": dict(parameters)})

    def command(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Send a WebDriver command of this session, and give its value."""
        return self._ask(method, f"/session/{self._session}{path}", body)

    def _element(self, path: str, css: str) -> Element:
        found = self.command("POST", path, {"using": "css selector", "value": css})
        return Element(self, found[ELEMENT])

    def _elements(self, path: str, css: str) -> list[Element]:
        found = self.command("POST", path, {"using": "css selector", "value": css})
        return [Element(self, each[ELEMENT]) for each in found]

    def _act(self, source: Mapping[str, object]) -> None:
        self.command("POST", "/actions", {"actions": [source]})

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.command("POST", "/se/log", {"type": kind}))

    def _sent(self, value: object) -> object:
        return {ELEMENT: value.id} if isinstance(value, Element) else value

    def _got(self, value: Any) -> Any:
        if isinstance(value, dict):
            if ELEMENT in value:
                return Element(self, value[ELEMENT])
            return {key: self._got(each) for key, each in value.items()}
        return [self._got(each) for each in value] if isinstance(value, list) else value

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # the driver of this object, on loopback
            f"{self._address}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=COMMAND_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                self._refused(method, path, body, error.read())

    def _refused(self, method: str, path: str, body: Mapping[str, object] | None, answer: bytes) -> NoReturn:
        value = json.loads(answer)["value"]
        first = str(value.get("message", "")).partition("\n")[0]
        raise BrowserError(f"{value.get('error')}: {first} ({method} {path.partition('/')[2]} {body})")

    def _start(self) -> None:
        if CHROMIUM is None or CHROMEDRIVER is None:
            pytest.skip("no chromium with its chromedriver is installed")
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        port = free_port()
        self._address = f"http://127.0.0.1:{port}"
        with (folder / "driver.log").open("wb") as log:
            self._driver = subprocess.Popen(
                [CHROMEDRIVER, f"--port={port}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"HOME": str(folder)},
            )
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self._driver.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"chromedriver does not come up: {(folder / 'driver.log').read_text()}")
            time.sleep(POLL_S)
        options = {
            "binary": CHROMIUM,
            "args": [*self._flags, f"--user-data-dir={folder / 'profile'}"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "timeouts": {"script": COMMAND_S * 1000, "pageLoad": COMMAND_S * 1000},
        }
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = made["sessionId"]
        if self._dark:
            self.prefer(prefers_color_scheme="dark")

    def _ready(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(self._ask("GET", "/status")["ready"])
        return False

    def _end(self) -> None:
        if self._session:
            with contextlib.suppress(OSError, BrowserError, ValueError):
                self._ask("DELETE", f"/session/{self._session}")
            self._session = ""
        if self._driver is not None:
            # the driver's own session of processes: Chromium and its helpers are in it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._driver.pid, signal.SIGKILL)
            self._driver.wait()
            self._driver = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
