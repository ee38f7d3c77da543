"""The page of a report."""

import re

import pytest

from fastgrad.page import Page, plain

matplotlib_figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def page() -> Page:
    page = Page("Runs & more")
    page.heading("First")
    page.paragraph("Text with `code` and <b>no tag</b>.")
    page.table(("name", "value"), [("a|b", "1.5"), (plain("*c*"), "-2e-3")])
    figure = matplotlib_figure.Figure()
    figure.add_subplot().plot([1, 2])
    page.figure("line", figure, "a line")
    return page


def test_page_and_markdown_say_the_same(page, tmp_path):
    html, markdown = (path.read_text() for path in page.write(tmp_path))
    assert "<h2" in html and "## First" in markdown and "<code>code</code>" in html
    assert '<td>a|b</td>' in html and "a\\|b" in markdown and "<td>*c*</td>" in html
    assert "<title>Runs &amp; more</title>" in html
    assert "--:" in markdown and 'style="text-align:right"' in html
    assert "![a line](line.png)" in markdown and (tmp_path / "line.png").stat().st_size > 1000


def test_page_loads_nothing_and_obeys_no_tag(page):
    html = page.html()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) == 2 and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "<b>no tag" not in html and "&lt;b&gt;no tag" in html


def test_faults_are_named(page):
    with pytest.raises(ValueError, match="expected 2 cells in every row, got 1"):
        page.table(("a", "b"), [("c",)])
    with pytest.raises(ValueError, match="expected a new name"):
        page.figure("line", matplotlib_figure.Figure(), "again")
    with pytest.raises(ValueError, match="expected a new name"):
        page.figure("../line", matplotlib_figure.Figure(), "elsewhere")
