"""The report as a file: whole, self-contained, in the rulebook's words, and no text in it is markup."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from studies import Spend, write_study

from grpo_bench.analysis.claims import read_claims
from grpo_bench.analysis.panels import first_middle_last
from grpo_bench.analysis.report.figures import _CONTRAST, _DARK, _luminance, dark, styles
from grpo_bench.analysis.report.images import data_uri, gallery
from grpo_bench.analysis.report.page import render, script_json, write_report
from grpo_bench.analysis.report.samples import SIGNS, samples
from grpo_bench.analysis.study import studies
from grpo_bench.analysis.summary import summarise
from grpo_bench.errors import UserError
from grpo_bench.palette import KNOWN, label_styles, method_colour
from grpo_bench.store.run import RunStore, point_name
from grpo_bench.store.suite import References
from grpo_bench.terminal.frontier import print_study, qualifications

BASES = (0.50, 0.51)


def line(end: float, spread: float = 0.01) -> object:
    """Gold from 0.5 straight to `end` at 64,000 nfe; seed s ends s - 2 spreads above it."""
    return lambda seed, nfe: 0.5 + (end - 0.5 + (seed - 2) * spread * (1 + end)) * nfe / 64_000


LABELS = {"flat": line(0.6), "tree": line(0.7), "nft": line(0.505, 0.0001)}


class Text(HTMLParser):
    """What a reader sees, and which elements there are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())


def page(folder: Path) -> tuple[str, Text]:
    """The report of a folder, and what is read in it."""
    written = render(studies(folder))
    read = Text()
    read.feed(written)
    return written, read


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on five seeds, one contrast, images, a tuning part, one failure and one missing cell."""
    return write_study(
        tmp_path_factory.mktemp("study"), LABELS, contrasts=("tree",), bases=BASES, images=True,
        factors={0.333333: -0.02, 1.0: 0.0, 3.0: 0.05},
        status={("nft", 4): ("diverged", "the loss became NaN")}, missing=[("nft", 3)],
        references=References(base=0.5, best=1.0, costs={"nfe": 64_000}, targets={"50": 0.55, "90": 0.59}),
        spend={"tree": Spend(rollout_nfe=700, train_nfe=100, reward_calls=216)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(study: Path) -> tuple[str, Text]:
    return page(study)


def test_the_verdict_names_the_leader_and_the_decided_contrast(report: tuple[str, Text]) -> None:
    text = report[1].text

    assert "tree has the highest mean gold at every cost up to 64,000 nfe." in text
    assert "There it leads flat by 0.100" in text
    # By seed tree - flat = 0.1 + (s - 2) 0.01 0.1: mean 0.1, sd 0.001581, half 2.776 x 0.001581 / sqrt(5) = 0.002.
    assert "tree is better than flat: +0.100 gold at the full budget (95% interval +0.098 to +0.102; Holm's p" in text
    assert "2 evaluations of it with other noise lie within 0.010 of each other" in text
    assert "Tier tiny: the built-in models, which say nothing about SD3.5" in text
    assert "nominal 95%, measured about 95% on normal data and 84 to 88% on skewed data" in text  # 3 seeds
    assert "Fewer than 5 seeds, so that no verdict is given: nft." in text


def test_a_verdict_on_less_than_the_noise_floor_is_qualified_in_report_and_terminal(tmp_path: Path) -> None:
    # Given differences of 0.02 and 0.1, nearly alike in every seed, and a floor of 0.03
    labels = {"flat": line(0.6), "mix": line(0.62), "tree": line(0.7)}
    write_study(tmp_path, labels, contrasts=("mix", "tree"), bases=(0.50, 0.53))

    summary = summarise(studies(tmp_path)[0].views[0])
    said = "mix differs from flat by no more than the noise floor: so much is sure for this evaluation's noise only."

    assert [one.verdict for one in summary.contrasts] == ["better", "better"]
    assert said in page(tmp_path)[1].text
    assert said in qualifications(summary, "nfe")


def test_failures_and_missing_cells_are_shown(report: tuple[str, Text]) -> None:
    text = report[1].text

    assert "the loss became NaN" in text
    assert "Cells of the suite that have no run yet: 1" in text


def test_a_contrasts_verdict_stands_beside_its_name(report: tuple[str, Text]) -> None:
    table = report[0].split("Differences from flat in gold at the full budget</span>")[1].split("</table>")[0]
    read = Text()
    read.feed(table)

    assert read.text.startswith("method verdict seeds difference")  # at the other end it would lie outside a screen
    assert "tree better primary 5 +0.100" in read.text
    assert "nft exploratory" in read.text


def test_every_published_claim_is_shown_with_its_verdict_where_one_can_be_judged(
    report: tuple[str, Text], tmp_path: Path
) -> None:
    shown = report[1].text.split("Published claims")[-1]

    assert [claim.id for claim in read_claims().claim if claim.id not in shown] == []
    # Final gold of 0.7 + ... against 0.6 + ...: ratios of 1.15 to 1.18, from runs of another tier and protocol.
    assert "No verdict here is about a claim itself" in shown
    assert "tree-dominates-pareto same direction at tier tiny" in shown
    assert "branch-mix-4.7x no runs" in shown
    assert "tree against flat, 5 paired seeds of study, tier tiny, controlled." in shown

    alone = write_study(tmp_path, {"flat": line(0.6)})

    assert "Published claims" not in page(alone)[1].text


def test_an_axis_that_is_not_offered_has_its_own_reason(tmp_path: Path) -> None:
    write_study(tmp_path, LABELS, range(2), spend={"tree": Spend(updates=0)}, timed=False)

    text = page(tmp_path)[1].text

    assert "No view over seconds: all runs shared their machine" in text
    assert "No view over updates: a run spent none between two of its points." in text


def test_without_a_script_nothing_dead_is_shown(report: tuple[str, Text]) -> None:
    figures = report[0].split('<div class="figures"')[1].split("<h3>Methods</h3>")[0]
    before, live = figures.split('<div class="live" hidden>')

    assert "every table on this page is complete without it" in before
    assert not re.search("<(form|select|table|figure|input)", before)
    assert all(f"<{part}" in live for part in ("form", "select", "table", "figure", "input"))


def test_both_rankings_of_the_learning_rates_are_shown(report: tuple[str, Text]) -> None:
    assert "all at the shared rate" in report[1].text
    # tree's tuning curve is that of seed 0, which ends at 0.7 - 2 x 0.017, and 0.05 more at three times the rate
    assert "+0.216 at × 3" in report[1].text


def test_the_fairness_card_marks_what_is_not_the_baselines(report: tuple[str, Text]) -> None:
    written, read = report
    card = written[written.index("Fairness</h3>") : written.index("Learning rates</h3>")]

    assert "kernel flow-sde; steps 10; guidance 1" in read.text
    # tree: 64,000 / (700 + 3 x 100) = 64 iterations of 216 reward calls; the others' 32 are the baseline's.
    assert re.search(r'class="number marked"[^>]*>13,824<', card)
    assert re.search(r'class="number"[^>]*>2,048<', card)


def test_every_image_has_an_alternative_text_and_the_base_is_shown_once(report: tuple[str, Text]) -> None:
    images = [attributes for tag, attributes in report[1].tags if tag == "img"]

    # The base once, and middle and last of three methods, eight prompts each.
    assert len(images) == 8 * (1 + 3 * 2)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in images)
    assert images[0]["alt"] == "prompt 0: the untrained base"
    assert "prompt 7: tree, seed 2, last point, 64 iterations" in [image["alt"] for image in images]


def test_nothing_is_fetched_and_only_its_own_scripts_may_run(report: tuple[str, Text]) -> None:
    written, read = report
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv"))
    scripts = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    sheets = re.findall(r"<style[^>]*>(.*?)</style>", written, re.DOTALL)

    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["script-src"].split() == [hashed(script) for script in scripts]
    assert rules["style-src"].split() == [hashed(sheet) for sheet in sheets]
    assert "unsafe" not in policy
    assert not [a for _, a in read.tags for name in a if name.startswith("on") or name == "style"]
    assert not [a for tag, a in read.tags if tag in ("link", "iframe", "object") or (tag == "script" and "src" in a)]


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_below_five_seeds_the_word_better_is_not_used(tmp_path: Path) -> None:
    write_study(tmp_path, LABELS, range(4), contrasts=("tree",))

    text = page(tmp_path)[1].text

    assert "better" not in text.split("Published claims")[0]  # which are quoted
    assert "gold at the full budget over 4 common seeds, too few for a verdict (5 are needed)" in text
    assert "there is no noise floor to hold a gain against" in text.replace("that there", "there")


def test_without_named_contrasts_every_difference_is_exploratory(tmp_path: Path) -> None:
    write_study(tmp_path, LABELS)

    text = page(tmp_path)[1].text

    assert "No contrast was named before the runs: every difference from flat is exploratory" in text
    assert "better" not in text.split("Published claims")[0]


def test_one_seed_one_method_and_no_finished_run_are_sentences(tmp_path: Path) -> None:
    alone = write_study(tmp_path / "alone", {"flat": line(0.6)}, range(1))
    dead = write_study(tmp_path / "dead", {"flat": line(0.6)}, range(1), status={("flat", 0): ("failed", "no memory")})

    assert "Only flat has finished runs, so there is nothing to compare it with yet." in page(alone)[1].text
    assert "No images were stored." in page(alone)[1].text
    assert "No run has finished, so there is nothing to compare yet." in page(dead)[1].text
    assert "no memory" in page(dead)[1].text


def test_two_protocols_are_two_views(tmp_path: Path) -> None:
    write_study(tmp_path, LABELS, range(2), suite=False)
    write_study(tmp_path, LABELS, range(2), suite=False, name="paper", protocol="paper", recipe="flow-grpo")

    written, read = page(tmp_path)

    assert [a["data-view"] for _, a in read.tags if "data-view" in a] == ["study-1-view-1", "study-1-view-2"]
    assert "controlled protocol" in read.text
    assert "paper protocol" in read.text
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', written).group(1))  # type: ignore[union-attr]
    assert [len(view["runs"]) for view in data.values()] == [6, 6]


HOSTILE = "</script><img src=x onerror=alert(1)> [red]no\x1b[31m{{ 7 * 7 }}"


def hostile_study(folder: Path) -> Path:
    """A study whose title, reason and prompts are an attack; a reward cannot be one (test_hostile_runs)."""
    write_study(
        folder, {"flat": line(0.6), "tree": line(0.7)}, range(2), title=HOSTILE, images=True,
        status={("tree", 1): ("failed", HOSTILE)},
    )  # fmt: skip
    for prompts in folder.glob("*/images/prompts.json"):
        prompts.write_text(json.dumps([f"{HOSTILE} {number}" for number in range(8)]), encoding="utf-8")
    return folder


def test_hostile_text_is_text_everywhere(tmp_path: Path) -> None:
    written, read = page(hostile_study(tmp_path))
    shown = "</script><img src=x onerror=alert(1)> [red]no{{ 7 * 7 }}"

    assert "\x1b" not in written
    assert {a.get("src") for tag, a in read.tags if tag == "img"} - {None} == {
        a["src"] for tag, a in read.tags if tag == "img" and (a["src"] or "").startswith("data:image/png;base64,")
    }
    assert sum(tag == "script" for tag, _ in read.tags) == 3
    assert read.text.count(shown) >= 3  # the title, the reason, a prompt
    assert html.escape(shown, quote=False) in written


def test_hostile_text_does_not_steer_the_terminal(tmp_path: Path) -> None:
    study = studies(hostile_study(tmp_path))[0]
    sink = io.StringIO()

    print_study(study, [summarise(view) for view in study.views], "nfe", Console(file=sink, force_terminal=True))

    assert "\x1b[31m" not in sink.getvalue()  # the attack's colour; rich's own red is of its tables' style
    assert "[red]no" in sink.getvalue()  # shown as it is, not obeyed


def test_json_in_a_script_cannot_end_it() -> None:
    written = script_json({"name": "</script><!--\u2028&'\"", "number": 0.5})

    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == {"name": "</script><!--\u2028&'\"", "number": 0.5}
    with pytest.raises(ValueError, match="Out of range"):
        script_json({"number": math.nan})


def test_it_is_written_whole_or_not_at_all(study: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"

    size = write_report(study, target)

    assert target.stat().st_size == size < 15_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UserError, match=r"^Could not write the report to /proc/report.html: .*[^\n]*$"):
        write_report(study, Path("/proc/report.html"))


def test_the_same_runs_give_the_same_bytes(study: Path) -> None:
    assert render(studies(study)) == render(studies(study))


def test_images_too_large_for_their_share_are_left_out_and_said_so(study: Path) -> None:
    view = studies(study)[0].views[0]

    shown = gallery(view, 200)

    assert shown.strips == ()
    assert shown.remarks == ("The images are left out: even small ones would make this file too large.",)


def test_a_small_image_is_inlined_exactly_and_a_large_one_reduced(study: Path) -> None:
    image = first_middle_last(studies(study)[0].views[0].curves[0].folder)[-1].images_PIHWC[3, 0]
    large = np.zeros((300, 600, 3), np.uint8)

    exact = Image.open(io.BytesIO(base64.b64decode(data_uri(image, 256).split(",")[1])))
    reduced = Image.open(io.BytesIO(base64.b64decode(data_uri(large, 256).split(",")[1])))

    assert np.array_equal(np.asarray(exact), image)
    assert (reduced.format, reduced.size) == ("JPEG", (256, 128))


def test_an_image_of_any_size_stands_whole_in_the_page(tmp_path: Path) -> None:
    # given images of noise, 130 pixels wide: more than ten thousand characters each
    write_study(tmp_path, {"flat": line(0.6)}, range(1), images=True)  # type: ignore[dict-item]
    (run,) = (RunStore(path.parent) for path in tmp_path.glob("*/run.json"))
    noise = np.random.default_rng(0).integers(0, 256, (16, 130, 130, 3), dtype=np.uint8)
    for row in run.rows():
        run.save_images(point_name(int(row["iteration"] or 0)), noise, 2)
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', render(studies(tmp_path)))

    assert sources and max(map(len, sources)) > 10_000
    for source in sources:
        assert Image.open(io.BytesIO(base64.b64decode(source, validate=True))).convert("RGB").size == (130, 130)


def test_a_sample_shows_a_labels_dashes_and_sign_as_the_figures_do(tmp_path: Path) -> None:
    write_study(tmp_path, {"flat": line(0.6), "flat-window": line(0.7), "mix": line(0.8)}, range(2))

    drawn = samples(styles(studies(tmp_path)))

    assert {label: (one.dashes, one.hollow) for label, one in drawn.items()} == {
        "flat": ("", False),
        "flat-window": ("7 4", True),  # the same method as mix, which has the solid line
        "mix": ("", False),
    }
    assert drawn["mix"].sign == drawn["flat-window"].sign != drawn["flat"].sign
    assert {label_styles({name: name})[name].marker for name in (*KNOWN, *map(str, range(50)))} == set(SIGNS)


def test_every_colour_can_be_seen_on_the_dark_ground() -> None:
    for method in KNOWN:
        mixed = dark(method_colour(method))
        channels = [int(mixed[place : place + 2], 16) for place in (1, 3, 5)]
        assert (_luminance(channels) + 0.05) / (_luminance(_DARK) + 0.05) >= _CONTRAST
    assert dark("#E69F00") == "#E69F00"  # light enough as it is
