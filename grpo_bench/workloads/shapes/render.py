"""Draws scenes: 32x32 RGB pictures with random nuisance (size, place, purity, background), or flawless ones.

The nuisance is skewed to the ugly side on purpose: a model of these pictures draws small dull objects on grey, uneven
backgrounds, while large pure objects on clean white are rare but inside the distribution. That is the room RL has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_bench.workloads.shapes.geometry import ABOVE, AXIS, BELOW, HALF_WIDTH, SIDE, Floats, coverage
from grpo_bench.workloads.shapes.scenes import COLOURS, SHAPES, Scene

PALETTE = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], np.float32)
"""The pure RGB of each of scenes.COLOURS."""
MARGIN = 1.0
"""Pixels that stay free along the edges."""


@dataclass(frozen=True)
class _Codes:
    """Scenes as arrays: colour and shape index (B, 2), whether the second exists (B,), axis (B,) and order (B,)."""

    colour: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    shape: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    two: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    vertical: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    flipped: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def _encode(scenes: Sequence[Scene]) -> _Codes:
    ends = [(scene.things[0], scene.things[-1]) for scene in scenes]
    return _Codes(
        colour=np.array([[COLOURS.index(thing.colour) for thing in pair] for pair in ends]),
        shape=np.array([[SHAPES.index(thing.shape) for thing in pair] for pair in ends]),
        two=np.array([scene.second is not None for scene in scenes]),
        vertical=np.array([scene.relation in ("above", "below") for scene in scenes]),
        flipped=np.array([scene.relation in ("right of", "below") for scene in scenes]),
    )


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Floats:
    """Pictures (B, 3, 32, 32) in [0, 1] of the scenes with nuisance drawn from `rng`; about 20,000 a second."""
    codes = _encode(scenes)
    size, centre = _place(codes, 5.8 + 5.0 * rng.beta(1.3, 1.8, codes.colour.shape), rng.random((len(scenes), 5)))
    purity = 0.38 + 0.62 * rng.beta(1.2, 1.8, codes.colour.shape)
    grey = rng.uniform(0.35, 0.65, codes.colour.shape)
    paint = purity[..., None] * PALETTE[codes.colour] + ((1 - purity) * grey)[..., None]
    return _compose(codes, size, centre, paint.astype(np.float32), backgrounds(len(scenes), rng))


def render_ideal(scenes: Sequence[Scene]) -> Floats:
    """Flawless pictures (B, 3, 32, 32): large, pure objects, centred on white."""
    codes = _encode(scenes)
    middle = np.full((len(scenes), 5), 0.5)
    middle[:, 4] = 0.3
    size, centre = _place(codes, np.full(codes.colour.shape, 10.5), middle)
    white = np.ones((len(scenes), 3, SIDE, SIDE), np.float32)
    return _compose(codes, size, centre, PALETTE[codes.colour], white)


def _place(codes: _Codes, size: np.ndarray, luck: np.ndarray) -> tuple[Floats, Floats]:
    """Sizes (B, 2) and centres (B, 2, 2) as (x, y): the objects fit, do not touch, and stand as the relation says.

    luck (B, 5) in [0, 1]: start and orthogonal place of the pair, orthogonal offset, free orthogonal place, gap.
    """
    order = np.where(codes.flipped[:, None], [1, 0], [0, 1])  # nearer the left or top end first
    size, shape = np.take_along_axis(size, order, 1), np.take_along_axis(codes.shape, order, 1)
    vertical = codes.vertical[:, None]
    before = np.where(vertical, ABOVE[shape], HALF_WIDTH[shape])
    after = np.where(vertical, BELOW[shape], HALF_WIDTH[shape])
    room = SIDE - 2 * MARGIN
    second = codes.two.astype(float)
    need = (before + after)[:, 0] * size[:, 0] + second * ((before + after)[:, 1] * size[:, 1] + 1.5)
    size = size * np.minimum(1, (room - 1.5 * second) / (need - 1.5 * second))[:, None]
    need = (before + after)[:, 0] * size[:, 0] + second * ((before + after)[:, 1] * size[:, 1] + 1.5)
    slack = room - need
    gap = 1.5 + 0.6 * luck[:, 4] * slack
    start = MARGIN + luck[:, 0] * (slack - second * (gap - 1.5))
    along_first = start + before[:, 0] * size[:, 0]
    along_second = along_first + after[:, 0] * size[:, 0] + gap + before[:, 1] * size[:, 1]
    low = MARGIN + np.where(vertical, HALF_WIDTH[shape], ABOVE[shape]) * size
    high = SIDE - MARGIN - np.where(vertical, HALF_WIDTH[shape], BELOW[shape]) * size
    across_first = low[:, 0] + luck[:, 1] * (high - low)[:, 0]
    offset = (2 * luck[:, 2] - 1) * 0.5 * (along_second - along_first)
    across_second = np.clip(across_first + offset, low[:, 1], high[:, 1])
    along, across = np.stack([along_first, along_second], 1), np.stack([across_first, across_second], 1)
    centre = np.where(vertical[..., None], np.stack([across, along], -1), np.stack([along, across], -1))
    back = order  # a swap is its own inverse
    size, centre = np.take_along_axis(size, back, 1), np.take_along_axis(centre, back[..., None], 1)
    return size.astype(np.float32), centre.astype(np.float32)


def backgrounds(count: int, rng: np.random.Generator) -> Floats:
    """Backgrounds (B, 3, 32, 32): a lightness, a faint tint, a linear gradient and a soft texture."""
    lightness = 0.40 + 0.60 * rng.beta(1.4, 1.3, (count, 1))
    tint = 0.06 * rng.beta(1.0, 1.5, (count, 1)) * rng.standard_normal((count, 3))
    angle = rng.uniform(0, 2 * np.pi, count)
    slope = 0.25 * rng.beta(1.0, 1.6, count)
    ramp = (AXIS - SIDE / 2) / SIDE
    across, down = (slope * np.cos(angle))[:, None, None], (slope * np.sin(angle))[:, None, None]
    field = across * ramp + down * ramp[:, None]
    knots = 0.05 * rng.beta(1.0, 1.6, (count, 1, 1)) * rng.standard_normal((count, 5, 5))
    field = field + _UPSAMPLE @ knots @ _UPSAMPLE.T
    picture: Floats = np.clip((lightness + tint)[:, :, None, None] + field[:, None], 0, 1).astype(np.float32)
    return picture


def _linear_upsampling() -> np.ndarray:
    """The (32, 5) matrix of linear interpolation from 5 knots to the pixel centres."""
    at = (AXIS / SIDE * 4)[:, None]
    weight: np.ndarray = np.clip(1 - np.abs(at - np.arange(5)), 0, 1)
    return weight


_UPSAMPLE = _linear_upsampling()


def _compose(codes: _Codes, size: Floats, centre: Floats, paint: Floats, picture: Floats) -> Floats:
    """The objects painted over the backgrounds, the absent second one left out."""
    masks = coverage(centre[..., 0], centre[..., 1], size)
    rows = np.arange(len(size))
    for index in (0, 1):
        alpha = masks[rows, index, codes.shape[:, index]][:, None]
        if index == 1:
            alpha = alpha * codes.two[:, None, None, None]
        picture = picture + alpha * (paint[:, index, :, None, None] - picture)
    return np.clip(picture, 0, 1).astype(np.float32)
