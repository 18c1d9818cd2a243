"""The gold of `glyphs`: reads two letters by template, and says how clearly they are the asked ones. FROZEN.

The picture's mean over its channels is cut into two halves, one a place. From each half its best plane is taken off,
since a background may change evenly. The fit of a letter is the greatest cosine between what is left and the letter's
mask (freed of its own best plane) over all shifts; a rendered letter has 1. Its margin is its fit less the best fit of
another letter, over the least that this is for the perfect letter at any shift. Ink is how much lighter the letter is
than its background, by least squares. Let ramp(x; a, b) = clip((x - a) / (b - a), 0, 1). Then for each place
  legible = ramp(fit; 0.5, 0.8) * ramp(margin; 0, 0.9) * ramp(ink; 0.03, 0.10)
and the score is the mean of the two. It is differentiable wherever a ramp is neither 0 nor 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.workloads.glyphs.alphabet import LETTERS, PLACES, SIDE, Floats, masks
from grpo_bench.workloads.glyphs.captions import parse

if TYPE_CHECKING:
    from torch import Tensor

FIT, MARGIN, INK = (0.5, 0.8), (0.0, 0.9), (0.03, 0.10)


def legibility(images_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
    """How clearly each asked letter can be read (B, 2) in [0, 1], left one first (formula: module docstring).

    images_BCHW: (B, 3, 32, 32) in [0, 1]. Raises UserError for a caption outside the grammar.
    """
    import torch

    if images_BCHW.shape != (len(prompts), 3, SIDE, SIDE):
        raise ValueError(
            f"{len(prompts)} prompts need pictures of shape ({len(prompts)}, 3, 32, 32), not {tuple(images_BCHW.shape)}"
        )
    asked_B2 = torch.tensor([[LETTERS.index(letter) for letter in parse(prompt)] for prompt in prompts])
    asked_B21 = asked_B2.to(images_BCHW.device)[..., None]
    fit_B2L, ink_B2L = fits(images_BCHW)
    right_B2 = fit_B2L.gather(2, asked_B21)[..., 0]
    other_B2 = fit_B2L.scatter(2, asked_B21, -1.0).amax(2)
    ink_B2 = ink_B2L.gather(2, asked_B21)[..., 0]
    perfect_B2 = torch.from_numpy(_margins()).to(images_BCHW.device)[torch.arange(PLACES), asked_B2]
    margin_B2 = (right_B2 - other_B2) / perfect_B2
    return _ramp(right_B2, *FIT) * _ramp(margin_B2, *MARGIN) * _ramp(ink_B2, *INK)


def fits(images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Fit and ink (B, 2, letters) of every letter at either place, at its best shift."""
    import torch

    halves_B2P = torch.stack(images_BCHW.float().mean(1).chunk(PLACES, dim=2), 1).flatten(2)
    plane = torch.from_numpy(_plane()).to(images_BCHW.device)
    left_B2P = halves_B2P - halves_B2P @ plane @ plane.T
    length_B2 = left_B2P.norm(dim=2).clamp_min(1e-4)
    fit, ink = [], []
    for place, (template_LSP, size_LS) in enumerate(_templates()):
        along_BLS = torch.einsum("bp,lsp->bls", left_B2P[:, place], torch.from_numpy(template_LSP).to(plane.device))
        best_BL, at_BL = along_BLS.max(2)
        size_BL = torch.from_numpy(size_LS).to(plane.device)[torch.arange(len(LETTERS)), at_BL]
        fit.append(best_BL / length_B2[:, place, None])
        ink.append(best_BL / size_BL)
    return torch.stack(fit, 1), torch.stack(ink, 1)


@cache
def _plane() -> Floats:
    """An orthonormal basis (P, 3) of the planes over a half of the picture."""
    y, x = np.mgrid[:SIDE, : SIDE // PLACES].reshape(2, -1)
    basis, _ = np.linalg.qr(np.stack([np.ones(x.size), x, y], 1))
    return basis.astype(np.float32)


@cache
def _templates() -> list[tuple[Floats, Floats]]:
    """For each place unit templates (letters, shifts, P) without their best plane, and their lengths before."""
    found = []
    for place, half in enumerate(np.split(masks(), PLACES, axis=-1)):
        flat = half[:, place].reshape(len(LETTERS), -1, SIDE * SIDE // PLACES)
        free = flat - flat @ _plane() @ _plane().T
        size = np.linalg.norm(free, axis=2)
        found.append((free / size[..., None], size))

    return found


@cache
def _margins() -> Floats:
    """By how much a perfect letter fits better than any other letter, at its worst shift (places, letters)."""
    found = np.empty((PLACES, len(LETTERS)), np.float32)
    for place, (template_LSP, _) in enumerate(_templates()):
        for letter, own_SP in enumerate(template_LSP):
            others = np.delete(template_LSP, letter, 0).reshape(-1, own_SP.shape[1])
            found[place, letter] = 1 - (own_SP @ others.T).max()
    return found


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, linear between."""
    return ((x - low) / (high - low)).clamp(0, 1)
