"""The three outlines as signed distances, shared by the renderer and by the judge's templates.

A shape's `size` is the square root of its area in pixels, its centre is its centroid; pixel centres lie at
half-integers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIDE = 32
"""Pixels along an edge of a picture."""

RADIUS = 1 / math.sqrt(math.pi)
INRADIUS = 1 / math.sqrt(3 * math.sqrt(3))
"""Circle radius and (upright, equilateral) triangle inradius at size 1; a square's half side is 0.5."""

HALF_WIDTH = np.array([RADIUS, 0.5, math.sqrt(3) * INRADIUS])
ABOVE = np.array([RADIUS, 0.5, 2 * INRADIUS])
BELOW = np.array([RADIUS, 0.5, INRADIUS])
"""Extents from the centroid at size 1, by shape in the order of scenes.SHAPES."""

AXIS = (np.arange(SIDE) + 0.5).astype(np.float32)


def coverage(cx: Floats, cy: Floats, size: Floats) -> Floats:
    """Anti-aliased masks (..., 3, 32, 32) of the circle, square and triangle at centre (cx, cy), each of shape (...).

    A pixel's coverage is 0.5 minus its signed distance to the outline, clipped to [0, 1].
    """
    dx = np.abs(AXIS - cx[..., None])[..., None, :]
    dy = (AXIS - cy[..., None])[..., :, None]
    size = size[..., None, None]
    out = np.empty((*cx.shape, 3, SIDE, SIDE), np.float32)
    out[..., 0, :, :] = np.sqrt(dx * dx + dy * dy) - np.float32(RADIUS) * size
    out[..., 1, :, :] = np.maximum(dx, np.abs(dy)) - np.float32(0.5) * size
    slope = np.float32(math.sqrt(3) / 2) * dx - np.float32(0.5) * dy
    out[..., 2, :, :] = np.maximum(dy, slope) - np.float32(INRADIUS) * size
    np.subtract(np.float32(0.5), out, out=out)
    return np.clip(out, 0, 1, out=out)
