"""branch and branch-mix: splits, sibling noise, fusion, per-depth advantages and both prunings, by hand counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planned import costs, credited, kept, plan, schedule, trained_steps
from scipy import stats
from tiny import LinearDenoiser, method

from grpo_bench.errors import UserError
from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Floats, Rollout, zscore
from grpo_bench.metering.ledger import Ledger
from grpo_bench.sampling.engine import grow
from grpo_bench.sampling.handle import Metered
from grpo_bench.sampling.noise import Noise

PROMPTS = ["one", "two"]
TWENTY = schedule(20)
HALF = 0.5**0.5


def trained_depths(forest: Forest) -> list[int]:
    return [step + 1 for step in trained_steps(forest)]


@pytest.mark.parametrize(
    ("steps", "splits"), [(20, (0, 3, 6, 9)), (10, (0, 1, 3, 4)), (16, (0, 2, 4, 7)), (40, (0, 6, 12, 18)), (3, (0, 1))]
)
def test_the_default_splits_are_early_and_each_step_splits_once(steps: int, splits: tuple[int, ...]) -> None:
    # floor(T (0, .15, .30, .45)); at T = 3 that is (0, 0, 0, 1)
    forest = plan("branch", on=schedule(steps))
    split_N = forest.child_count_N > 1
    assert tuple(np.unique(forest.depth_N[split_N])) == splits
    assert set(forest.child_count_N[split_N]) == {2}
    assert forest.images == 2 ** len(splits)
    assert forest.same_as(plan("branch", on=schedule(steps), splits=splits))


def test_branch_counts() -> None:
    # 203 = 1 + 3*2 + 3*4 + 3*8 + ... evaluations; the last step's 16 edges are not trained
    assert costs(plan("branch", on=TWENTY)) == (203, 187, 202, 16)
    assert plan("branch", on=TWENTY).nodes == 219
    assert costs(plan("branch")) == (99, 83, 98, 16)
    assert costs(plan("branch", on=schedule(20, train_last=True))) == (203, 203, 218, 16)


@pytest.mark.parametrize(
    ("settings", "images", "evaluations", "edges"),
    [
        ({"splits": (0, 4, 8, 12)}, 16, 10.56, 11.50),
        ({"splits": (0, 5, 10, 15)}, 16, 8.44, 9.375),
        ({"splits": (9, 12, 15, 18)}, 16, 4.25, 5.19),
        ({"branching": 3}, 81, 11.46, 12.44),
        ({"branching": 4}, 256, 10.99, 11.98),
    ],
)
def test_counts_an_image_of_the_papers_ablations(
    settings: dict[str, object], images: int, evaluations: float, edges: float
) -> None:
    forest = plan("branch", on=TWENTY, **settings)
    assert forest.images == images
    assert forest.rollout_nfe / images == pytest.approx(evaluations, abs=0.006)
    assert (forest.nodes - 1) / images == pytest.approx(edges, abs=0.006)


@pytest.mark.parametrize("prune_width", ["parent-top1", "extreme"])
@pytest.mark.parametrize(
    ("prune_depth", "iteration", "train_last", "counts"),
    [
        (0, 0, False, (115, 130)),  # 8 of 16 chains lose 9 edges and 9 parents
        (0, 0, True, (123, 138)),  # the published 138 and 8.625 = 138 / 16: 16 chains of 10 below the last split
        (5, 0, False, (75, 82)),  # depths 10..14: 16 + 4 * 8 edges fewer, out of 8 + 4 * 8 parents
        (5, 150, False, (75, 90)),  # depths 15..19: 5 * 8 edges fewer, out of as many parents
    ],
)
def test_pruned_counts(
    prune_width: str, prune_depth: int, iteration: int, train_last: bool, counts: tuple[int, int]
) -> None:
    on = schedule(20, train_last=train_last)
    chosen = method("branch", prune_width=prune_width, prune_depth=prune_depth)
    forest = chosen.plan(iteration, np.random.default_rng(0), on)
    keep_NP = kept(chosen, forest, 3)
    for prompt in range(3):
        assert forest.kept_cost(keep_NP[:, prompt : prompt + 1]) == counts
    assert forest.rollout_nfe == 203


def test_the_published_138_edges_are_also_five_depths_less() -> None:
    # train_last: 218 - 5 * 16 edges, and 203 - 5 * 16 evaluations once the window has left the last split
    last = plan("branch", iteration=150, on=schedule(20, train_last=True), prune_depth=5)
    assert costs(last) == (203, 123, 138, 16)


def test_the_depth_window_slides_from_the_last_split_to_the_last_trained_depth() -> None:
    for iteration, first in [(0, 10), (29, 10), (30, 11), (60, 12), (149, 14), (150, 15), (10_000, 15)]:
        forest = plan("branch", iteration=iteration, on=TWENTY, prune_depth=5)
        assert trained_depths(forest) == [depth for depth in range(1, 20) if not first <= depth < first + 5]
        assert costs(forest)[0::3] == (203, 16)
    assert costs(plan("branch", on=TWENTY, prune_depth=5)) == (203, 115, 122, 16)
    assert costs(plan("branch", iteration=150, on=TWENTY, prune_depth=5)) == (203, 107, 122, 16)


def test_the_depth_windows_pace_is_a_setting() -> None:
    forest = plan("branch", iteration=4, prune_depth=2, prune_every=2)
    # at T = 10 the last split is 4, so the window began at depth 5 and has moved by two
    assert trained_depths(forest) == [1, 2, 3, 4, 5, 6, 9]


def test_branch_mix_counts() -> None:
    # splits {0, 3, 6, 9} and window {0, 1, 2, 3}: 2 + 2 + 2 + 4 + 8 + 16 edges out of 1 + 2 + 2 + 2 + 4 + 8 parents
    forest = plan("branch-mix", on=TWENTY)
    assert costs(forest) == (203, 19, 34, 16)
    assert trained_steps(forest) == [0, 1, 2, 3, 6, 9]
    np.testing.assert_array_equal(forest.trained_N, forest.stochastic_N)


@pytest.mark.parametrize(
    ("schedule_name", "iteration", "window"),
    [
        ("progressive", 0, [0, 1, 2, 3]),
        ("progressive", 50, [2, 3, 4, 5]),
        ("progressive", 10_000, [15, 16, 17, 18]),
        ("fixed", 10_000, [0, 1, 2, 3]),
    ],
)
def test_branch_mixs_window_slides_over_the_training(schedule_name: str, iteration: int, window: list[int]) -> None:
    forest = plan("branch-mix", iteration=iteration, on=TWENTY, schedule=schedule_name)
    assert trained_steps(forest) == sorted({0, 3, 6, 9, *window})


def test_branch_mixs_window_can_be_random_and_every_step() -> None:
    chosen, rng = method("branch-mix", schedule="random", window=1, splits=(0,)), np.random.default_rng(0)
    starts = {tuple(trained_steps(chosen.plan(0, rng, schedule(6)))) for _ in range(80)}
    assert starts == {(0,), (0, 1), (0, 2), (0, 3), (0, 4)}
    assert plan("branch-mix", window=9).same_as(plan("branch"))


def test_branch_mix_has_the_papers_unbiased_std_as_branch_has() -> None:
    # both bases of its config declare ddof, and BranchGRPO's must win
    assert method("branch-mix").config.ddof == method("branch").config.ddof == 1


def drawn_noise(forest: Forest, steps: int) -> Floats:
    """The noise that the engine drew for each stochastic edge (E, P, D); the policy's velocity is zero."""
    denoiser = LinearDenoiser(shape=(4, 32, 32), gain=0.0)
    handle = Metered(denoiser, Ledger(), guidance=1.0, batch=64)
    noise = Noise(3, 0, PROMPTS, denoiser.latent_shape)
    on = schedule(steps)
    with torch.no_grad():
        grown = grow(forest, on, handle, denoiser.conditioning(len(PROMPTS)), noise)
    edge_E = forest.trained_edges_E
    row_E = np.searchsorted(forest.trained_parents, forest.parent_N[edge_E])
    step_E = forest.depth_N[edge_E] - 1
    x_EPD, child_EPD = grown.parent_KPZ[row_E].flatten(2).double(), grown.child_EPZ.flatten(2).double()
    scale, std = (torch.tensor(values[step_E]).view(-1, 1, 1) for values in (on.x_T, on.std_T))
    return ((child_EPD - scale * x_EPD) / std).numpy()


@pytest.mark.parametrize(("sibling_noise", "covariance"), [(4.0, 1 / 17), (1.0, 0.5), ("none", 0.0)])
def test_siblings_share_noise_and_keep_standard_normal_marginals(sibling_noise: object, covariance: float) -> None:
    forest = plan("branch", sibling_noise=sibling_noise)
    noise_EPD = drawn_noise(forest, 10)
    siblings_E = forest.child_count_N[forest.parent_N[forest.trained_edges_E]] == 2
    split_SPD = noise_EPD[siblings_E]
    assert len(split_SPD) == 2 + 4 + 8 + 16
    # given breadth-first order, edges 2k and 2k + 1 are siblings; 15 pairs, 2 prompts, 4,096 numbers each
    first, second = split_SPD[0::2].ravel(), split_SPD[1::2].ravel()
    bound = 4 * ((1 + covariance**2) / first.size) ** 0.5
    assert float(np.mean(first * second)) == pytest.approx(covariance, abs=bound)
    # and every edge by itself is N(0, I): of 60 tests at 1e-4, none fails by chance but once in 170
    for edge_D in split_SPD.reshape(-1, split_SPD.shape[2]):
        assert stats.kstest(edge_D, "norm").pvalue > 1e-4
    # neighbours that are not siblings, and the edges of one chain, share nothing
    cousins = np.mean(split_SPD[1:-1:2] * split_SPD[2::2])
    assert abs(cousins) < 4 / (14 * 2 * 4096) ** 0.5
    single = noise_EPD[~siblings_E]
    assert single.std() == pytest.approx(1, abs=4 / (2 * single.size) ** 0.5)


def random_rewards(forest: Forest, prompts: int = 3, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((forest.images, prompts))


def test_the_first_two_nodes_differ_by_sign_only() -> None:
    # two nodes a depth, ddof 1: (r1 - r2) / 2 over |r1 - r2| / sqrt 2, whatever the gap
    forest = plan("branch", on=TWENTY)
    credit = credited(method("branch"), forest, random_rewards(forest))
    for depth in (1, 2, 3):
        np.testing.assert_allclose(np.abs(credit.advantage_NP[forest.nodes_at(depth)]), HALF, rtol=1e-12)
    population = credited(method("branch", ddof=0), forest, random_rewards(forest))
    np.testing.assert_allclose(np.abs(population.advantage_NP[forest.nodes_at(1)]), 1, rtol=1e-12)


def test_below_the_last_split_an_edge_has_its_leafs_flat_zscore() -> None:
    forest = plan("branch", on=TWENTY)
    reward_LP = random_rewards(forest)
    credit = credited(method("branch"), forest, reward_LP)
    flat_LP = (reward_LP - reward_LP.mean(axis=0)) / reward_LP.std(axis=0, ddof=1)
    for depth in range(10, 21):
        np.testing.assert_allclose(credit.advantage_NP[forest.path_LD[:, depth]], flat_LP, rtol=1e-12)
    np.testing.assert_array_equal(credit.advantage_NP[forest.leaves_L], zscore(reward_LP, ddof=1))
    # above it, edges differ from it: 42 of the 218
    assert forest.depth_start[10] - forest.depth_start[1] == 42


def test_every_depth_is_a_group_that_sums_to_zero() -> None:
    forest = plan("branch", on=TWENTY)
    credit = credited(method("branch"), forest, random_rewards(forest))
    np.testing.assert_array_equal(credit.group_NP, np.repeat(np.r_[-1, forest.depth_N[1:]][:, None], 3, axis=1))
    assert not credit.advantage_NP[0].any()
    for depth in range(1, 21):
        np.testing.assert_allclose(credit.advantage_NP[forest.nodes_at(depth)].sum(axis=0), 0, atol=1e-12)


def test_a_depth_with_one_node_has_no_advantage() -> None:
    forest = plan("branch", splits=(2, 4))
    credit = credited(method("branch", splits=(2, 4)), forest, random_rewards(forest))
    assert not credit.advantage_NP[forest.depth_N <= 2].any()
    assert (np.abs(credit.advantage_NP[forest.depth_N > 2]) > 0).all()


def test_the_batchs_std_and_a_papers_constant_are_honoured() -> None:
    # given 4 leaves and 2 prompts, by hand: depth 1 holds 2, 6 and 0, 1, depth 2 the leaves
    settings = {"splits": (0, 1), "ddof": 0, "std": "global"}
    forest = plan("branch", on=schedule(3), splits=(0, 1))
    reward_LP = np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 1.0], [7.0, 1.0]])
    credit = credited(method("branch", **settings), forest, reward_LP)
    one = np.std([2, 6, 0, 1])
    np.testing.assert_allclose(credit.advantage_NP[1:3], np.array([[-2, -0.5], [2, 0.5]]) / one)
    leaf_LP = (reward_LP - reward_LP.mean(axis=0)) / reward_LP.std()
    np.testing.assert_allclose(credit.advantage_NP[forest.leaves_L], leaf_LP)
    assert not method("branch", **settings).local
    padded = credited(method("branch", splits=(0, 1), std_eps=0.5), forest, reward_LP)
    np.testing.assert_allclose(padded.advantage_NP[1, 0], -2 / (8**0.5 + 0.5))


def test_each_reward_is_fused_and_normalised_by_itself() -> None:
    forest = plan("branch", on=schedule(3), splits=(0, 1))
    rewards = {"a": np.array([[0.0], [0.0], [0.0], [8.0]]), "b": np.array([[0.1], [0.0], [0.0], [0.0]])}
    rollout = Rollout(forest, rewards, np.zeros((forest.nodes, 1)), {"a": 0.8, "b": 0.2})
    credit = method("branch", splits=(0, 1)).credit(rollout)
    # a prefers the second child, b the first, each by 1 / sqrt 2 whatever its scale
    np.testing.assert_allclose(credit.advantage_NP[1:3, 0], [-0.6 * HALF, 0.6 * HALF])


def test_softmax_fusion_by_hand() -> None:
    # given 4 leaves (0, 4, 1, 1): node 1's mean, 2, beats node 2's, 1; but the way to leaf 0 is 9 times as likely
    settings = {"splits": (0, 1), "branching": 2}
    forest = plan("branch", on=schedule(4), **settings)
    assert forest.parent_N.tolist() == [-1, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    reward_LP = np.array([[0.0], [4.0], [1.0], [1.0]])
    logp_NP = np.zeros((forest.nodes, 1))
    logp_NP[3], logp_NP[7] = np.log(3), np.log(3)  # at the split and below it; released code would see the first only
    logp_NP[1] = 5.0  # above node 1's children, alike for both its leaves
    advantages = {
        beta: credited(method("branch", fusion="softmax", fusion_beta=beta, **settings), forest, reward_LP, logp_NP)
        for beta in (0.0, 0.5, 1.0)
    }
    # then node 1 is worth 4 / (1 + 9^beta): 2, 1 and 0.4
    assert np.round(advantages[0.0].advantage_NP[1:3, 0], 4).tolist() == [0.7071, -0.7071]
    np.testing.assert_allclose(advantages[0.5].advantage_NP[1:3, 0], 0, atol=1e-9)
    assert np.round(advantages[1.0].advantage_NP[1:3, 0], 4).tolist() == [-0.7071, 0.7071]
    # the leaves keep their z-scores, and no group is declared
    np.testing.assert_array_equal(advantages[1.0].advantage_NP[11:], zscore(reward_LP, ddof=1))
    assert (advantages[1.0].group_NP == -1).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 200.0])
def test_softmax_fusion_follows_its_definition_at_every_scale(scale: float) -> None:
    # the paper's r(n) = sum_l w_l r_l, w = softmax_l(beta log p(l | n)), written out over the path from n to l;
    # log-probs that are summed over dimensions differ by hundreds
    forest = plan("branch", on=schedule(6), splits=(0, 2, 3))
    rng = np.random.default_rng(1)
    reward_LP, logp_NP = rng.standard_normal((8, 2)), scale * rng.standard_normal((forest.nodes, 2))
    chosen = method("branch", splits=(0, 2, 3), fusion="softmax", fusion_beta=0.7)
    advantage_NP = credited(chosen, forest, reward_LP, logp_NP).advantage_NP
    for prompt in range(2):
        value_N = np.zeros(forest.nodes)
        for node in range(forest.nodes):
            below = np.flatnonzero(forest.descendant_NL[node])
            paths = [path[forest.depth_N[node] + 1 :] for path in forest.path_LD[below]]
            odds = 0.7 * np.array([logp_NP[path, prompt].sum() for path in paths])
            odds = np.exp(odds - odds.max())
            value_N[node] = odds @ reward_LP[below, prompt] / odds.sum()
        for depth in range(1, 7):
            node_D = forest.nodes_at(depth)
            wanted = zscore(value_N[node_D, None], ddof=1)[:, 0]
            np.testing.assert_allclose(advantage_NP[node_D, prompt], wanted, atol=1e-9)


# Four leaves below splits at 0 and 1, four steps: nodes 1-2, 3-6, 7-10, and the images 11-14 by ODE.
FOUR_LEAVES = np.array([[1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 5.0, 1.0], [0.0, 2.0, 3.0, 1.0], [5.0, 2.0, 4.0, 0.0]])


@pytest.mark.parametrize(
    ("prune_width", "leaves"),
    [
        ("parent-top1", [[0, 3], [0, 2], [1, 3], [1, 2]]),
        # the best, then the worst of the others: a tie of all four keeps leaves 0 and 1
        ("extreme", [[2, 3], [0, 1], [0, 1], [0, 1]]),
    ],
)
def test_width_pruning_by_hand(prune_width: str, leaves: list[list[int]]) -> None:
    settings = {"splits": (0, 1), "prune_width": prune_width}
    forest = plan("branch", on=schedule(4), **settings)
    keep_NP = credited(method("branch", **settings), forest, FOUR_LEAVES).keep_NP
    assert keep_NP is not None
    for prompt, chosen in enumerate(leaves):
        # the edges into the last split's children, 3-6, and above always stay
        assert np.flatnonzero(keep_NP[:, prompt]).tolist() == [1, 2, 3, 4, 5, 6, *(7 + leaf for leaf in chosen)]


def test_extreme_keeps_a_quarter_at_either_end() -> None:
    forest = plan("branch", on=TWENTY)
    reward_LP = np.random.default_rng(0).permutation(16)[:, None].astype(np.float64)
    keep_NP = credited(method("branch", prune_width="extreme"), forest, reward_LP).keep_NP
    assert keep_NP is not None
    kept_L = keep_NP[forest.path_LD[:, 19], 0]
    assert sorted(reward_LP[kept_L, 0]) == [0, 1, 2, 3, 12, 13, 14, 15]


def test_pruning_changes_no_advantage_and_never_adds_an_edge() -> None:
    forest = plan("branch", on=TWENTY, prune_depth=5)
    plain = credited(method("branch"), forest, random_rewards(forest))
    pruned = credited(method("branch", prune_width="extreme"), forest, random_rewards(forest))
    np.testing.assert_array_equal(plain.advantage_NP, pruned.advantage_NP)
    assert plain.keep_NP is None
    assert pruned.keep_NP is not None
    assert not pruned.keep_NP[~forest.trained_N].any()


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("branch", {"splits": (0, 9)}, r"method\.splits = \(0, 9\) must be different steps, all before the last of 10"),
        ("branch", {"splits": (3, 3)}, r"method\.splits = \(3, 3\) must be different steps"),
        ("branch", {"splits": (-1,)}, r"method\.splits\.0 = -1 is not allowed"),
        ("branch", {"splits": ()}, r"method\.splits = \(\) is not allowed"),
        ("branch", {"branching": 1}, r"method\.branching = 1 is not allowed"),
        ("branch", {"sibling_noise": 0.0}, "sibling_noise must be positive and finite, got 0.0"),
        ("branch", {"prune_depth": 6}, r"method\.prune_depth = 6 does not fit .* use 5 or less"),
        ("branch", {"prune_depth": 2, "fusion": "softmax"}, "softmax fusion needs the log-prob of every edge"),
        ("branch-mix", {"window": 10}, r"method\.window = 10 from step 0 does not fit"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(name: str, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        plan(name, **settings)
    assert "\n" not in str(caught.value)
