"""The gold of `count`: reads the pixels and the caption, and says 1 where everything is right, else 0. FROZEN.

Colour is read in the opponent plane of `shapes`: a pure hue has length 1, grey has 0; the background's, which is the
median of the outermost ring, is taken off. A pixel belongs to the nearest of the six hues if it is at least LOUD long.
A blob is a set of such pixels of one hue that touch at an edge; one of fewer than SPECK pixels is ignored.

A blob's soft mask is the length of its pixels and of their neighbours, over the mean of the CORE longest, made steeper:
(x - 0.1) / 0.8, clipped to [0, 1]. Its shape is the one of the three ideal shapes with the mask's area and centroid,
made steeper too, that has the greatest intersection over union with it, if that is at least FIT.

A picture is right if for each colour the number of its blobs is the number asked for, and the shape of each is the
asked one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from grpo_bench.workloads.count.scenes import Scene, parse
from grpo_bench.workloads.shapes.geometry import AXIS, SIDE, Floats, coverage
from grpo_bench.workloads.shapes.scenes import COLOURS, SHAPES

LOUD, SPECK, CORE, FIT = 0.25, 8, 12, 0.65
Bools = NDArray[np.bool_]


def right(images_BCHW: Floats, prompts: Sequence[str]) -> Floats:
    """(B,): 1 where a picture shows exactly what its caption says, else 0 (rule: module docstring).

    images_BCHW: (B, 3, 32, 32) in [0, 1]. Raises UserError for a caption outside the grammar.
    """
    images = np.asarray(images_BCHW, dtype=np.float32)
    if images.shape != (len(prompts), 3, SIDE, SIDE):
        raise ValueError(
            f"{len(prompts)} prompts need pictures of shape ({len(prompts)}, 3, 32, 32), not {images.shape}"
        )
    scenes = [parse(prompt) for prompt in prompts]
    return np.array([_is_right(image, scene) for image, scene in zip(images, scenes, strict=True)], np.float32)


def _is_right(image_CHW: Floats, scene: Scene) -> bool:
    length, hue = colours(image_CHW)
    asked = {kind.thing.colour: kind for kind in scene}
    for index, colour in enumerate(COLOURS):
        found = blobs(hue == index)
        kind = asked.get(colour)
        if len(found) != (kind.count if kind else 0):
            return False
        if kind and any(shape_of(blob, length) != kind.thing.shape for blob in found):
            return False
    return True


def colours(image_CHW: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The length of each pixel's colour (32, 32), and its place in COLOURS where it is loud, else -1."""
    red, green, blue = image_CHW
    plane = np.stack([red - (green + blue) / 2, np.float32(np.sqrt(0.75)) * (green - blue)])
    ring = np.concatenate([plane[:, 0], plane[:, -1], plane[:, 1:-1, 0], plane[:, 1:-1, -1]], 1)
    x, y = plane - np.median(ring, axis=1)[:, None, None]
    length = np.hypot(x, y)
    sector = np.round(np.arctan2(y, x) / (np.pi / 3)).astype(np.int64) % len(COLOURS)
    return length, np.where(length >= LOUD, sector, -1)


def blobs(mask: Bools) -> list[Bools]:
    """The connected parts of a mask (32, 32), without specks."""
    label, count = ndimage.label(mask)
    parts = [label == index + 1 for index in range(count)]
    return [part for part in parts if part.sum() >= SPECK]


def shape_of(blob: Bools, length: Floats) -> str:
    """The shape that a blob has; empty where it has none of them."""
    near = length * ndimage.binary_dilation(blob, np.ones((3, 3), bool))
    strength = np.sort(near, axis=None)[-CORE:].mean()
    mask = _steeper(near / strength)
    area = mask.sum()
    cx, cy = mask.sum(0) @ AXIS / area, mask.sum(1) @ AXIS / area
    ideal = _steeper(coverage(cx, cy, np.sqrt(area)))
    both = np.minimum(ideal, mask).sum((1, 2))
    fit = both / (ideal.sum((1, 2)) + area - both)
    return SHAPES[int(fit.argmax())] if fit.max() >= FIT else ""


def _steeper(mask: Floats) -> Floats:
    steep: Floats = np.clip((mask - 0.1) / 0.8, 0, 1).astype(np.float32)
    return steep
