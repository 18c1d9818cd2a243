"""Draws scenes that count: 32x32 pictures of up to three shapes that do not touch, with random nuisance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grpo_bench.workloads.count.scenes import MOST, Scene
from grpo_bench.workloads.shapes.geometry import ABOVE, BELOW, HALF_WIDTH, SIDE, Floats, coverage
from grpo_bench.workloads.shapes.render import PALETTE, backgrounds
from grpo_bench.workloads.shapes.scenes import COLOURS, SHAPES

SIZES = (7.0, 9.0)
"""Square roots of an object's area in pixels: the smallest and the largest."""
FREE = 1.0
"""Pixels that stay free along the edges of a quarter of the picture."""


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Floats:
    """Pictures (B, 3, 32, 32) in [0, 1] of the scenes with nuisance drawn from `rng`."""
    things = [[kind.thing for kind in scene for _ in range(kind.count)] for scene in scenes]
    shape = np.array([_padded([SHAPES.index(thing.shape) for thing in row]) for row in things])
    colour = np.array([_padded([COLOURS.index(thing.colour) for thing in row]) for row in things])
    there = np.arange(MOST) < np.array([[len(row)] for row in things])
    size, centre = _place(shape, rng)
    purity = rng.uniform(0.6, 1.0, (*shape.shape, 1))
    paint = (purity * PALETTE[colour] + (1 - purity) * 0.5).astype(np.float32)
    picture = backgrounds(len(scenes), rng)
    masks = coverage(centre[..., 0], centre[..., 1], size)
    rows = np.arange(len(scenes))
    for index in range(MOST):
        alpha = (masks[rows, index, shape[:, index]] * there[:, index, None, None])[:, None]
        picture = picture + alpha * (paint[:, index, :, None, None] - picture)
    return np.clip(picture, 0, 1).astype(np.float32)


def _padded(codes: list[int]) -> list[int]:
    return codes + [0] * (MOST - len(codes))


def _place(shape: np.ndarray, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Sizes (B, 3) and centres (B, 3, 2) as (x, y): each object somewhere in a quarter of its own."""
    size = rng.uniform(*SIZES, shape.shape)
    low = FREE + np.stack([HALF_WIDTH[shape], ABOVE[shape]], -1) * size[..., None]
    high = SIDE / 2 - FREE - np.stack([HALF_WIDTH[shape], BELOW[shape]], -1) * size[..., None]
    quarter = rng.permuted(np.tile(np.arange(4), (len(shape), 1)), axis=1)[:, :MOST]
    corner = np.stack([quarter % 2, quarter // 2], -1) * (SIDE / 2)
    centre = corner + low + rng.random(low.shape) * (high - low)
    return size.astype(np.float32), centre.astype(np.float32)
