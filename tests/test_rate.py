"""The tuning rule: which factors are tried, and what they choose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import pytest

from grpo_bench.analysis.rate import Gain, Trial, choose, next_factors, spread
from grpo_bench.errors import UserError

SEEDS = (300, 301)


def trials(gains: Mapping[float, Gain], seeds: tuple[int, ...] = SEEDS) -> list[Trial]:
    """Both seeds of a factor have its gain."""
    return [Trial(factor, seed, gain) for factor, gain in gains.items() for seed in seeds]


def tuned(response: Callable[[float], Gain]) -> tuple[dict[float, Gain], list[Trial]]:
    """The factors that the rule tries of a response to the factor, and their trials."""
    tried: dict[float, Gain] = {}
    for _ in range(9):
        needed = next_factors(trials(tried), SEEDS)
        if not needed:
            return tried, trials(tried)
        tried |= {factor: response(factor) for factor in needed}
    raise AssertionError("the rule never stops")


def quadratic(optimum: float) -> Callable[[float], Gain]:
    """A gain of .2 at 3 to the `optimum`, .07 less one step beside it."""
    return lambda factor: 0.2 - 0.07 * (math.log(factor, 3) - optimum) ** 2


def test_first_come_the_three() -> None:
    assert next_factors([], SEEDS) == pytest.approx((1 / 3, 1, 3))


def test_a_factor_that_lacks_a_seed_is_still_needed() -> None:
    half = [*trials({1 / 3: 0.1, 1.0: 0.2}), Trial(3, 300, 0.1)]

    assert next_factors(half, SEEDS) == (3,)
    assert next_factors(half[:3], SEEDS) == pytest.approx((1, 3))
    # ... nor is one that was killed in the middle of an extension.
    assert next_factors([*trials({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.3}), Trial(9, 301, 0.1)], SEEDS) == (9,)


@pytest.mark.parametrize(
    ("gains", "needed"),
    [
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.1}, []),
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.3}, [9]),
        ({1 / 3: 0.3, 1.0: 0.2, 3.0: 0.1}, [1 / 9]),
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.3, 9.0: 0.4}, [27]),
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.3, 9.0: 0.2}, []),
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.3, 9.0: 0.4, 27.0: 0.5}, []),
        ({1 / 3: 0.3, 1.0: 0.2, 3.0: 0.1, 1 / 9: 0.4, 1 / 27: 0.5}, []),
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: "diverged"}, []),
        ({1 / 3: 0.1, 1.0: "diverged", 3.0: "diverged"}, [1 / 9]),
        ({1 / 3: "diverged", 1.0: "diverged", 3.0: "diverged"}, []),
    ],
)
def test_an_edge_that_is_best_is_extended_at_most_twice(gains: dict[float, Gain], needed: list[float]) -> None:
    assert next_factors(trials(gains), SEEDS) == pytest.approx(needed)


@pytest.mark.parametrize("optimum", [-2.3, -1.7, -0.6, -0.2, 0, 0.5, 0.9, 1.4, 2.4])
def test_a_quadratic_response_gives_back_its_optimum(optimum: float) -> None:
    tried, rows = tuned(quadratic(optimum))
    choice = choose(rows, SEEDS)

    assert choice.bracketed and choice.factor is not None and choice.best is not None
    assert math.log(choice.factor, 3) == pytest.approx(optimum)
    assert abs(math.log(choice.factor / choice.best, 3)) <= 0.5 + 1e-9
    assert len(tried) == 3 + max(0, math.ceil(abs(optimum) - 0.5))


@pytest.mark.parametrize("optimum", [-1.7, 0.2, 2.4])
def test_trials_that_come_one_at_a_time_are_the_same_trials(optimum: float) -> None:
    # given a sweep that is killed after every trial, and begins with whichever is still needed
    response, rows = quadratic(optimum), list[Trial]()
    while needed := next_factors(rows, SEEDS):
        done = {(row.factor, row.seed) for row in rows}
        factor, seed = next((f, s) for f in reversed(needed) for s in SEEDS if (f, s) not in done)
        rows.append(Trial(factor, seed, response(factor)))

    tried, whole = tuned(response)
    assert {row.factor for row in rows} == set(tried)
    assert choose(rows, SEEDS) == choose(whole, SEEDS)


@pytest.mark.parametrize(("optimum", "edge"), [(3.2, 27), (-4, 1 / 27)])
def test_an_optimum_beyond_two_extensions_is_not_bracketed(optimum: float, edge: float) -> None:
    tried, rows = tuned(quadratic(optimum))
    choice = choose(rows, SEEDS)

    assert len(tried) == 5
    assert choice.factor == choice.best == pytest.approx(edge)
    assert not choice.bracketed and f"{edge:g}" in choice.reason


def test_the_vertex_by_hand() -> None:
    # Through (-1, .1), (0, .3), (1, .2): half of (.1 - .2) / (.1 - .6 + .2) = 1/6 of a step.
    assert choose(trials({1 / 3: 0.1, 1.0: 0.3, 3.0: 0.2}), SEEDS).factor == pytest.approx(3 ** (1 / 6))


def test_the_mean_over_seeds_decides() -> None:
    rows = [
        Trial(factor, seed, gain)
        for factor, gains in {1 / 3: (0.0, 0.2), 1.0: (0.5, 0.1), 3.0: (0.1, 0.3)}.items()
        for seed, gain in zip(SEEDS, gains, strict=True)
    ]

    assert choose(rows, SEEDS).factor == pytest.approx(3 ** (1 / 6))
    assert list(spread(rows, SEEDS).items()) == [
        (pytest.approx(1 / 3), pytest.approx(0.1)),
        (1, pytest.approx(0.3)),
        (3, pytest.approx(0.2)),
    ]


def test_beside_a_diverged_neighbour_the_best_itself() -> None:
    choice = choose(trials({1 / 3: 0.1, 1.0: 0.3, 3.0: "diverged"}), SEEDS)

    assert choice.factor == 1 and choice.bracketed


def test_one_diverged_seed_makes_a_factor_diverge() -> None:
    rows = [*trials({1 / 3: 0.1, 1.0: 0.3}), Trial(3, 300, 0.9), Trial(3, 301, "diverged")]

    assert choose(rows, SEEDS).best == 1
    assert spread(rows, SEEDS)[3] == -math.inf


def test_where_every_factor_diverged_there_is_no_choice() -> None:
    choice = choose(trials({1 / 3: "diverged", 1.0: "diverged", 3.0: "diverged"}), SEEDS)

    assert choice.factor is None and choice.best is None and not choice.bracketed


@pytest.mark.parametrize(
    ("gains", "best", "steps"),
    [
        ({1 / 3: 0.2, 1.0: 0.2, 3.0: 0.1}, 1, -0.5),  # the vertex lies between the two that are equal
        ({1 / 3: 0.2, 1.0: 0.2, 3.0: 0.2}, 1, 0),
        ({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.3, 9.0: 0.3}, 3, 1.5),
        ({1 / 9: 0.1, 1 / 3: 0.3, 1.0: 0.2, 3.0: 0.3, 9.0: 0.1}, 1 / 3, -1 + 0.5 * 0.1 / 0.3),
    ],
)
def test_of_equal_gains_the_factor_nearest_to_one_then_the_lower(
    gains: dict[float, Gain], best: float, steps: float
) -> None:
    choice = choose(trials(gains), SEEDS)

    assert choice.best == pytest.approx(best)
    assert choice.bracketed and choice.factor is not None
    assert math.log(choice.factor, 3) == pytest.approx(steps)
    assert next_factors(trials(gains), SEEDS) == ()


def test_the_order_of_trials_does_not_matter() -> None:
    rows = trials({1 / 3: 0.1, 1.0: 0.3, 3.0: 0.2}, (300,))

    assert len({choose(order, (300,)) for order in itertools.permutations(rows)}) == 1


def test_a_factor_written_with_six_digits_is_the_same_factor() -> None:
    assert next_factors(trials({0.333333: 0.1, 1.0: 0.2, 3.0: 0.1}), SEEDS) == ()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (trials({1 / 3: 0.1, 1.0: 0.2}), "2"),
        (trials({1 / 3: 0.1, 1.0: 0.2, 0.0: 0.1}), "above 0"),
        (trials({1 / 3: 0.1, 1.0: 0.2, -3.0: 0.1}), "above 0"),
        (trials({1 / 3: 0.1, 1.0: 0.2, math.inf: 0.1}), "above 0"),
        (trials({1 / 3: 0.1, 1.0: 0.2, 2.0: 0.1}), "spaced"),
        (trials({1 / 3: 0.1, 1.0: 0.2, 9.0: 0.1}), "gap"),
        (trials({1 / 3: 0.1, 1.0: 0.2, 3.0: math.nan}), "nan"),
        ([*trials({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.1}), Trial(3.000001, 300, 0.1)], "two trials"),
        ([*trials({1 / 3: 0.1, 1.0: 0.2}), Trial(3, 300, 0.1)], r"lacks \[301\]"),
        ([*trials({1 / 3: 0.1, 1.0: 0.2, 3.0: 0.1}), Trial(3, 200, 0.1)], "200"),
    ],
)
def test_trials_that_cannot_be_chosen_from_are_refused(rows: list[Trial], told: str) -> None:
    with pytest.raises(UserError, match=told):
        choose(rows, SEEDS)


@pytest.mark.parametrize("seeds", [(), (300, 300)])
def test_tuning_needs_seeds_named_once(seeds: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="seed"):
        next_factors([], seeds)
