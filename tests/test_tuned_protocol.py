"""Two equally good labels, tuned: seldom called different; at one shared rate: mostly."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from running import benchmark_module

SCRIPT = benchmark_module("tuned_protocol")


def test_without_noise_the_rule_finds_the_optimum() -> None:
    world = SCRIPT.World(curvature=0.07, steeper=1, sd=0)

    choice = SCRIPT.tune(np.random.default_rng(0), 0.8, 2, world)

    assert SCRIPT.steps(choice.factor) == pytest.approx(0.8)
    assert SCRIPT.steps(choice.best) == pytest.approx(1)


def test_a_gain_falls_with_the_square_of_the_distance() -> None:
    world = SCRIPT.World(curvature=0.07, steeper=2, sd=0)

    assert world.gain(-1.0, 1.0) == pytest.approx(-0.28)
    assert world.gain(1.5, 1.0) == pytest.approx(-0.035)


def test_the_script_prints_one_line_of_json_and_tuned_is_the_lowest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tuned_protocol.py", "--suites", "40"])
    SCRIPT.main()

    (line,) = capsys.readouterr().out.splitlines()
    different = json.loads(line)["different"]
    assert different["tuned"] < different["best"] < different["shared"]


@pytest.mark.slow
@pytest.mark.parametrize("tuning_seeds", [2, 3])
def test_tuned_calls_equal_labels_different_as_often_as_chance_and_shared_mostly(tuning_seeds: int) -> None:
    different = SCRIPT.simulate(500, tuning_seeds)

    assert 3 <= different["tuned"] <= 8
    assert different["best"] > 30
    assert different["shared"] > 50
    assert different["unbracketed"] == 0
