"""The pages in a real browser without a window: no complaint, no request, and tables that sort."""

from __future__ import annotations

import base64
import hashlib
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pagekit import Page, a_record, a_run, a_section, figure

from stakes.report.compare import open_runs, render_comparison
from stakes.report.page import render_page

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--log-level=0", "--dump-dom",
)  # fmt: skip
# Presses every heading that says `auc`, and notes the order of the rows each time.
PRESS = """
const heading = [...document.querySelectorAll("table.sortable th button")].find(b => b.textContent === "auc");
const order = [];
for (let i = 0; i < 4; i++) {
  const table = heading.closest("table");
  order.push([...table.tBodies[0].rows].map(row => row.cells[0].textContent).join("")
    + ":" + (heading.parentElement.getAttribute("aria-sort") ?? "none"));
  heading.click();
}
document.documentElement.dataset.order = order.join(" ");
document.documentElement.dataset.wide = document.documentElement.scrollWidth > innerWidth;
"""


class Recorder(http.server.BaseHTTPRequestHandler):
    """A proxy that only writes down who is asked for."""

    asked: list[str]

    def _note(self) -> None:
        self.asked.append(self.path)
        self.send_error(403)

    do_GET = do_POST = do_HEAD = do_CONNECT = _note

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


# The browser itself asks after updates, the time and an account, whatever the page.
ITS_OWN = re.compile(r"(?:https?://)?(?!fonts|ajax)[\w.-]+\.(?:google|googleapis|gvt1)\.com(?::443)?(?:/|$)")


@dataclass
class Browser:
    """A browser whose every request goes to the recorder."""

    program: str
    proxy: str
    profile: Path
    everything: list[str] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        """What a page asked for."""
        return [address for address in self.everything if not ITS_OWN.match(address)]

    def open(self, page: Path) -> tuple[str, list[str]]:
        """The document as it stands after loading, and what the console said."""
        words = [self.program, *QUIET, f"--user-data-dir={self.profile}", f"--proxy-server={self.proxy}"]
        words += ["--proxy-bypass-list=<-loopback>", "--window-size=390,800", page.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert "</html>" in done.stdout, done.stderr[-2000:]
        return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    handler = type("Handler", (Recorder,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Browser(program, f"http://127.0.0.1:{server.server_port}", tmp_path / "profile", handler.asked)
    server.shutdown()
    server.server_close()
    thread.join()


def with_script(page: str, script: str) -> str:
    """The page with one more script, let in by its hash as the page's own is."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ")
    return page.replace("</body>", f"<script>{script}</script></body>")


def test_a_page_loads_without_complaint_or_request_and_sorts(browser: Browser, tmp_path: Path) -> None:
    evil = "<img src=http://evil.test/a><script src=http://evil.test/b></script>"
    section = a_section(figures=(figure("roc.svg"), figure("rows.png")), limit=evil)
    run = a_run(tmp_path / "run", a_record(notes=(evil,)), section)
    path = tmp_path / "page.html"
    path.write_text(with_script(render_page(run, embed_images=True), PRESS))
    document, console = browser.open(path)
    assert console == []
    assert browser.asked == []
    root = Page(document).all("html")[0]
    assert root["data-order"] == "bac:none abc:ascending bac:descending bac:none", "unknown stays last"
    assert root["data-wide"] == "false", "nothing stands out of a phone's screen"


def test_a_comparison_loads_without_complaint_or_request(browser: Browser, tmp_path: Path) -> None:
    sections = [a_section(figures=(figure("roc.svg"),))]
    runs = open_runs([a_run(tmp_path / name, None, *sections) for name in "ab"])
    path = tmp_path / "page.html"
    path.write_text(render_comparison(runs))
    document, console = browser.open(path)
    assert console == []
    assert browser.asked == []
    assert len(Page(document).all("button")) > 10


def test_the_test_sees_what_a_bad_page_does(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<html><body><img src='http://evil.test/x'><script>nothing.there()</script></body></html>"
    )
    _, console = browser.open(path)
    assert any("nothing is not defined" in line for line in console)
    assert any("evil.test" in address for address in browser.asked)
