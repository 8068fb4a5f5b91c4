"""The report in a browser: the slider, the values of charts, small and dark screens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stylenat.reporting.document import write_report

Opening = Callable[..., object]


@pytest.fixture(scope="session")
def report(whole_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    write_report([whole_run], path)
    return path


@pytest.fixture
def open_report(browser, report) -> Iterator[Opening]:
    """Opens the page. In the end nothing has been fetched but it, and nothing has failed."""
    pages, faults, requests = [], [], []

    def opening(**options: object) -> object:
        page = browser.new_page(**options)
        pages.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opening
    for page in pages:
        page.close()
    assert faults == []
    fetched = [url for url in requests if not url.startswith("data:")]
    assert fetched == [report.as_uri()] * len(pages)


def shown(page) -> list[str]:
    """What the grids of samples that can be seen stand for."""
    return page.eval_on_selector_all(
        ".slides .grid",
        "grids => grids.filter(g => g.offsetParent !== null).map(g => g.dataset.kimg)",
    )


def test_the_slider_moves_the_picture(open_report):
    page = open_report()
    assert shown(page) == ["0.04 kimg"]
    assert page.inner_text("output") == "0.04 kimg"
    page.focus("input[type=range]")
    page.keyboard.press("ArrowLeft")
    assert shown(page) == ["0.032 kimg"]
    page.keyboard.press("Home")
    assert shown(page) == ["0 kimg"]
    assert page.inner_text("output") == "0 kimg"
    loaded = "image => image.complete && image.naturalWidth"
    assert page.eval_on_selector(".slides .now img", loaded) == 32


def test_a_chart_tells_its_values_where_the_pointer_is(open_report):
    page = open_report()
    chart = page.locator(".chart", has=page.get_by_role("heading", name="losses", exact=True))
    before = chart.locator("figcaption").inner_text()
    assert before.startswith("last value")
    width = chart.locator("> svg").bounding_box()["width"]
    chart.locator("> svg").hover(position={"x": 0.16 * width, "y": 50})
    assert "at 0.008 kimg" in chart.locator(".where").inner_text()
    assert chart.locator("figcaption").inner_text() != before
    assert chart.locator(".mark").first.get_attribute("cx") == "66"
    page.mouse.move(0, 0)
    assert chart.locator("figcaption").inner_text() == before
    chart.locator("> svg").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "at 0.032 kimg" in chart.locator(".where").inner_text()


def test_a_narrow_screen_scrolls_only_downwards(open_report):
    page = open_report(viewport={"width": 400, "height": 800})
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert shown(page) == ["0.04 kimg"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out_in_both_schemes(open_report, scheme):
    page = open_report(color_scheme=scheme)
    colors = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const canvas = document.createElement("canvas").getContext("2d");
          const luminance = (name) => {
            canvas.fillStyle = style.getPropertyValue(name);
            const hex = canvas.fillStyle;
            return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
              .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
              .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          };
          return Object.fromEntries(["--paper", "--ink", "--soft", "--c0", "--c1", "--c2", "--c3",
            "--c4", "--c5"].map((name) => [name, luminance(name)]));
        }"""
    )
    paper = colors.pop("--paper")
    assert (paper > 0.5) == (scheme == "light")
    for name, value in colors.items():
        contrast = (max(paper, value) + 0.05) / (min(paper, value) + 0.05)
        assert contrast >= (4.5 if name in ("--ink", "--soft") else 3), (name, contrast)


def test_without_javascript_every_grid_and_value_is_there(browser, report):
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    assert page.locator(".slides .grid").count() == 4
    assert all(page.locator(".slides .grid").nth(index).is_visible() for index in range(4))
    assert not page.locator("input[type=range]").is_visible()
    assert page.locator(".chart .value").first.inner_text() != ""
    page.close()
