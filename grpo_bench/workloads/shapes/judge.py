"""The gold of `shapes`: reads the pixels and the caption, nothing else. FROZEN with the shipped model's base scores.

Colour is read in the opponent plane u = (R - (G + B)/2, sqrt(3)/2 (G - B)): a pure hue has length 1, grey has 0, and
anti-aliasing is linear in it. The background's u is the median of the outermost ring; at most TINT of it is forgiven.
Per asked object: A = |u - background| * w(hue), w = 1 within 25 degrees of the asked hue and 0 beyond 45. Its strength
P is the mean of the 12 largest A, its mask is A / P, sharpened, its size the square root of the mask's sum, its centre
the mask's centroid. Let ramp(x; a, b) = clip((x - a) / (b - a), 0, 1).

correctness = clean * (weighted mean + product of shapes and relation) / 2 over the caption's demands:
  colour    ramp(P; 0.10, 0.25) * ramp(size; 2, 4) * (1 - ramp(size; 18, 26))         weight 0.12 each; 0.4 if alone
  shape     colour * ramp(fit; 0.5, 0.75) * ramp(fit - best other fit; 0, 0.05)       weight 0.20 each; 0.6 if alone
            fit = soft intersection over union with the ideal shape of that size and centre
  relation  both colours * clip(cos / 0.7, 0, 1) * ramp(distance along the axis; 0, 4)  weight 0.36
            cos is of the angle between the line through the centres and the relation's axis
  clean     1 - ramp(pixels of colours that nobody asked for; 6, 86)

appeal = mean of four, averaged over the asked objects, each multiplied by its `colour` and by ramp(best fit; 0.3, 0.6),
so that an absent object, or a smear that is no shape at all, counts 0:
  size        ramp(size; 5.5, 9) * (1 - ramp(size; 14, 20))
  purity      ramp(P; 0.3, 0.95)
  contrast    ramp(RGB distance between object and background; 0.35, 1.0)
  background  ramp(lightness; 0.5, 0.97) * (1 - ramp(deviation; 0.01, 0.11)) * (1 - ramp(chroma; 0.02, 0.17)), of the
              pixels that belong to no object; deviation is the root mean square distance of their RGB from its mean
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_bench.workloads.shapes.geometry import AXIS, SIDE, Floats, coverage
from grpo_bench.workloads.shapes.scenes import COLOURS, RELATIONS, SHAPES, parse

TINT = 0.15
CHUNK = 32
"""Pictures at a time: keeps the temporaries inside the cache."""
_ANGLES = np.arange(len(COLOURS)) * (np.pi / 3)
_HUES = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1).astype(np.float32)
_AXES = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], np.float32)
"""From the first object to the second as (x, y), y downwards, by scenes.RELATIONS; the last is a lone object's."""
_COS_OUT, _COS_IN = math.cos(math.radians(45)), math.cos(math.radians(25))
_CORE = 12


def correctness(images_BCHW: Floats, prompts: Sequence[str]) -> Floats:
    """How far each picture shows what its caption says: (B,) in [0, 1], 1 is fully right (formula: module docstring).

    images_BCHW: (B, 3, 32, 32) in [0, 1]. Raises UserError for a caption outside the grammar.
    """
    return judge(images_BCHW, prompts)[0]


def appeal(images_BCHW: Floats, prompts: Sequence[str]) -> Floats:
    """What a viewer prefers about the asked objects and their background: (B,) in [0, 1] (formula: module docstring).

    images_BCHW: (B, 3, 32, 32) in [0, 1]. Raises UserError for a caption outside the grammar.
    """
    return judge(images_BCHW, prompts)[1]


def judge(images_BCHW: Floats, prompts: Sequence[str]) -> tuple[Floats, Floats]:
    """(correctness, appeal), each (B,), in one reading of the pixels."""
    images = np.ascontiguousarray(images_BCHW, dtype=np.float32)
    if images.shape != (len(prompts), 3, SIDE, SIDE):
        raise ValueError(
            f"{len(prompts)} prompts need pictures of shape ({len(prompts)}, 3, 32, 32), not {images.shape}"
        )
    scores = np.zeros((2, len(prompts)), np.float32)
    for start in range(0, len(prompts), CHUNK):
        part = slice(start, start + CHUNK)
        asked = _read(prompts[part])
        seen = _see(images[part], asked)
        scores[0, part] = _correctness(asked, seen)
        scores[1, part] = _appeal(asked, seen)
    return scores[0], scores[1]


@dataclass(frozen=True)
class _Asked:
    """The captions: hue (B, 2, 2), shape index (B, 2), presence of each object (B, 2), axis of the relation (B, 2)."""

    hue: Floats
    shape: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    wanted: Floats
    axis: Floats


@dataclass(frozen=True)
class _Seen:
    """What the pixels show, by picture (junk, background), object (strength, size, contrast), and more.

    centre (B, 2, 2) is (x, y) of each object; fit (B, 2, 3) is each object's with each shape.
    """

    strength: Floats
    size: Floats
    centre: Floats
    fit: Floats
    junk: Floats
    contrast: Floats
    background: Floats

    @property
    def colour(self) -> Floats:
        """(B, 2): whether the asked colour is there at all, on something smaller than the picture."""
        return _ramp(self.strength, 0.10, 0.25) * _ramp(self.size, 2, 4) * (1 - _ramp(self.size, 18, 26))


def _read(prompts: Sequence[str]) -> _Asked:
    scenes = [parse(prompt) for prompt in prompts]
    ends = [(scene.things[0], scene.things[-1]) for scene in scenes]
    return _Asked(
        hue=_HUES[[[COLOURS.index(thing.colour) for thing in pair] for pair in ends]],
        shape=np.array([[SHAPES.index(thing.shape) for thing in pair] for pair in ends]),
        wanted=np.array([[1, len(scene.things) - 1] for scene in scenes], np.float32),
        axis=_AXES[[RELATIONS.index(scene.relation) if scene.relation else -1 for scene in scenes]],
    )


def _see(images: Floats, asked: _Asked) -> _Seen:
    chroma = np.stack(
        [images[:, 0] - 0.5 * (images[:, 1] + images[:, 2]), np.float32(0.8660254) * (images[:, 1] - images[:, 2])], 1
    )
    length, weight = _by_hue(chroma, asked.hue)
    weight *= asked.wanted[:, :, None, None]
    activation = length[:, None] * weight
    strength = np.partition(activation.reshape(*activation.shape[:2], -1), -_CORE, axis=-1)[..., -_CORE:].mean(-1)
    mask = _sharpen(activation / np.maximum(strength, 0.02)[:, :, None, None])
    area = np.maximum(mask.sum((2, 3)), 1e-3)
    centre = np.stack([mask.sum(2) @ AXIS, mask.sum(3) @ AXIS], -1) / area[..., None]
    size = np.sqrt(area)
    ideal = _sharpen(coverage(centre[..., 0], centre[..., 1], size))
    overlap = np.minimum(ideal, mask[:, :, None]).sum((3, 4))
    fit = overlap / (ideal.sum((3, 4)) + area[..., None] - overlap)
    loud = np.clip((length - 0.15) / 0.15, 0, 1)
    junk = (loud * (1 - weight.max(1))).sum((1, 2))
    contrast, background = _surroundings(images, mask, loud)
    return _Seen(strength, size, centre, fit, junk, contrast, background)


def _opponent(red: Floats, green: Floats, blue: Floats) -> tuple[Floats, Floats]:
    """The two coordinates of a colour in the plane where grey is 0 and a pure hue has length 1."""
    return red - 0.5 * (green + blue), np.float32(0.8660254) * (green - blue)


def _by_hue(chroma: Floats, hue: Floats) -> tuple[Floats, Floats]:
    """Distance from the background's chroma (B, 32, 32), and membership of each asked hue (B, 2, 32, 32)."""
    ring = np.concatenate([chroma[:, :, 0], chroma[:, :, -1], chroma[:, :, 1:-1, 0], chroma[:, :, 1:-1, -1]], 2)
    tint = np.median(ring, axis=2)
    tint *= np.minimum(1, TINT / np.maximum(np.linalg.norm(tint, axis=1, keepdims=True), 1e-6))
    offset = chroma - tint[:, :, None, None]
    length = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
    along = offset[:, None, 0] * hue[:, :, 0, None, None] + offset[:, None, 1] * hue[:, :, 1, None, None]
    cosine = along / np.maximum(length, 1e-6)[:, None]
    return length, _ramp(cosine, _COS_OUT, _COS_IN)


def _surroundings(images: Floats, mask: Floats, loud: Floats) -> tuple[Floats, Floats]:
    """RGB distance of each object from the background (B, 2), and the background's own quality (B,)."""
    empty = np.clip(1 - 3 * np.maximum(mask.max(1), loud), 0, 1) ** 2  # blurred outlines belong to the objects
    count = empty.sum((1, 2))
    empty /= np.maximum(count, 1)[:, None, None]
    ground = (images * empty[:, None]).sum((2, 3))
    core = mask**2
    paint = (images[:, None] * core[:, :, None]).sum((3, 4)) / np.maximum(core.sum((2, 3)), 1e-3)[..., None]
    contrast = np.linalg.norm(paint - ground[:, None], axis=2)
    deviation = np.sqrt((((images - ground[:, :, None, None]) ** 2).sum(1) * empty).sum((1, 2)))
    tint = np.hypot(*_opponent(ground[:, 0], ground[:, 1], ground[:, 2]))
    quality = _ramp(ground.mean(1), 0.5, 0.97) * (1 - _ramp(deviation, 0.01, 0.11)) * (1 - _ramp(tint, 0.02, 0.17))
    return contrast, quality * _ramp(count, 50, 200)


def _correctness(asked: _Asked, seen: _Seen) -> Floats:
    colour = seen.colour
    right = np.take_along_axis(seen.fit, asked.shape[..., None], 2)[..., 0]
    others = np.where(np.arange(3) == asked.shape[..., None], -1, seen.fit).max(2)
    shape = colour * _ramp(right, 0.5, 0.75) * _ramp(right - others, 0, 0.05)
    step = seen.centre[:, 1] - seen.centre[:, 0]
    along = (step * asked.axis).sum(1)
    relation = (
        colour.prod(1)
        * np.clip(along / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-3) / 0.7, 0, 1)
        * _ramp(along, 0, 4)
    )
    alone = 0.5 * (0.4 * colour[:, 0] + 0.6 * shape[:, 0]) + 0.5 * shape[:, 0]
    both = 0.5 * (0.12 * colour.sum(1) + 0.20 * shape.sum(1) + 0.36 * relation) + 0.5 * shape.prod(1) * relation
    clean = 1 - _ramp(seen.junk, 6, 86)
    return clean * np.where(asked.wanted[:, 1] > 0, both, alone)


def _appeal(asked: _Asked, seen: _Seen) -> Floats:
    size = _ramp(seen.size, 5.5, 9) * (1 - _ramp(seen.size, 14, 20))
    objects = size + _ramp(seen.strength, 0.3, 0.95) + _ramp(seen.contrast, 0.35, 1.0) + seen.background[:, None]
    whole = seen.colour * _ramp(seen.fit.max(2), 0.3, 0.6)
    liked: Floats = (asked.wanted * whole * objects).sum(1) / (4 * asked.wanted.sum(1))
    return liked


def _sharpen(mask: Floats) -> Floats:
    """Steeper edges at the same outline: small residue goes to 0, slightly uneven cores to 1."""
    return _ramp(mask, 0.1, 0.9)


def _ramp(x: Floats, low: float, high: float) -> Floats:
    """0 up to `low`, 1 from `high`, linear between."""
    height: Floats = np.clip((x - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return height
