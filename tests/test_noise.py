"""Noise is named by (seed, purpose, iteration, prompt, path): by nothing else, and by all of these."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny import CPU

from grpo_bench.forest.builders import branching, chains
from grpo_bench.forest.forest import Forest
from grpo_bench.sampling.noise import Noise, Purpose, generator, prompt_keys
from grpo_bench.sampling.schedule import shifted_grid

GRID = shifted_grid(10)
SHAPE = (4, 8, 8)
PROMPTS = ["a red circle", "a blue square", "ein grüner Stern"]


def window(start: int, width: int) -> np.ndarray:
    step_T = np.arange(10)
    return (start <= step_T) & (step_T < start + width)


def draw(seed: int = 0, iteration: int = 0, purpose: Purpose = Purpose.EDGE, key: int = 7) -> torch.Tensor:
    """One latent of the first prompt."""
    return Noise(seed, iteration, PROMPTS, SHAPE).draw(purpose, np.array([key], dtype=np.uint64), CPU)[0, 0]


def edge_noise(forest: Forest, nodes: list[int]) -> torch.Tensor:
    return Noise(0, 3, PROMPTS, SHAPE).draw(Purpose.EDGE, forest.key_N[nodes], CPU)


def test_the_same_path_has_the_same_noise_in_every_method() -> None:
    # given the forests of flat, mix and tree that split at step 0, three children each
    flat = chains(GRID, 3, window(0, 9), shared_noise=True)
    mix = chains(GRID, 3, window(0, 3), shared_noise=True)
    tree = branching(GRID, {0: 3, 1: 3, 2: 3}, window(0, 3))
    # then the root's children 1, 2, 3 draw alike, and so does the first child of the first child
    for forest, grandchild in ((mix, 4), (tree, 4)):
        assert torch.equal(edge_noise(forest, [1, 2, 3, grandchild]), edge_noise(flat, [1, 2, 3, 4]))
    # and the tree's second grandchild is nobody else's
    assert not torch.equal(edge_noise(tree, [5]), edge_noise(flat, [4]))


def test_the_first_chain_of_independent_chains_starts_where_the_tree_does() -> None:
    flat = chains(GRID, 3, window(0, 9))
    tree = branching(GRID, {0: 3}, window(0, 1))
    noise = Noise(0, 0, PROMPTS, SHAPE)
    roots_flat = noise.draw(Purpose.ROOT, flat.key_N[:3], CPU)
    roots_tree = noise.draw(Purpose.ROOT, tree.key_N[:1], CPU)
    assert torch.equal(roots_flat[:1], roots_tree)
    assert not torch.equal(roots_flat[1], roots_flat[0])


def test_a_prompts_noise_does_not_depend_on_its_place_in_the_batch() -> None:
    key_N = np.array([3, 9], dtype=np.uint64)
    order = [2, 0, 1]
    straight = Noise(0, 0, PROMPTS, SHAPE).draw(Purpose.EDGE, key_N, CPU)
    turned = Noise(0, 0, [PROMPTS[i] for i in order], SHAPE).draw(Purpose.EDGE, key_N, CPU)
    alone = Noise(0, 0, PROMPTS[1:2], SHAPE).draw(Purpose.EDGE, key_N, CPU)
    assert torch.equal(turned, straight[:, order])
    assert torch.equal(alone, straight[:, 1:2])


def test_every_part_of_the_name_changes_the_noise() -> None:
    drawn = [draw(), draw(seed=1), draw(iteration=1), draw(key=8), *(draw(purpose=p) for p in Purpose if p != 2)]
    for one, other in itertools.combinations(drawn, 2):
        # independent latents of 256 numbers: a correlation beyond 0.4 has a probability below 1e-9
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.4


def test_the_same_name_gives_the_same_noise_again() -> None:
    assert torch.equal(draw(), draw())


def test_a_prompt_that_occurs_twice_has_two_noises() -> None:
    drawn = Noise(0, 0, ["a", "b", "a"], SHAPE).draw(Purpose.ROOT, np.array([1], dtype=np.uint64), CPU)[0]
    assert not torch.equal(drawn[0], drawn[2])
    # and the first occurrence is as if it were alone
    assert torch.equal(drawn[:1], Noise(0, 0, ["a"], SHAPE).draw(Purpose.ROOT, np.array([1], dtype=np.uint64), CPU)[0])


def test_no_text_can_imitate_a_repeated_prompt() -> None:
    assert len(set(prompt_keys(["a", "a", "1\0a", "0\0a", "\0a"]).tolist())) == 5


@pytest.mark.parametrize("purpose", [Purpose.ROOT, Purpose.EDGE])
def test_noise_is_standard_normal(purpose: Purpose) -> None:
    # given 400 streams of 256 numbers
    drawn = Noise(5, 2, ["a prompt"], SHAPE).draw(purpose, np.arange(400, dtype=np.uint64), CPU)
    value = drawn.double().flatten()
    count = value.numel()
    # then the moments of N(0, 1), each within 4 standard errors: var(x^2) = 2, var(x^3) = 15, var(x^4) = 96
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float((value**power).mean()) == pytest.approx(moment, abs=4 * (variance / count) ** 0.5)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (400, 1, *SHAPE)


def test_streams_do_not_overlap_when_they_are_long() -> None:
    # given a long draw of one node, and the next node's: the counter of a draw is not the counter of a node
    long = generator(0, Purpose.EDGE, 0, node=1).standard_normal(100_000)
    assert not np.isin(generator(0, Purpose.EDGE, 0, node=2).standard_normal(100), long).any()
