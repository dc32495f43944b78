"""A headless Chromium, driven over the DevTools protocol: what tests of pages need, and no more."""

import itertools
import json
import shutil
import subprocess
import time
import urllib.parse
from base64 import b64decode
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
from websockets.sync.client import connect

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH (apt-get install chromium)")
_OPTIONS: Final = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
)
_PATIENCE_SECONDS: Final = 60.0


class Browser:
    """One tab; use as a context. ``troubles`` gathers what the page complains of and what it wants from the network."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._numbers = itertools.count(1)
        self.troubles: list[str] = []
        self.home = ""  # host and port of the server whose pages are opened

    def __enter__(self) -> Self:
        command = [str(CHROMIUM), *_OPTIONS.split(), f"--user-data-dir={self._profile}", "about:blank"]
        with ExitStack() as stack:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(self._end)
            self._tab = stack.enter_context(
                connect(self._address_of_tab(), proxy=None, max_size=None, ping_interval=None)
            )
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._ask(f"{domain}.enable")
            self._to_close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._to_close.close()

    def open(self, page: Path, *, width: int = 1280, height: int = 900) -> None:
        """Open a file in a window of so many pixels, and wait until it stands."""
        self._set_size(width, height)
        self._navigate(page.as_uri())

    def open_url(self, url: str, *, width: int = 1280, height: int = 900, at: str | None = None) -> None:
        """Open a page of a server, whose own addresses are no troubles, and wait until it stands, or where it leads."""
        self.home = urllib.parse.urlsplit(url).netloc
        self._set_size(width, height)
        self._navigate(url, at=at)

    def upload(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def prefer(self, *, dark: bool) -> None:
        """Prefer a dark or a light page, as a system's setting does."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def _set_size(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def _navigate(self, url: str, *, at: str | None = None) -> None:
        self._ask("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(at or url)}")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Click on the middle of an element with the mouse, as a person does."""
        quoted = json.dumps(selector)
        x, y = self.evaluate(
            f"(() => {{ const node = document.querySelector({quoted}); node.scrollIntoView({{block: 'center'}});"
            " const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_button(self, name: str) -> None:
        """Click on a button by what it says, once it stands still."""
        buttons = "[...document.querySelectorAll('button')]"
        self.wait_for(f"{buttons}.some(node => node.innerText === {name!r})")
        self.evaluate("document.querySelectorAll('[data-wanted]').forEach(node => delete node.dataset.wanted)")
        self.evaluate(f"{buttons}.find(node => node.innerText === {name!r}).dataset.wanted = ''")
        self.settle("[data-wanted]")
        self.click("[data-wanted]")

    def settle(self, selector: str) -> None:
        """Wait until an element no longer moves, as one in a dialog that is being opened does."""
        box = f"JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        before = None
        while before != (before := self.evaluate(box)):
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key that types nothing, such as Tab or ArrowDown."""
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40, "Space": 32, "Escape": 27, "ArrowRight": 39, "End": 35}
        typed = {"Enter": "\r", "Space": " "}.get(key)
        details = {"key": typed if key == "Space" else key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self._ask("Input.dispatchKeyEvent", type="keyDown", **details, **({"text": typed} if typed else {}))
        self._ask("Input.dispatchKeyEvent", type="keyUp", **details)

    def type(self, text: str) -> None:
        """Type into the field that has the focus."""
        self._ask("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        height = min(12_000, self.evaluate("document.documentElement.scrollHeight"))
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self._ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(b64decode(taken["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._tab.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._tab.recv(timeout=_PATIENCE_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, message
                answer: dict[str, Any] = message["result"]
                return answer
            self._listen(message)

    def _listen(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown" | "Page.javascriptDialogOpening":
                self.troubles.append(json.dumps(about)[:500])
            case "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.troubles.append(json.dumps(about)[:500])
            case "Network.requestWillBeSent":
                address = urllib.parse.urlsplit(about["request"]["url"])
                if address.scheme not in ("file", "data", "about", "blob") and address.netloc != self.home:
                    self.troubles.append(f"request: {address.geturl()[:200]}")

    def _address_of_tab(self) -> str:
        port_file = self._profile / "DevToolsActivePort"
        end = time.monotonic() + _PATIENCE_SECONDS
        while not port_file.exists() or "\n" not in port_file.read_text():
            assert self._process.poll() is None, "the browser did not start"
            assert time.monotonic() < end, "the browser never said where it listens"
            time.sleep(0.05)
        port, browser_path = port_file.read_text().splitlines()[:2]
        with connect(f"ws://127.0.0.1:{port}{browser_path}", proxy=None, ping_interval=None) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(browser.recv(timeout=_PATIENCE_SECONDS))["result"]["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        return f"ws://127.0.0.1:{port}/devtools/page/{tab}"

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
