"""Where the mean of new seeds should lie: by hand, and as often as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_tuned_verdicts import only, study

from grpo_bench.analysis.replication import prediction, replications
from grpo_bench.analysis.statistics import t_interval
from grpo_bench.analysis.summary import summarise


def test_the_interval_is_the_rule_of_the_issue_written_out() -> None:
    values = np.array([0.11, 0.14, 0.09, 0.12, 0.1, 0.13, 0.12, 0.08, 0.15, 0.11])

    low, high = prediction(t_interval(values), 5, family=4)

    half = stats.t.ppf(1 - 0.05 / 8, 9) * values.std(ddof=1) * np.sqrt(1 / 10 + 1 / 5)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_it_holds_the_mean_of_new_seeds_as_often_as_it_says() -> None:
    stream = np.random.default_rng(0)
    inside = 0
    for _ in range(4000):
        low, high = prediction(t_interval(stream.normal(0.1, 0.02, 10)), 5)
        inside += low <= stream.normal(0.1, 0.02, 5).mean() <= high

    assert inside / 4000 == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of the simulation


def test_a_contrast_is_compared_with_itself_on_other_runs(tmp_path: Path) -> None:
    published, same, other = (summarise(only(study(tmp_path / str(gain), gain=gain))) for gain in (0.2, 0.2001, 0.25))

    (found,) = replications(published, same)
    assert (found.label, found.baseline, found.again.n) == ("tree", "flat", 5)
    (apart,) = replications(published, other)
    assert apart.again.mean - apart.published.mean == pytest.approx(0.05, rel=1e-3)
    assert not apart.inside
