"""The viewer in a real browser: filter, accept, reject, reload; what was rejected is out of the set's rows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

import pytest
from small_cases import small_cases, small_settings

from medclm import sets
from medclm.pipeline import convert_cases
from medclm.problems import Problems

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1360,820"
)

if not CHROMIUM or not DRIVER:
    pytest.skip("no chromium and chromedriver on this machine", allow_module_level=True)
pytest.importorskip("selenium", reason="selenium is not installed")


@pytest.fixture
def folder(tmp_path):
    convert_cases(iter(small_cases(tmp_path / "images", 12)), tmp_path / "set", small_settings(), Problems(), workers=1)
    return tmp_path / "set"


@pytest.fixture
def address(folder):
    command = [sys.executable, "-m", "medclm.cli", "view", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield re.search(r"http://\S+", server.stdout.readline()).group()
    server.terminate()
    server.wait(timeout=20)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Page:
    def __init__(self, browser, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait_for("position", r"^1 of \d+$")

    def text(self, id: str) -> str:
        return self.browser.find_element("id", id).text

    def wait_for(self, id: str, pattern: str) -> str:
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.text(id)):
            assert time.monotonic() < deadline, f"{id}: {self.text(id)!r}, expected {pattern}"
            time.sleep(0.05)
        return self.text(id)

    def press(self, key: str) -> None:
        self.browser.find_element("tag name", "body").send_keys(key)

    def choose(self, name: str, value: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.browser.find_element("id", f"filter-{name}")).select_by_value(value)

    def row(self) -> str:
        return self.browser.find_element("tag name", "body").get_attribute("data-row")


def test_review_by_keyboard_survives_a_reload_and_leaves_the_rejected_out(folder, address, browser):
    rows = list(sets.rows(folder))
    page = Page(browser, address)
    assert page.text("name") == "set"
    assert page.text("question") == rows[0]["question"]
    page.wait_for("counts", f"^0 accepted, 0 rejected, {len(rows)} unreviewed$")

    hard = [row for row in rows if row["stage"] == "hard" and "mass" in row["labels"]]
    page.choose("stage", "hard")
    page.choose("label", "mass")
    page.wait_for("position", f"^1 of {len(hard)}$")
    assert page.row() == hard[0]["id"]
    assert page.text("answer") == hard[0]["answer"]

    page.press("r")
    page.wait_for("position", "^2 of")
    page.press("a")
    page.wait_for("position", "^3 of")
    page.wait_for("counts", f"^1 accepted, 1 rejected, {len(rows) - 2} unreviewed$")
    assert sets.verdicts(folder) == {hard[0]["id"]: "reject", hard[1]["id"]: "accept"}

    browser.refresh()
    page.wait_for("position", f"^3 of {len(hard)}$")  # the address keeps filters and place
    page.press("k")
    page.wait_for("verdict", "^accepted$")
    page.press("k")
    page.wait_for("verdict", "^rejected$")
    assert page.row() == hard[0]["id"]

    page.choose("verdict", "reject")
    page.wait_for("position", "^1 of 1$")
    page.press("a")  # another mind: the last verdict counts
    page.wait_for("counts", "^2 accepted, 0 rejected")
    page.wait_for("empty", "No row agrees")  # nothing is rejected now
    page.choose("verdict", "accept")
    page.wait_for("position", "^1 of 2$")
    assert page.row() == hard[0]["id"]
    page.press("r")
    page.wait_for("counts", "^1 accepted, 1 rejected")

    left = [row["id"] for row in sets.rows(folder)]
    assert hard[0]["id"] not in left and len(left) == len(rows) - 1
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_overlay_stands_where_the_boxes_are_and_can_be_hidden(folder, address, browser):
    rows = list(sets.rows(folder))
    page = Page(browser, address)
    page.choose("stage", "medium")
    page.choose("label", "nodule")
    row = next(row for row in rows if row["stage"] == "medium" and "nodule" in row["labels"])
    page.wait_for("question", re.escape(row["question"]))
    drawn = browser.execute_script(
        "const image = document.getElementById('image').getBoundingClientRect();"
        "const s = Math.min(image.width / arguments[0], image.height / arguments[1]);"
        "const left = image.x + (image.width - s * arguments[0]) / 2;"
        "const top = image.y + (image.height - s * arguments[1]) / 2;"
        "return [...document.querySelectorAll('#boxes rect')].map(r => { const b = r.getBoundingClientRect();"
        "return [(b.x - left) / s, (b.y - top) / s, (b.right - left) / s, (b.bottom - top) / s]; });",
        row["width"],
        row["height"],
    )
    assert len(drawn) == len(row["boxes"])
    for found, box in zip(drawn, row["boxes"], strict=True):
        assert found == pytest.approx(box, abs=0.5)
    chip = browser.find_element("css selector", "#cot .box")
    number = int(re.search(r"<box:(\d+)>", row["cot"]).group(1))
    assert chip.text == "[" + ", ".join(f"{v:.0f}" for v in row["boxes"][number]) + "]"
    page.press("b")
    assert not browser.find_element("css selector", "#boxes rect").is_displayed()
    page.press("b")
    assert browser.find_element("css selector", "#boxes rect").is_displayed()


def test_nothing_that_agrees_is_said(folder, address, browser):
    page = Page(browser, address)
    page.choose("verdict", "accept")
    page.wait_for("empty", "No row agrees")
    assert not browser.find_element("tag name", "main").is_displayed()
    page.press("r")  # judges nothing
    page.choose("verdict", "")
    page.wait_for("position", "^1 of")
    assert sets.verdicts(folder) == {}
