"""The judge of the analytic workload: how far a latent lies from its prompt's target, read from the picture.

A picture is an affine map of the latent, so that nothing is lost but what lies beyond `REACH`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grpo_bench.workloads.gaussian.clouds import NUMBERS, QUALITY, SHAPE, cloud

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float32] | npt.NDArray[np.float64]

REACH = 8.0
"""Latents from -REACH to REACH are drawn as 0 to 1, what lies beyond as the end."""


def latents_of(images_BCHW: Array) -> npt.NDArray[np.float64]:
    """The latents (B, 3, 2, 2) that were drawn as these images, each number the mean of its block of pixels.

    Raises:
        ValueError: not RGB, or height or width is odd.
    """
    batch, channels, height, width = images_BCHW.shape
    _, rows, columns = SHAPE
    if channels != SHAPE[0] or height % rows or width % columns:
        raise ValueError(f"images of this workload are RGB of even height and width, not {images_BCHW.shape[1:]}")
    blocks = images_BCHW.astype(np.float64).reshape(batch, channels, rows, height // rows, columns, width // columns)
    return np.asarray((blocks.mean((3, 5)) - 0.5) * (2 * REACH), dtype=np.float64)


def score_latents(latent_BCHW: Array, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """-(x - c)^T Q (x - c) / D of each latent, (B,) float64, where c is its prompt's target; 0 is the best.

    Raises:
        ValueError: not as many prompts as latents.
    """
    if len(latent_BCHW) != len(prompts):
        raise ValueError(f"{len(latent_BCHW)} images need as many prompts, not {len(prompts)}")
    target_BD = np.array([cloud(prompt).target for prompt in prompts]).reshape(-1, NUMBERS)
    off_BD = latent_BCHW.reshape(-1, NUMBERS).astype(np.float64) - target_BD
    return np.asarray(-((off_BD @ QUALITY) * off_BD).sum(1) / NUMBERS, dtype=np.float64)


def differentiable_score(images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
    """`score_latents` of `latents_of`, (B,), in torch and the images' precision, so that autograd passes through."""
    import torch

    channels, rows, columns = SHAPE
    blocks = images_BCHW.unflatten(2, (rows, -1)).unflatten(4, (columns, -1)).mean((3, 5))
    latent_BD = ((blocks - 0.5) * (2 * REACH)).reshape(-1, channels * rows * columns)
    target_BD = torch.as_tensor(np.array([cloud(prompt).target for prompt in prompts])).to(latent_BD)
    off_BD = latent_BD - target_BD
    score_B: Tensor = -((off_BD @ torch.tensor(QUALITY).to(off_BD)) * off_BD).sum(1) / NUMBERS
    return score_B
