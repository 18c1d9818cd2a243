"""The report in a real browser: it loads without a complaint or a request, its controls work, and it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from studies import Spend, write_study

from grpo_bench.analysis.attainment import attainment
from grpo_bench.analysis.hypervolume import grid
from grpo_bench.analysis.reading import curve_at
from grpo_bench.analysis.report.page import write_report
from grpo_bench.analysis.study import View, studies
from grpo_bench.analysis.summary import summarise

chromium = pytest.importorskip("chromium", reason="selenium is not installed")

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = chromium.MARKS

HOSTILE = "</script><img src=x onerror=alert(1)> [red]no\x1b[31m"
LABELS = {
    "flat": lambda seed, nfe: 0.5 + (0.10 + 0.01 * seed) * nfe / 64_000,
    "tree": lambda seed, nfe: 0.5 + (0.20 + 0.02 * (seed % 3)) * (nfe / 64_000) ** 0.5,
    "branch": lambda seed, nfe: 0.5 + 0.15 * min(1.0, nfe / 20_000) - 0.01 * seed,
}
SPEND = {"tree": Spend(rollout_nfe=600, train_nfe=100, reward_calls=400)}
HIDDEN_BY_LAYOUT = """
    const edge = document.documentElement.clientWidth + 1;
    return [...document.querySelectorAll("body *")]
        .filter(node => !node.closest(".scroll table, .plot, .hidden, .skip, pre"))
        .filter(node => node.getBoundingClientRect().right > edge).map(node => node.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Three methods on five seeds; one of them calls the reward more often."""
    folder = write_study(
        tmp_path_factory.mktemp("study"), LABELS, contrasts=("tree",), spend=SPEND, bases=(0.5, 0.51), images=True,
        title=HOSTILE, status={("branch", 4): ("failed", HOSTILE)},
    )  # fmt: skip
    return studies(folder)[0].views[0]


@pytest.fixture(scope="module")
def report(view: View, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(view.curves[0].folder.parent, path)
    return path


@pytest.fixture
def page(browser: Chrome, report: Path) -> Chrome:
    """The report, freshly loaded on a desktop by day."""
    chromium.appear(browser)
    chromium.load(browser, report)
    return browser


def find(chrome: Chrome, selector: str) -> WebElement:
    return chrome.find_element("css selector", selector)


def texts(chrome: Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent.trim())"
    found: list[str] = chrome.execute_script(script, selector)
    return found


def drawn(chrome: Chrome, plot: str = "pareto") -> dict[str, list[tuple[float, float]]]:
    """The points of each trace of a figure, as plotly holds them."""
    script = "return document.querySelector(arguments[0]).data.map(one => [one.name, [...one.x], [...one.y]])"
    found = chrome.execute_script(script, f".{plot}")
    return {name: list(zip(x, y, strict=True)) for name, x, y in found}


def choose_axis(chrome: Chrome, column: str) -> None:
    find(chrome, f".axes input[value={column}]").click()


def slide(chrome: Chrome, exponent: float) -> None:
    """Set the slider by what a reader's hand does to it: a value and an input event."""
    script = "const s = document.querySelector('.slider'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    chrome.execute_script(script, exponent)


def order(chrome: Chrome) -> list[str]:
    return texts(chrome, ".ranking tbody th")


def test_it_loads_without_a_complaint_and_asks_for_nothing_but_itself(page: Chrome) -> None:
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")

    assert chromium.complaints(page) == []
    assert [address.rsplit("/", 1)[1] for address in chromium.requests(page)] == ["report.html"]
    assert "/".join(sorted(drawn(page, "curves"))) == "branch/flat/seed 0/seed 1/seed 2/seed 3/seed 4/tree"


def test_hostile_text_is_inert(page: Chrome) -> None:
    inert = page.execute_script("return [...document.images].every(image => image.src.startsWith('data:image/'))")

    assert inert
    assert "</script><img src=x onerror=alert(1)> [red]no" in find(page, "h1").text
    assert "\x1b" not in page.page_source
    assert chromium.complaints(page) == []


def test_the_policy_stops_a_script_that_is_not_the_pages_own(page: Chrome) -> None:
    inject = "const s = document.createElement('script'); s.textContent = 'window.stolen = 1'; document.body.append(s)"

    page.execute_script(inject)

    assert page.execute_script("return window.stolen ?? null") is None
    assert any("Content Security Policy" in complaint for complaint in chromium.complaints(page))


@pytest.mark.parametrize("axis", ["nfe", "rollout-nfe", "reward-calls", "updates", "seconds"])
def test_each_axis_shows_what_the_summary_computed(page: Chrome, view: View, axis: str) -> None:
    summary = summarise(view)
    found = next(one for one in summary.axes if one.axis == axis)

    choose_axis(page, axis.replace("-", "_"))

    for method in summary.methods:
        cost, gold = drawn(page)[method.label][-1]
        assert cost == pytest.approx(found.cut, rel=1e-6)
        assert gold == pytest.approx(method.gold_at[found.axis].mean, abs=1e-6)
    leader = found.frontier[-1].label
    assert order(page)[0] == leader
    rows = {row.split()[0]: row for row in texts(page, ".ranking tbody tr")}
    estimate = summary.method("tree").difference_at[found.axis]
    shown = f"{estimate.mean:+.3f}{estimate.low:+.3f} to {estimate.high:+.3f}".replace("-", "−")
    assert rows[next(row for row in rows if row.startswith("tree"))].endswith(shown)


def test_the_bands_are_the_attainment_surfaces(page: Chrome, view: View) -> None:
    cost = grid(view.cut("nfe"))
    surfaces = attainment([(cost, curve_at(curve, "nfe", cost)) for curve in view.of("tree")])
    find(page, ".chosen option[value='1']").click()

    bands = drawn(page)

    for surface in surfaces:
        steps = bands[surface.label]
        for at, value in zip(surface.cost_P, surface.value_P, strict=True):
            assert any((here, there) == pytest.approx((at, value), rel=1e-6) for here, there in steps)
    assert "Shaded: attained by at least 2, 3 and 4 of 5 seeds of tree" in texts(page, ".pareto-note")[0]


def test_the_slider_recomputes_costs_and_ranking_from_counters(page: Chrome) -> None:
    before = drawn(page)["tree"]

    slide(page, 2)  # a reward call as dear as 100 evaluations

    assert find(page, ".axes input[value=latency]").is_selected()
    assert find(page, ".ratio").text == "100"
    # 64 iterations of 1,000 nfe: flat calls the reward 32 times in each, tree (nfe 900, 71 iterations) 400 times.
    # The cut is flat's 64 x (1,000 + 100 x 32) = 268,800; tree's first iterations already cost 40,900 each.
    tree = drawn(page)["tree"]
    assert tree[-1][0] == pytest.approx(268_800)
    assert tree != before
    assert tree[-1][1] < before[-1][1]
    assert order(page)[0] != "tree"
    assert "a reward call counting 100" in texts(page, ".ranking caption")[0]

    slide(page, -2)

    assert find(page, ".ratio").text == "0.01"
    assert order(page)[0] == "tree"


def test_the_slider_and_the_axes_obey_the_keyboard(page: Chrome) -> None:
    find(page, ".axes input[value=nfe]").send_keys("\ue015")  # down

    assert find(page, ".axes input[value=rollout_nfe]").is_selected()
    assert drawn(page)["flat"][-1][0] == pytest.approx(25_600)  # 64 iterations of 400

    find(page, ".slider").send_keys("\ue014")  # right: 10^0.05

    assert find(page, ".ratio").text == "1.1"


def test_a_table_sorts_by_keyboard_and_says_so(page: Chrome) -> None:
    table = "document.querySelectorAll('#study-1-view-1 h3 ~ .scroll table.data:not(.ranking)')[0]"
    button = page.execute_script(f"return {table}.querySelectorAll('thead button')[2]")
    rows = f"return [...{table}.tBodies[0].rows].map(row => row.cells[0].dataset.text)"

    button.send_keys("\ue007")  # enter

    head = page.execute_script("return arguments[0].closest('th')", button)
    assert (head.text.strip(" ▾▴"), head.get_attribute("aria-sort")) == ("gold", "descending")
    assert page.execute_script(rows) == ["tree", "branch", "flat"]

    button.send_keys(" ")

    assert head.get_attribute("aria-sort") == "ascending"
    assert page.execute_script(rows) == ["flat", "branch", "tree"]


def test_a_method_is_hidden_and_shown_by_its_button(page: Chrome) -> None:
    button = find(page, ".legend button:nth-child(2)")

    button.send_keys("\ue007")

    assert button.get_attribute("aria-pressed") == "false"
    assert set(drawn(page)) == {"flat", "branch"}

    button.click()

    assert "tree" in drawn(page)


def test_the_learning_curve_shows_another_quantity(page: Chrome) -> None:
    find(page, ".quantity option[value=gap]").click()

    assert all(value == pytest.approx(0.1) for _, value in drawn(page, "curves")["flat"])  # proxy is gold + 0.1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_and_page_follow_the_readers_scheme(page: Chrome, scheme: str) -> None:
    chromium.appear(page, scheme=scheme)

    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    ink = page.execute_script("return document.querySelector('.pareto').layout.font.color")
    assert (ground, ink) == {
        "light": ("rgb(255, 255, 255)", "#1d1f23"),
        "dark": ("rgb(22, 24, 28)", "#e6e7ea"),
    }[scheme]


@pytest.mark.parametrize("width", [320, 380, 768])
def test_no_width_makes_the_page_scroll_sideways(page: Chrome, width: int, report: Path) -> None:
    chromium.appear(page, width=width)
    chromium.load(page, report)

    assert page.execute_script("return document.documentElement.scrollWidth") == width
    assert page.execute_script(HIDDEN_BY_LAYOUT) == []


def test_print_fits_the_paper(page: Chrome, browser: Chrome) -> None:
    width = "return document.querySelector('.pareto svg.main-svg').getBoundingClientRect().width"
    on_screen = page.execute_script(width)

    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")

    assert page.execute_script(width) == 680 < on_screen  # the page behind a figure is no measure of the paper

    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = "return parseFloat(getComputedStyle(document.querySelector(arguments[0])).fontSize)"
    assert page.execute_script(size, ".data td small") < page.execute_script(size, ".data td")
    # a head with boxes in it is not repeated where its table goes on to another page
    assert find(page, ".data thead button").value_of_css_property("display") == "contents"

    chromium.appear(page)
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")

    assert page.execute_script(width) == on_screen


def test_print_is_on_white(page: Chrome) -> None:
    chromium.appear(page, scheme="dark")
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")

    assert page.execute_script("return document.querySelector('.pareto').layout.font.color") == "#1d1f23"

    chromium.appear(page, scheme="light")
    chromium.appear(page, scheme="dark")  # a change of the scheme in between draws again

    assert page.execute_script("return document.querySelector('.pareto').layout.font.color") == "#1d1f23"

    page.execute_script("window.dispatchEvent(new Event('afterprint'))")

    assert page.execute_script("return document.querySelector('.pareto').layout.font.color") == "#e6e7ea"
