"""What is asked of every iteration takes time in proportion to the forest, and gives what the plain formula gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from forest_strategy import forests
from hypothesis import given
from hypothesis import strategies as st

from grpo_bench.forest.forest import Forest
from grpo_bench.forest.rollout import Bools, Floats, Ints, zscore
from grpo_bench.training.losses.edges import _micro_batches
from grpo_bench_methods.branch import _fuse
from grpo_bench_methods.tree import _sibling_softmax

PROMPTS = 3


def drawn(forest: Forest, seed: int = 0) -> tuple[Floats, Floats]:
    """Log-probs (N, P) and rewards (L, P) of any forest."""
    stream = np.random.default_rng(seed)
    return stream.standard_normal((forest.nodes, PROMPTS)), stream.standard_normal((forest.images, PROMPTS))


class TestTheSameValues:
    """Bit for bit what a search through everything gives, for every piece."""

    @given(forests(), st.integers(1, 7), st.sets(st.integers(0, PROMPTS - 1), min_size=1), st.integers(0, 99))
    def test_micro_batches(self, forest: Forest, size: int, chosen: set[int], seed: int) -> None:
        prompts = np.array(sorted(chosen))
        keep_EP = np.random.default_rng(seed).random((forest.trained_edges, PROMPTS)) < 0.7
        found = list(_micro_batches(forest, keep_EP, prompts, size, np.zeros(forest.steps, dtype=np.int64)))
        expected = list(searched_micro_batches(forest, keep_EP, prompts, size))
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            for part, other in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(part, other)

    @given(forests(jumps=False))
    def test_sibling_softmax(self, forest: Forest) -> None:
        logp_NP, _ = drawn(forest)
        expected_NP = np.zeros_like(logp_NP)
        for parent in range(forest.nodes):
            child = np.flatnonzero(forest.parent_N == parent)
            if child.size:
                odds = np.exp(logp_NP[child] - logp_NP[child].max(axis=0))
                expected_NP[child] = odds / odds.sum(axis=0)
        np.testing.assert_array_equal(_sibling_softmax(forest, logp_NP), expected_NP)

    @given(forests(jumps=False))
    def test_branchs_fusion(self, forest: Forest) -> None:
        logit_NP, reward_LP = drawn(forest)
        path_LP = logit_NP[forest.path_LD].sum(axis=1)
        expected_NP = np.empty_like(logit_NP)
        for node, below_L in enumerate(forest.descendant_NL):
            odds = np.exp(path_LP[below_L] - path_LP[below_L].max(axis=0))
            expected_NP[node] = (odds * reward_LP[below_L]).sum(axis=0) / odds.sum(axis=0)
        np.testing.assert_array_equal(_fuse(forest, reward_LP, logit_NP), expected_NP)

    @given(forests(), st.sampled_from(["group", "global"]), st.integers(0, 1))
    def test_groups_of_a_z_score(self, forest: Forest, std: str, ddof: int) -> None:
        _, reward_LP = drawn(forest)
        group_L = np.random.default_rng(1).integers(-1, 4, forest.images)
        expected_LP = np.zeros_like(reward_LP)
        whole = reward_LP.std(ddof=ddof) if reward_LP.size > ddof else 0.0
        for group in np.unique(group_L):
            reward_GP = reward_LP[group_L == group]
            if len(reward_GP) <= ddof or (reward_GP == reward_GP[0]).all():
                continue
            scale = reward_GP.std(axis=0, ddof=ddof) if std == "group" else whole
            expected_LP[group_L == group] = (reward_GP - reward_GP.mean(axis=0)) / (np.maximum(scale, 1e-6) + 1e-4)
        found_LP = zscore(reward_LP, group_L, std=std, ddof=ddof, eps=1e-4)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found_LP, expected_LP)

    @given(forests())
    def test_a_nodes_leaves(self, forest: Forest) -> None:
        def leaves(node: int) -> list[int]:
            below = [leaf for child in forest.children[node].tolist() for leaf in leaves(child)]
            return below or [node]

        depth_first = [leaf for root in range(forest.roots) for leaf in leaves(root)]
        for node in range(forest.nodes):
            first, count = forest.first_leaf_N[node], forest.leaf_count_N[node]
            assert depth_first[first : first + count] == leaves(node)
        if not forest.jumps:
            assert depth_first == forest.leaves_L.tolist()


def searched_micro_batches(
    forest: Forest, keep_EP: Bools, prompts: Ints, size: int
) -> Iterator[tuple[Ints, Ints, Ints]]:
    """The definition: all pairs in order, and for each micro-batch a search through all of them."""
    parent_E = np.searchsorted(forest.trained_parents, forest.parent_N[forest.trained_edges_E])
    edge_M = [tuple(pair) for pair in np.argwhere(keep_EP).tolist() if pair[1] in prompts]
    pair_R = sorted({(int(parent_E[edge]), prompt) for edge, prompt in edge_M})
    for start in range(0, len(pair_R), size):
        rows = {pair: row for row, pair in enumerate(pair_R[start : start + size])}
        inside = [pair for pair in edge_M if (int(parent_E[pair[0]]), pair[1]) in rows]
        yield (
            np.array(pair_R[start : start + size]),
            np.array(inside),
            np.array([rows[int(parent_E[edge]), prompt] for edge, prompt in inside]),
        )
