"""The page in a real browser: chromium without a window, which says what it was refused."""

import html
import json
import re
import shutil
import subprocess

import pytest

from kit.report.compare import compare
from kit.report.run import read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--enable-logging=stderr", "--window-size=390,900",
    "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip

# No window is as narrow as a phone, but a frame is.
PHONE = """<!doctype html><iframe width="390" height="900" srcdoc="{}"></iframe><script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement
  document.title = `${{page.scrollWidth}} px in ${{page.clientWidth}}`
}}</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine (Debian: apt-get install chromium)")


def look(page, tmp_path):
    """(what the console said, the addresses that the page asked for, the page as the browser has it). Requests of the browser's own have
    no origin; they find no host."""
    log = tmp_path / "net.json"
    words = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"CONSOLE.*?\] (.*)", done.stderr)
    asked = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return said, {a["url"] for a in asked if "url" in a and a.get("initiator", "not an origin") != "not an origin"}, done.stdout


def page_of(which, runs, tmp_path):
    both = [read_run(runs.done), read_run(runs.suspended)]
    return compare(both, tmp_path / "comparison.html") if which == "both" else getattr(runs, which) / "report.html"


@pytest.mark.parametrize("which", ["done", "suspended", "both"])
def test_nothing_is_wider_than_a_phone(runs, tmp_path, which):
    framed = tmp_path / "phone.html"
    framed.write_text(PHONE.format(html.escape(page_of(which, runs, tmp_path).read_text())))
    assert "<title>390 px in 390</title>" in look(framed, tmp_path)[2]


@pytest.mark.parametrize("which", ["done", "suspended", "both"])
def test_the_page_has_no_error_and_asks_no_host(runs, tmp_path, which):
    page = page_of(which, runs, tmp_path)
    said, urls, shown = look(page, tmp_path)
    assert said == []
    assert urls == set()
    assert shown.count("<section") == page.read_text().count("<section") > 3


def test_a_page_that_did_would_be_found(runs, tmp_path):
    """What the test above says can fail."""
    page = tmp_path / "page.html"
    asking = '<img src="http://127.0.0.1:9/a.png"><script>console.error("oh")</script></body>'
    page.write_text((runs.done / "report.html").read_text().replace("</body>", asking))
    said, _, _ = look(page, tmp_path)
    assert len(said) == 2  # the page's own policy forbids both
    page.write_text(f"<body>{asking}")
    said, urls, _ = look(page, tmp_path)
    assert urls == {"http://127.0.0.1:9/a.png"}
    assert any("oh" in line for line in said)
