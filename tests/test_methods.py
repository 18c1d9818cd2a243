"""flat, mix and tree: counts by value, the laws of their windows, and what they refuse; all that keep no state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planned import SCHEDULE, costs, plan, start_of, trained_steps
from tiny import method

from grpo_bench.errors import UserError
from grpo_bench.forest.rollout import Rollout
from grpo_bench.sampling.kernels import make_schedule
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench_methods.tree import TreeGRPO

T = 10


def test_flat_counts() -> None:
    # 24 chains of 10 evaluations and 9 trained edges; a shared root saves 23 evaluations of each kind
    assert costs(plan("flat")) == (240, 216, 216, 24)
    assert costs(plan("flat", shared_noise=True)) == (217, 193, 216, 24)
    assert trained_steps(plan("flat")) == list(range(9))


def test_mix_counts() -> None:
    assert costs(plan("mix", shared_noise=False)) == (240, 72, 72, 24)
    # shared prefix, start i: i + 1 + G (T - i - 1), 1 + G (w - 1), G w, G
    for start in range(T - 3):
        forest = plan("mix", schedule="fixed", window_start=start)
        assert costs(forest) == (start + 1 + 24 * (T - start - 1), 1 + 24 * 2, 24 * 3, 24)
        assert trained_steps(forest) == [start, start + 1, start + 2]


def test_tree_counts() -> None:
    assert costs(plan("tree", window_law="fixed")) == (202, 13, 39, 27)
    # start i: i + (b^w - 1)/(b - 1) + (T - i - w) b^w, with b^w = 27 and (b^w - 1)/(b - 1) = 13
    for start in range(T - 3):
        forest = plan("tree", window_law="fixed", window_start=start)
        assert costs(forest) == (start + 13 + (T - start - 3) * 27, 13, 39, 27)
        assert trained_steps(forest) == [start, start + 1, start + 2]


def test_a_window_start_alone_fixes_the_trees_window() -> None:
    assert [start_of(plan("tree", seed=seed, window_start=4)) for seed in range(8)] == [4] * 8


@pytest.mark.parametrize(
    ("branching", "window", "training", "first", "expected"),
    [(3, 3, 13, 202, 177.4), (2, 3, 7, 63, 56.4), (2, 4, 15, 111, 97.4), (4, 3, 21, 469, 409.5), (5, 2, 6, 206, 182.8)],
)
def test_trees_of_the_papers_sizes(branching: int, window: int, training: int, first: int, expected: float) -> None:
    # TreeGRPO's ablation: rollout evaluations of a window at step 0, and on average over the geometric law, r = .5
    size = {"branching": branching, "window": window}
    forests = [plan("tree", window_start=start, **size) for start in range(T - window)]
    assert costs(forests[0]) == (first, training, branching * training, branching**window)
    assert {forest.train_nfe for forest in forests} == {training}
    chosen = method("tree", **size)
    assert isinstance(chosen, TreeGRPO)
    average = chosen.start_law(len(forests)) @ [forest.rollout_nfe for forest in forests]
    assert average == pytest.approx(expected, abs=0.1)


def test_several_trees_cost_several_times_as_much() -> None:
    assert costs(plan("tree", window_law="fixed", roots=4)) == (808, 52, 156, 108)


@pytest.mark.slow
def test_the_trees_window_starts_by_a_truncated_geometric_law() -> None:
    # Pr[i] = .5^i / sum over 0..6
    law = 0.5 ** np.arange(7)
    law /= law.sum()
    chosen = method("tree")
    assert isinstance(chosen, TreeGRPO)
    np.testing.assert_array_equal(chosen.start_law(7), law)
    np.testing.assert_allclose(law, [0.5039, 0.2520, 0.1260, 0.0630, 0.0315, 0.0157, 0.0079], atol=5e-5)
    # given 4,000 draws of a window of 3 (b = 2, so that planning is quick)
    draws = 4000
    tree = method("tree", branching=2)
    rng = np.random.default_rng(0)
    count = np.bincount([start_of(tree.plan(0, rng, SCHEDULE)) for _ in range(draws)], minlength=7)
    # then each share is within 3.5 standard errors
    error = np.sqrt(law * (1 - law) / draws)
    assert (np.abs(count / draws - law) < 3.5 * error).all(), count / draws
    assert count.size == 7


@pytest.mark.slow
def test_the_geometric_ratio_is_a_setting() -> None:
    rng = np.random.default_rng(1)
    tree = method("tree", branching=2, window=2, ratio=0.9)
    starts = [start_of(tree.plan(0, rng, SCHEDULE)) for _ in range(3000)]
    law = 0.9 ** np.arange(8)
    law /= law.sum()
    expected = float(law @ np.arange(8))
    spread = float(np.sqrt(law @ np.arange(8) ** 2 - expected**2))
    assert np.mean(starts) == pytest.approx(expected, abs=3.5 * spread / 3000**0.5)


def test_the_trees_window_depends_on_the_iterations_stream_only() -> None:
    assert plan("tree", iteration=0, seed=5).same_as(plan("tree", iteration=9, seed=5))


def test_the_released_trees_window_shifts_and_stops() -> None:
    starts = [start_of(plan("tree", iteration=k, window_law="shift", tau=2)) for k in (0, 1, 2, 5, 12, 100)]
    assert starts == [0, 0, 1, 2, 6, 6]


def test_a_progressive_window_moves_by_its_stride_and_keeps_its_length() -> None:
    # w = 3, T = 10: the latest start is 6, so that the window ends at step 8 and never holds the last, 9
    for iteration, start in [(0, 0), (4, 0), (5, 2), (14, 4), (15, 6), (20, 6), (1000, 6)]:
        forest = plan("mix", iteration=iteration, tau=5, stride=2)
        assert trained_steps(forest) == [start, start + 1, start + 2]
        assert not forest.stochastic_N[forest.leaves_L].any()


def test_flow_grpo_fasts_window_starts_at_0_1_or_2() -> None:
    rng = np.random.default_rng(0)
    fast = method("mix", schedule="random", window=3, window_stop=5, group=2)
    count = np.bincount([start_of(fast.plan(0, rng, SCHEDULE)) for _ in range(900)])
    assert count.size == 3
    # uniform: each within 4 standard errors of 300, sqrt(900 * 1/3 * 2/3) = 14.1
    assert (np.abs(count - 300) < 4 * 14.2).all(), count


def test_a_random_window_reaches_every_start_it_fits() -> None:
    rng = np.random.default_rng(0)
    anywhere = method("mix", schedule="random", window=2, window_start=3, group=2)
    assert {start_of(anywhere.plan(0, rng, SCHEDULE)) for _ in range(300)} == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("steps", [10, 16])
def test_dancegrpo_trains_part_of_the_steps_of_every_chain(steps: int) -> None:
    # int(.6 (T - 1)) steps a chain: 5 of 9, 9 of 15
    schedule = make_schedule(shifted_grid(steps), "dance-sde")
    forest = plan("flat", group=12, shared_noise=True, train_fraction=0.6, on=schedule)
    per_chain = forest.trained_N[forest.path_LD].sum(1)
    assert per_chain.tolist() == [{10: 5, 16: 9}[steps]] * 12
    # and which steps they are differs by chain, by iteration's stream, and covers all but the last in the end
    steps_GT = forest.trained_N[forest.path_LD][:, 1:]
    assert len(np.unique(steps_GT, axis=0)) > 1
    assert not steps_GT[:, -1].any()
    other = plan("flat", group=12, shared_noise=True, train_fraction=0.6, on=schedule, seed=1)
    assert not other.same_as(forest)
    assert forest.stochastic_N[forest.path_LD][:, 1:-1].all()


@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_a_chain_trains_at_least_one_step(fraction: float) -> None:
    forest = plan("flat", group=3, train_fraction=fraction)
    assert forest.trained_N[forest.path_LD].sum(1).tolist() == [1, 1, 1]


def test_flat_trains_the_last_step_only_when_the_schedule_says_so() -> None:
    last = make_schedule(shifted_grid(T), "flow-sde", train_last=True)
    assert costs(plan("flat", on=last)) == (240, 240, 240, 24)
    assert trained_steps(plan("flat")) == list(range(9))


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("flat", {"group": 1}, r"method\.group = 1 is not allowed: .*greater than or equal to 2"),
        ("mix", {"group": 1}, r"method\.group = 1 is not allowed"),
        ("tree", {"branching": 1}, r"method\.branching = 1 is not allowed"),
        ("tree", {"roots": 0}, r"method\.roots = 0 is not allowed"),
        ("tree", {"ratio": 1.0}, r"method\.ratio = 1\.0 is not allowed"),
        ("flat", {"train_fraction": 0.0}, r"method\.train_fraction"),
        ("flat", {"grp": 8}, r"no setting is named 'method\.grp'; did you mean 'method\.group'\?"),
        ("mix", {"window": 10}, r"method\.window = 10 from step 0 does not fit"),
        ("mix", {"window": 3, "window_start": 7, "schedule": "fixed"}, r"method\.window = 3 from step 7"),
        ("mix", {"window": 6, "window_stop": 5, "schedule": "random"}, r"method\.window = 6"),
        ("tree", {"window": 10}, r"method\.window = 10"),
        ("tree", {"window": 3, "window_start": 7, "window_law": "fixed"}, r"method\.window = 3 from step 7"),
        ("tree", {"window_start": 2, "window_law": "geometric"}, "window_law must be 'fixed' or left out"),
    ],
)
def test_bad_settings_are_one_sentence(name: str, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        plan(name, **settings)
    assert "\n" not in str(caught.value)


def test_softmax_backup_weighs_children_by_their_likelihood() -> None:
    # given one split of two, by hand: rewards 1 and 3, z-scores -1 and 1, log-probs 0 and log 3
    schedule = make_schedule([1.0, 0.5, 0.0], "flow-sde")
    tree = method("tree", branching=2, window=1, window_law="fixed", backup="softmax")
    forest = tree.plan(0, np.random.default_rng(0), schedule)
    assert forest.parent_N.tolist() == [-1, 0, 0, 1, 2]
    logp_NP = np.array([0, 0, np.log(3), 0, 0])[:, None]
    credit = tree.credit(Rollout(forest, {"r": np.array([[1.0], [3.0]])}, logp_NP))
    # then the root's value is 1/4 (-1) + 3/4 (1), children keep their own, and no group is declared
    np.testing.assert_allclose(credit.advantage_NP[:, 0], [0.5, -1, 1, -1, 1], atol=1e-12)
    assert (credit.group_NP == -1).all()


def test_softmax_backup_of_a_chain_passes_the_value_on() -> None:
    tree = method("tree", branching=2, window=2, window_law="fixed", window_start=1, backup="softmax")
    forest = tree.plan(0, np.random.default_rng(0), SCHEDULE)
    rng = np.random.default_rng(0)
    rewards, logp = rng.standard_normal((4, 3)), np.where(forest.trained_N, 1.0, 0.0)[:, None] * np.ones((1, 3))
    softmax = tree.credit(Rollout(forest, {"r": rewards}, logp)).advantage_NP
    # equal log-probs weigh equally: the plain mean's values
    mean_tree = method("tree", branching=2, window=2, window_law="fixed", window_start=1)
    mean = mean_tree.credit(Rollout(forest, {"r": rewards}, logp)).advantage_NP
    np.testing.assert_allclose(softmax, mean, atol=1e-12)


@pytest.mark.parametrize("name", ["flat", "mix", "tree", "branch", "branch-mix", "tempflow"])
def test_planning_leaves_global_random_state_alone(name: str) -> None:
    # check item 9: no global random state
    before, torch_before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    plan(name)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize("name", ["flat", "mix", "tree", "branch", "branch-mix", "tempflow"])
def test_a_stateless_method_says_so(name: str) -> None:
    assert method(name).state_dict() == {}
