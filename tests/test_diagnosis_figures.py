"""What goes with a ranking: gradient quality beside gain, who leads at what price, gold against distance."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import Spend, write_study

from grpo_bench.analysis.breakeven import break_even, spent
from grpo_bench.analysis.plots import breakeven, distance, gradients, potential
from grpo_bench.analysis.plots.diagnosis import DATA, draw_diagnosis, ranks_at
from grpo_bench.analysis.report.page import write_report
from grpo_bench.analysis.study import View, studies
from grpo_bench.commands.diagnose import _view
from grpo_bench.errors import UserError
from grpo_bench.store.diagnosis import Diagnosis, LabelRecord, PolicyRecord, PotentialRecord, rounded, write_diagnosis

QUALITIES = {"flat": 0.2, "tree": 0.5, "mix": 0.8, "branch": 0.4}
GAINS = {"flat": 0.1, "tree": 0.3, "mix": 0.4, "branch": 0.05}
PRICES = {"flat": Spend(400, 200, reward_calls=64), "tree": Spend(400, 200, reward_calls=16)}


def label(name: str, q: float) -> LabelRecord:
    """Eight equal estimates at cosine `q` with the targets, of 16,000 evaluations each: q is their quality."""
    return LabelRecord(
        id=name, label=name, method=name, nfe_K=(16_000,) * 8, gg_KK=tuple((1.0,) * (k + 1) for k in range(8)),
        gh_KJ=((q,) * 12,) * 8, share_KT=((0.5, 0.5, 0.0),) * 8, weight_KT=((1.5, 0.5, 0.0),) * 8,
    )  # fmt: skip


def diagnosis(labels: dict[str, float] = QUALITIES, *, branched: bool = True) -> Diagnosis:
    shares = PotentialRecord(
        kernel="flow-sde", noise=0.7, trunks=4, children=6, sigmas=(0.6,),
        within={"shapes": ((3.0, 3.0, 3.0),)}, between={"shapes": ((1.0, 1.0, 1.0),)},
    )  # fmt: skip
    policy = PolicyRecord(
        id="base", name="base", sigmas=(1.0, 0.6, 0.2, 0.0), hh_JJ=tuple((1.0,) * (j + 1) for j in range(12)),
        labels=tuple(label(name, q) for name, q in labels.items()), potential=shares if branched else None,
    )  # fmt: skip
    return Diagnosis(workload="shapes", reward="shapes-pref", numerics_version=1, policies=(policy,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    golds = {name: (lambda seed, nfe, gain=gain: 0.5 + gain * nfe / 64_000) for name, gain in GAINS.items()}
    return write_study(tmp_path_factory.mktemp("study"), golds, range(5), contrasts=("tree",), spend=PRICES)


@pytest.fixture(scope="module")
def view(folder: Path) -> View:
    (study,) = studies(folder)
    return study.views[0]


def test_a_label_stands_at_its_quality_and_its_gain(view: View) -> None:
    data = gradients.collect(diagnosis(), view)

    assert data is not None
    (panel,) = data.panels
    assert {pair.label: (pair.q, round(pair.gain, 9), pair.seeds) for pair in panel.pairs} == {
        name: (pytest.approx(q), GAINS[name], 5) for name, q in QUALITIES.items()
    }
    # ranks 1 3 4 2 against 2 3 4 1: two of them one apart
    assert panel.ranks.value == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert ranks_at(diagnosis().policies[0], view) == panel.ranks


def test_a_label_without_a_run_is_not_drawn(view: View) -> None:
    data = gradients.collect(diagnosis({"mix": 0.8, "nft": 0.5}), view)

    assert data is not None and [pair.label for pair in data.panels[0].pairs] == ["mix"]
    assert math.isnan(data.panels[0].ranks.value)
    assert gradients.collect(diagnosis({"nft": 0.5}), view) is None


def test_weights_move_what_is_trained_and_keep_its_sum() -> None:
    data = potential.collect(diagnosis({"tempflow": 0.5}))

    assert data is not None
    assert data.courses[0].share == (0.75,) and data.courses[0].sigma == (0.6,)
    (trained,) = data.trained
    assert trained.share == (0.5, 0.5, 0.0) and trained.weighted == (0.75, 0.25, 0.0)
    assert potential.collect(diagnosis(branched=False)) is None


def test_a_price_is_paid_for_each_reward_call_and_each_backward_pass(view: View) -> None:
    run = view.of("flat")[0]  # an iteration: 400 rollout, 200 train, 64 calls
    iteration = run.column("iteration")

    assert spent(run, 0, 2).tolist() == run.cost("nfe").tolist()
    assert spent(run, 10, 5).tolist() == (iteration * (400 + 6 * 200 + 640)).tolist()


def test_dear_rewards_let_the_label_lead_that_asks_for_few(tmp_path: Path) -> None:
    # given a flat that gains twice what tree gains for its nfe, with 64 calls an iteration to tree's 16
    golds = {
        name: (lambda seed, nfe, gain=gain: 0.5 + gain * nfe / 64_000) for name, gain in (("flat", 0.4), ("tree", 0.2))
    }
    (study,) = studies(write_study(tmp_path, golds, range(5), spend=PRICES))
    leads = {lead.price: lead for lead in break_even(study.views[0], (0.0, 10.0, 1000.0), (2.0,))}

    # then at no price flat leads by .2; at 10, tree ends at 64 x 1160 = 74,240, which flat reaches after 74,240 / 1640
    # of its iterations; at 1000 tree ends at 64 x 17,000, flat after 64 x 17,000 / 65,000
    assert (leads[0.0].label, leads[0.0].led, leads[0.0].seeds) == ("flat", 5, 5)
    assert leads[0.0].margin == pytest.approx(0.2)
    assert leads[10.0].cost == 64 * 1160
    assert leads[10.0].margin == pytest.approx(0.4 * 1160 / 1640 - 0.2)
    assert leads[1000.0].label == "tree"
    assert leads[1000.0].margin == pytest.approx(0.2 - 0.4 * 17_000 / 65_000)


def test_one_label_alone_leads_nowhere(tmp_path: Path) -> None:
    (study,) = studies(write_study(tmp_path, {"flat": lambda seed, nfe: 0.5 + nfe / 1e6}, range(2)))

    assert break_even(study.views[0]) == () and breakeven.collect(study.views[0]) is None


def test_gold_and_its_parts_are_read_where_the_policy_moved_as_far(view: View) -> None:
    # given base_distance (nfe / 64,000)^2 x scale, so that its root is linear in the gain, and flat moves half as far
    for label_, scale in (("flat", 0.25), ("tree", 1.0), ("mix", 1.0), ("branch", 1.0)):
        for curve in view.of(label_):
            points: pd.DataFrame = curve.points
            share = points["nfe"] / points["nfe"].iloc[-1]
            points["base_distance"] = scale * share**2
            points["reward/shapes-correctness"] = 0.3 + 0.1 * share

    data = distance.collect(view)

    assert data is not None and data.scores == ("gold", "reward/shapes-correctness")
    ends = {path.label: (path.distance[-1], path.gains["gold"][-1]) for path in data.paths}
    assert ends["flat"] == (pytest.approx(0.5), pytest.approx(GAINS["flat"], rel=0.02))
    assert ends["tree"] == (pytest.approx(1.0), pytest.approx(GAINS["tree"], rel=0.02))
    tree = next(path for path in data.paths if path.label == "tree")
    assert np.allclose(tree.gains["reward/shapes-correctness"], 0.1 * np.array(tree.distance))


@pytest.mark.slow
def test_the_figures_are_files_with_their_numbers(view: View, tmp_path: Path) -> None:
    drawn = draw_diagnosis(diagnosis(), view, tmp_path / "plots", ("png",))

    names = {file.name for file in drawn.files}
    assert {"gradients.png", "potential.png", "break-even.png", DATA} <= names and not drawn.notes


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    drawn = draw_diagnosis(diagnosis(branched=False), None, tmp_path, ("png",))

    assert [file.name for file in drawn.files] == [DATA] and len(drawn.notes) == 2


def test_runs_of_another_workload_do_not_go_with_it(folder: Path) -> None:
    assert _view(folder, "shapes", "shapes-pref").labels

    with pytest.raises(UserError, match="0 sets of runs"):
        _view(folder, "glyphs", "shapes-pref")


def test_stored_numbers_have_eight_digits() -> None:
    assert rounded([1 / 3, 2e-20]) == (0.33333333, 2e-20)


def test_the_report_shows_quality_beside_gain_and_who_leads_at_what_prices(folder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "shapes.json"
    write_diagnosis(stored, diagnosis())
    write_report(folder, tmp_path / "r.html", [stored])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")

    assert "Gradient quality at base: rank correlation of q and gain 0.80" in page
    assert 'class="figure" src="data:image/png;base64,' in page
    # flat calls the reward most, and leads nowhere; where calls are dear, tree's sixteen an iteration are fewest
    assert "Which method, at what prices" in page and "explains" not in page
    write_report(folder, tmp_path / "without.html")
    assert "Gradient quality at" not in (tmp_path / "without.html").read_text(encoding="utf-8")


def test_a_diagnosis_of_another_workload_is_refused(folder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "glyphs.json"
    write_diagnosis(stored, diagnosis().model_copy(update={"workload": "glyphs"}))
    with pytest.raises(UserError, match="is about glyphs"):
        write_report(folder, tmp_path / "r.html", [stored])
    with pytest.raises(UserError, match="no diagnosis can be read"):
        write_report(folder, tmp_path / "r.html", [tmp_path / "none.json"])
