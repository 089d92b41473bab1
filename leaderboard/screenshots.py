"""Pictures of the app: `python -m leaderboard.screenshots OUT [PROTOCOL]` writes one PNG a page, 1280 pixels wide.

It starts the app on a free port and opens it in Chromium (CHROMIUM, or the one on the path). Anything
that the browser's console reports as an error, and any traceback on a page, is an error here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"board": "Defenses", "board-attacks": "Attacks", "entry": "Entry"}
"""A picture's name, and what is clicked to get there."""
OFFLINE = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


def chromium() -> str | None:
    """The path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


def screenshots(out: Path, scheme: Literal["light", "dark"] = "light", protocol: str = "") -> list[Path]:
    """Write the pictures of a protocol (default: the app's first) and return their paths.

    Raises RuntimeError where there is no browser, where the app doesn't start, and for errors on a page.
    """
    from playwright.sync_api import sync_playwright

    if not (program := chromium()):
        raise RuntimeError("no Chromium: install it, or name it in CHROMIUM")
    out.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    with app() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OFFLINE)
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/?protocol={protocol}" if protocol else address)
        page.get_by_test_id("stHeading").first.wait_for(timeout=60_000)
        for name, word in PAGES.items():
            page.set_viewport_size({"width": 1280, "height": 1000})
            page.get_by_text(word, exact=True).first.click()
            page.wait_for_timeout(500)
            page.wait_for_selector('[data-test-script-state="notRunning"]', timeout=60_000)
            page.wait_for_timeout(1000)  # charts and tables draw after the script has ended
            # Streamlit scrolls inside the page: a whole picture needs a window as high as what it holds.
            height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
            page.set_viewport_size({"width": 1280, "height": min(max(int(height), 600), 4000)})
            page.wait_for_timeout(500)
            errors += page.get_by_test_id("stException").all_inner_texts()
            page.screenshot(path=out / f"{name}.png")
        browser.close()
    if errors:
        raise RuntimeError("errors on a page:\n" + "\n".join(errors))
    return [out / f"{name}.png" for name in PAGES]


@contextmanager
def app() -> Iterator[str]:
    """The running app's address, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "leaderboard" / "app.py"), "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}", "--server.fileWatcherType=none"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _wait(address: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the app doesn't answer at {address}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m leaderboard.screenshots OUT [PROTOCOL]")
    for picture in screenshots(Path(sys.argv[1]), protocol="".join(sys.argv[2:])):
        print(picture)
