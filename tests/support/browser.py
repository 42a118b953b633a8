"""Chromium without a window, over its DevTools protocol: a page that is typed into, clicked and looked at."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

LISTENS = re.compile(rb"DevTools listening on (ws://\S+)")
PATIENCE = 60.0  # seconds until a test gives up waiting for something that must come
# Of a machine for tests: root, little shared memory, nobody to ask.
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--mute-audio",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars",
)  # fmt: skip


class Page:
    """One page of a browser.

    Args:
        address: of the browser's websocket.

    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE)
        self._numbers = itertools.count(1)
        self._session = ""
        self.log: list[str] = []  # errors of scripts, and what the policy refused
        self.requested: list[str] = []  # addresses
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        self._socket.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Carry out a command of the protocol; give its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, what = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.log.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.log.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(what["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requested.append(what["url"])
        elif method == "Page.javascriptDialogOpening":
            self._socket.send(
                json.dumps(
                    {
                        "id": next(self._numbers),
                        "sessionId": self._session,
                        "method": "Page.handleJavaScriptDialog",
                        "params": {"accept": True, "promptText": "2"},
                    }
                )
            )

    # -- what a person does ------------------------------------------------------------------------------------------

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression of JavaScript."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (script[:200], answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"Promise.resolve({script}).then(Boolean)"):
            assert time.monotonic() < end, f"not true: {script}; the page shows: {self.text()[:1500]}; {self.log}"
            time.sleep(0.05)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def shows(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})")

    def click(self, name: str) -> None:
        """Click what has a name, as a screen reader says it: a button or a link that is shown and may be clicked."""
        found = (
            "[...document.querySelectorAll('button, a')].find((one) => one.checkVisibility() && !one.disabled"
            f" && (one.getAttribute('aria-label') || one.textContent.trim()) === {json.dumps(name)})"
        )
        self.until(f"Boolean({found})")
        self.run(f"{found}.scrollIntoView({{ block: 'center' }})")
        place = self.run(
            f"(() => {{ const box = {found}.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def fill(self, form: str, **values: str) -> None:
        """Type into the fields of the form whose button has a name, and press Enter or the button."""
        shown = (
            "[...document.querySelectorAll('form')].find((one) => one.checkVisibility() &&"
            f" one.querySelector('button')?.textContent.trim() === {json.dumps(form)})"
        )
        self.until(f"Boolean({shown})")
        for name, value in values.items():
            self.run(
                f"(() => {{ const field = {shown}.elements[{json.dumps(name)}]; field.focus(); field.select(); }})()"
            )
            self.send("Input.insertText", text=value)
        self.run(f"{shown}.requestSubmit({shown}.querySelector('button'))")

    def choose(self, field: str, *paths: Path) -> None:
        """Choose files in the field of a name that is shown."""
        found = f"[...document.querySelectorAll('input[name={field}]')].find((one) => one.checkVisibility())"
        self.until(f"Boolean({found})")
        answer = self.send("Runtime.evaluate", expression=found)
        self.send("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=answer["result"]["objectId"])

    def saves(self, directory: Path) -> None:
        """Save what is downloaded in a directory."""
        self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(directory))

    def key(self, key: str, *, code: int = 0, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def looks(self, *, dark: bool = False, width: int = 1200, height: int = 800) -> None:
        """Be a screen of a size, and a person who likes it dark or light."""
        value = "dark" if dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def picture(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def chromium() -> Iterator[str]:
    """Run a browser; give the address of its websocket."""
    program = shutil.which("chromium")
    assert program, "there is no Chromium: scripts/test-web installs it"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={home}/profile", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": home},
            start_new_session=True,
        )
        assert process.stderr is not None
        try:
            said = b""
            while not (found := LISTENS.search(said)):
                line = process.stderr.readline()
                assert line, f"Chromium has ended: {said[-2000:].decode(errors='replace')}"
                said += line
            yield found[1].decode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()
