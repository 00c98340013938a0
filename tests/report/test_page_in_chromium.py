"""The report in a browser: nothing fails, nothing is fetched, tables sort, no figure is empty."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pages import make_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
]

# Asks the page what a reader would see, and writes the answer where --dump-dom shows it.
QUESTIONS = """
<script>
addEventListener("load", () => {
  const seen = { violations: window.violations, fetched: performance.getEntriesByType("resource")
    .map((each) => each.name).filter((name) => !name.startsWith("data:")) };
  seen.images = [...document.images].map((each) => [each.naturalWidth, each.clientWidth]);
  seen.charts = [...document.querySelectorAll(".chart svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    return [box.width, box.height, svg.querySelectorAll("path, use").length];
  });
  const table = document.querySelector("table.sortable");
  const column = (place) => [...table.tBodies[0].rows]
    .map((row) => row.cells[place].textContent.trim());
  const heads = [...table.tHead.rows[0].cells];
  seen.before = column(1);
  const press = (place) => {
    heads[place].querySelector("button").click();
    return heads[place].getAttribute("aria-sort");
  };
  seen.first = [press(1), column(1)];
  seen.second = [press(1), column(1)];
  seen.dashes = [press(3), column(3)];
  seen.names = [press(0), column(0), heads[1].getAttribute("aria-sort")];
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  seen.ink = getComputedStyle(document.body).color;
  seen.paper = getComputedStyle(document.body).backgroundColor;
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify(seen);
  document.body.append(answer);
});
</script>
"""
WATCH = """<script>
window.violations = [];
addEventListener("securitypolicyviolation", (event) => window.violations.push(event.blockedURI));
</script>
"""


@dataclass(frozen=True)
class Seen:
    """What a browser made of the page."""

    answer: dict[str, Any]
    console: list[str]
    requested: list[str]


def look(page: Path, *, width: int = 1200, dark: bool = False) -> Seen:
    folder = page.parent
    asked = folder / f"asked-{width}-{dark}.html"
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head>{WATCH}", 1).replace("</body>", f"{QUESTIONS}</body>", 1)
    asked.write_text(text, encoding="utf-8")
    log = folder / f"net-{width}-{dark}.json"
    options = [f"--user-data-dir={folder / f'profile-{width}-{dark}'}", f"--log-net-log={log}"]
    options += [f"--window-size={width},900", "--enable-logging=stderr", "--dump-dom"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    finished = subprocess.run(
        [str(CHROMIUM), *QUIET, *options, asked.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', finished.stdout, re.S)
    assert found, finished.stderr[-2000:]
    console = [line for line in finished.stderr.splitlines() if "CONSOLE" in line]
    return Seen(
        json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<")),
        console,
        _requested_by_the_page(json.loads(log.read_text(encoding="utf-8"))["events"]),
    )


def _requested_by_the_page(events: list[dict[str, Any]]) -> list[str]:
    """Return what the page asked for over a network; the browser itself asks its maker, too."""
    started = [event.get("params", {}) for event in events]
    return [
        each["url"]
        for each in started
        if each.get("url", "").startswith(("http", "ws", "ftp"))
        and each.get("initiator", "not an origin") != "not an origin"
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    make_report(path, findings=["warning  Zimmer 3: its spacing is far from the rest"])
    return path


@pytest.fixture(scope="module")
def seen(page) -> Seen:
    return look(page)


def test_nothing_fails_and_nothing_is_fetched(seen):
    assert seen.console == []
    assert seen.requested == []
    assert seen.answer["fetched"] == []
    assert seen.answer["violations"] == []


def test_a_failing_script_and_a_request_would_be_noticed(page):
    spoiled = page.parent / "spoiled.html"
    text = page.read_text(encoding="utf-8")
    bad = '<img src="http://127.0.0.1:9/x.png" alt=""><script>throw new Error("planted");</script>'
    text = text.replace("<main>", f"<main>{bad}")
    spoiled.write_text(text, encoding="utf-8")

    refused = look(spoiled, width=1100)
    spoiled.write_text(re.sub("<meta http-equiv[^>]*>", "", text), encoding="utf-8")
    allowed = look(spoiled, width=1000)

    assert any("planted" in line for line in refused.console)
    assert refused.answer["violations"] == ["http://127.0.0.1:9/x.png"]
    assert refused.requested == []
    assert "http://127.0.0.1:9/x.png" in allowed.requested


def test_no_figure_is_empty(seen):
    assert len(seen.answer["images"]) == 3
    assert all(own > 500 and shown > 300 for own, shown in seen.answer["images"])
    assert len(seen.answer["charts"]) == 4
    assert all(
        width > 300 and height > 40 and parts > 10 for width, height, parts in seen.answer["charts"]
    )


def test_tables_sort_by_the_column_that_is_pressed(seen):
    answer = seen.answer
    assert sorted(answer["before"], key=float) == answer["before"]
    assert answer["first"] == ["ascending", sorted(answer["before"], key=float)]
    assert answer["second"] == ["descending", sorted(answer["before"], key=float, reverse=True)]
    names = [f"case_{number:04d}" for number in range(1, 13)]
    assert answer["names"] == ["ascending", names, None]


def test_what_was_not_measured_stays_last(seen):
    way, shown = seen.answer["dashes"]

    assert way == "ascending"
    assert shown[-1] == "\N{EN DASH}"
    assert [float(text) for text in shown[:-1]] == sorted(float(text) for text in shown[:-1])


def test_a_narrow_screen_is_not_wider_than_it_is(page):
    # The smallest window of a headless Chromium is about 500 pixels wide.
    assert look(page, width=500).answer["wide"] <= 0


def test_dark_screens_get_a_dark_page(page, seen):
    dark = look(page, dark=True).answer

    assert seen.answer["paper"] == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", dark["paper"]))) < 60
    assert min(map(int, re.findall(r"\d+", dark["ink"]))) > 200


def test_it_prints_to_pages(page):
    target = page.parent / "report.pdf"
    options = [f"--user-data-dir={page.parent / 'print'}", f"--print-to-pdf={target}"]
    subprocess.run(
        [str(CHROMIUM), *QUIET, *options, page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )

    pdf = target.read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
