"""Counter-based noise: every draw is named by (seed, purpose, iteration, prompt, path), never by method or batch order.

Two methods therefore share the noise of the nodes they have in common, and a resumed run draws what the uninterrupted
one would have drawn. numpy's Philox on the CPU, fp32, whatever the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.forest.rollout import Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes never overlap."""

    ROOT = 1
    EDGE = 2
    SIBLINGS = 3
    PLAN = 4
    PROMPTS = 5
    WARMUP = 6
    PROBE = 7
    FORWARD = 8


def generator(
    seed: int, purpose: Purpose, iteration: int, node: int = 0, prompt: int = 0, draw: int = 0
) -> np.random.Generator:
    """The stream of one name: Philox's key is (seed, purpose and iteration), its counter (0, node, prompt, draw)."""
    key = np.array([seed, (int(purpose) << 48) | iteration], dtype=np.uint64)
    counter = np.array([0, node, prompt, draw], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def prompt_keys(prompts: Sequence[str]) -> np.ndarray:
    """A 64-bit key a prompt, from its text; a prompt that occurs again gets another one."""
    seen: dict[str, int] = {}
    keys = []
    for prompt in prompts:
        seen[prompt] = seen.get(prompt, -1) + 1
        digest = hashlib.blake2b(f"{seen[prompt]}\0{prompt}".encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little"))
    return np.array(keys, dtype=np.uint64)


EVALUATION = 1 << 40
"""Iteration numbers from here on belong to evaluation: no rollout draws what an evaluation draws, at any seed."""


class Noise:
    """Standard normal latents of one iteration.

    Args:
        seed: the run's seed (evaluation has its own, the same for every run).
        iteration: rollouts differ by it; evaluation counts from `EVALUATION`.
        prompts: the batch's prompts, whose texts name the streams.
        shape: the axes of a latent, Z.
        place_P: which of the prompts are drawn for; default: all.
    """

    def __init__(
        self, seed: int, iteration: int, prompts: Sequence[str], shape: tuple[int, ...], place_P: Ints | None = None
    ) -> None:
        self._seed, self._iteration, self._shape = seed, iteration, shape
        # Keys of the whole batch, of which this rank takes its own: a prompt that occurs again has another one.
        self._prompt_P = prompt_keys(prompts) if place_P is None else prompt_keys(prompts)[place_P]

    def stream(self, purpose: Purpose, node: int, prompt: int, draw: int = 0) -> np.random.Generator:
        """The stream of a node (by its key), a prompt (by its place in the batch) and a draw."""
        return generator(self._seed, purpose, self._iteration, node, int(self._prompt_P[prompt]), draw)

    def draw(self, purpose: Purpose, key_N: Ints | np.ndarray, device: torch.device) -> Tensor:
        """(N, P, Z) fp32: one latent for each node key and prompt."""
        import torch  # here, because a plan draws its windows from `generator` and must start without torch

        out = np.empty((len(key_N), len(self._prompt_P), *self._shape), dtype=np.float32)
        for n, node in enumerate(key_N):
            for p in range(len(self._prompt_P)):
                self.stream(purpose, int(node), p).standard_normal(dtype=np.float32, out=out[n, p])
        return torch.from_numpy(out).to(device)
