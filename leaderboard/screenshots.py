"""Screenshots of the app: `python -m leaderboard.screenshots OUT [PROTOCOL]`, each page wide and narrow, light and
dark.

It starts the app on a free port and opens it in Chromium (named in CHROMIUM, or on the PATH), then goes through the
app's navigation. An error in the browser's console, or a traceback on a page, is an error here.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
WIDE, NARROW = 1280, 400
"""Widths in pixels: a laptop and a phone."""
Scheme = Literal["light", "dark"]
OFFLINE = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


def chromium() -> str | None:
    """The path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


def screenshots(
    out: Path, protocol: str = "", widths: Sequence[int] = (WIDE,), schemes: Sequence[Scheme] = ("light",)
) -> list[Path]:
    """Write the pictures of a protocol (default: the app's first) and return their paths.

    A page's name is its picture's: matrix.png, and matrix-400.png, matrix-dark.png and matrix-400-dark.png beside it.
    Raises RuntimeError where there is no browser, where the app doesn't start, and for errors on a page.
    """
    from playwright.sync_api import sync_playwright

    if not (program := chromium()):
        raise RuntimeError("no Chromium: install it, or name it in CHROMIUM")
    out.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    written: list[Path] = []
    with app() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OFFLINE)
        for scheme in schemes:
            page = browser.new_page(viewport={"width": WIDE, "height": 1000}, color_scheme=scheme)
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            for name in pages(page, f"{address}/?protocol={protocol}" if protocol else address):
                errors.extend(page.get_by_test_id("stException").all_inner_texts())
                for width in widths:
                    parts = [name, *([] if width == WIDE else [str(width)]), *([] if scheme == "light" else [scheme])]
                    written.append(out / f"{'-'.join(parts)}.png")
                    _picture(page, width, written[-1])
            page.close()
        browser.close()
    if errors:
        raise RuntimeError("errors on a page:\n" + "\n".join(errors))
    return written


def pages(page: Any, address: str) -> Iterator[str]:
    """Open the app and go through its navigation; yields each page's name once the page is drawn.

    By clicks: opened by their addresses, pages make Streamlit request files that do not exist.
    """
    page.goto(address)
    page.get_by_test_id("stHeading").first.wait_for(timeout=60_000)
    links = page.get_by_test_id("stTopNavLink")
    for i in range(links.count()):
        page.set_viewport_size({"width": WIDE, "height": 1000})  # a narrow window hides the navigation
        links.nth(i).wait_for(timeout=60_000)
        path = urlsplit(str(links.nth(i).get_attribute("href"))).path.strip("/")
        title = links.nth(i).inner_text().splitlines()[-1]  # an icon's name may stand before it
        links.nth(i).click()
        settle(page)
        yield path or title.lower()  # the page that opens has no path


def settle(page: Any) -> None:
    """Wait until a page is drawn; charts and tables appear only after the script has ended."""
    page.wait_for_timeout(500)
    page.wait_for_selector('[data-test-script-state="notRunning"]', timeout=60_000)
    page.wait_for_timeout(1000)


def _picture(page: Any, width: int, path: Path) -> None:
    """Write a picture of the whole page. Streamlit scrolls inside it, so the window is made as high as its content."""
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(500)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(max(int(height), 600), 6000)})
    page.wait_for_timeout(700)
    page.screenshot(path=path)


@contextmanager
def app() -> Iterator[str]:
    """Run the app on a free port of this machine; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "leaderboard" / "app.py"), "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}", "--server.fileWatcherType=none"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # a busy machine, or a visitor that holds its connection
            process.kill()
            process.wait()


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
    for picture in screenshots(Path(sys.argv[1]), "".join(sys.argv[2:]), (WIDE, NARROW), ("light", "dark")):
        print(picture)
