"""Golden numbers: what pairs methods and runs with each other must not move unnoticed.

A change that breaks a test here changes the numbers of every run: raise NUMERICS_VERSION, say so in the changelog, and
put the new values in. The first key is splitmix64's published first output for the seed 0; the rest were recorded.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grpo_bench.forest.builders import branching
from grpo_bench.forest.forest import Forest
from grpo_bench.sampling.noise import EVALUATION, Noise, Purpose, generator, prompt_keys
from grpo_bench.sampling.schedule import shifted_grid
from grpo_bench.training.session import iteration_prompts
from grpo_bench.versions import NUMERICS_VERSION

PROMPT = "a red circle"


def forest() -> Forest:
    return branching(shifted_grid(4), {0: 2}, np.array([True, False, False, False]))


def draw(seed: int, iteration: int, purpose: Purpose, nodes: slice) -> list[float]:
    noise = Noise(seed, iteration, [PROMPT], (1, 1, 2))
    values: list[float] = noise.draw(purpose, forest().key_N[nodes], torch.device("cpu")).flatten().tolist()
    return values


def test_golden_numbers_are_those_of_this_numerics_version() -> None:
    assert NUMERICS_VERSION == 3


def test_path_and_prompt_keys() -> None:
    keys = [0xE220A8397B1DCDAF, 0xA706DD2F4D197E6F, 0xB382A305F4414F5E, 0x238275BC38FCBE91]
    assert forest().key_N[:4].tolist() == keys
    assert prompt_keys([PROMPT, PROMPT]).tolist() == [0xA5FFD6E8191DDF61, 0xC100DE261AAB0491]


def test_noise_of_roots_edges_and_evaluation() -> None:
    assert draw(3, 5, Purpose.ROOT, slice(0, 1)) == pytest.approx([0.5657994747161865, 0.42629191279411316])
    edges = [-0.6795194745063782, 1.975351333618164, 0.6648834347724915, 0.19714798033237457]
    assert draw(3, 5, Purpose.EDGE, slice(1, 3)) == pytest.approx(edges)
    assert draw(0, EVALUATION, Purpose.ROOT, slice(0, 1)) == pytest.approx([0.198231041431427, 1.0149779319763184])


def test_prompts_and_plans() -> None:
    # the third iteration of four from ten prompts ends one permutation and begins the next
    assert iteration_prompts(7, 2, 10, 4).tolist() == [2, 6, 3, 2]
    assert generator(0, Purpose.PLAN, 3).random(2).tolist() == pytest.approx([0.08123457343043838, 0.4309478047036528])
