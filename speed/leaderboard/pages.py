"""Benchmark: seconds from the start of the app until a page's content is seen in Chromium, then of every other page.

    python speed/leaderboard/pages.py [PROTOCOL]

The app starts cold (an empty folder of tables, no page cached); the browser runs already. A page is there when its last
element is drawn and the script has ended. Promised: the first page under 3 s, every other one under 2 s. It
needs an idle machine; CPU seconds of the server are printed too, which depend less on other load.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from leaderboard import screenshots

FIRST, OTHER = 3.0, 2.0
DRAWN = '[data-test-script-state="notRunning"]'


def cpu_seconds() -> float:
    """CPU seconds of all running children of this process but the browser's."""
    tick, total = os.sysconf("SC_CLK_TCK"), 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"streamlit" in command and int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def measure(protocol: str) -> dict[str, tuple[float, float]]:
    """Seconds and CPU seconds by page, the first one from the start of the server."""
    from playwright.sync_api import sync_playwright

    found: dict[str, tuple[float, float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=screenshots.chromium(), args=screenshots.OFFLINE)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        start = time.perf_counter()
        with screenshots.app() as address:
            page.goto(f"{address}/?protocol={protocol}")
            page.locator(".lb-row").first.wait_for(timeout=60_000)
            found["first page, its plot"] = time.perf_counter() - start, cpu_seconds()
            page.wait_for_selector(DRAWN, timeout=60_000)
            found["first page, all of it"] = time.perf_counter() - start, cpu_seconds()
            links = page.get_by_test_id("stTopNavLink")
            for i in range(1, links.count()):
                path = urlsplit(str(links.nth(i).get_attribute("href"))).path.strip("/")
                page.wait_for_timeout(500)
                start, spent = time.perf_counter(), cpu_seconds()
                links.nth(i).click()
                page.wait_for_url(f"**/{path}*")
                page.get_by_role("heading", level=1).first.wait_for()
                page.wait_for_timeout(50)
                page.wait_for_selector(DRAWN, timeout=60_000)
                found[path] = time.perf_counter() - start, cpu_seconds() - spent
        browser.close()
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LEAKBOARD_PROJECT": folder, "LEAKBOARD_TABLES": folder}
        found = measure(sys.argv[1] if len(sys.argv) > 1 else "fashion-mini-v1")
    print(f"{'page':24}{'seconds':>9}{'CPU':>9}")
    for name, (seconds, spent) in found.items():
        print(f"{name:24}{seconds:9.2f}{spent:9.2f}")
    slow = [n for n, (seconds, _) in found.items() if seconds > (FIRST if n.startswith("first") else OTHER)]
    print(f"NOT KEPT: {', '.join(slow)}" if slow else "kept")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
