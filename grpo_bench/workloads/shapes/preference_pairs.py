"""Preference pairs of `shapes`, labelled by how they were drawn: a caption, a better picture and a worse one.

Nothing reads pixels to label a pair. The better picture shows the caption's scene; the worse one shows a scene that
differs in one respect, or is the same picture spoilt (CONTENT and LOOKS). Some pairs have passed the autoencoder of the
shipped pipeline, both pictures of a pair alike, so that its artefacts are known and tell nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.workloads.shapes.geometry import SIDE, Floats
from grpo_bench.workloads.shapes.render import render, render_ideal
from grpo_bench.workloads.shapes.scenes import (
    ALONE,
    COLOURS,
    INVERSE,
    RELATIONS,
    SHAPES,
    Scene,
    Split,
    Thing,
    all_scenes,
    parse,
    prompts,
    split_of,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import Generator, Tensor

CONTENT = ("colour", "shape", "relation", "missing", "extra", "other")
"""The worse picture shows another scene: one object of another colour or shape, another relation, one object less or
more, or another caption of the split."""
LOOKS = ("noise", "blur", "pale", "smear", "plain")
"""The worse picture is the better one with noise, blurred, faded to its mean colour or with noise on its latents; or it
is an ordinary picture of the scene and the better one a flawless one (large, pure colours, clean background)."""
HARD = ("shape", "relation")
"""Kinds of CONTENT drawn twice as often as the others."""
CONTENT_SHARE, ROUND_TRIP = 0.6, 0.5
"""Share of CONTENT pairs, and of pairs whose two pictures have both passed the autoencoder."""
FLAWLESS, SAME_NUISANCE = 0.3, 0.35
"""Share of pairs that are drawn without nuisance (shapes are learned from them first), and of pairs whose pictures
share theirs (sizes, places, paint and background), so that they differ in the scene alone."""
JITTER = 2
"""Pixels that flawless pictures are moved by at most."""
SCENES = all_scenes()
Kinds = NDArray[np.str_]
Decode = Callable[[Floats, Floats], Floats]
"""Pictures (B, 3, 32, 32) through the autoencoder with noise of standard deviation (B,) added to the latents."""


@dataclass(frozen=True)
class Pairs:
    """`better` and `worse` (P, 3, 32, 32) as bytes; `asked` and `shown` (P,): the scenes of either; `kind` (P,).

    A scene is its place in SCENES; the pair's caption is that of `asked`, and `shown` differs for a kind of CONTENT.
    """

    better: Tensor
    worse: Tensor
    asked: Tensor
    shown: Tensor
    kind: Kinds

    def __len__(self) -> int:
        return len(self.better)


@cache
def spoilt_scenes(scene: Scene) -> dict[str, tuple[Scene, ...]]:
    """By kind of CONTENT, the scenes that differ from this one so and show another picture.

    They are of the split `train`, or of `train` and `heldout` for a scene of `heldout`. Withheld (colour, shape) pairs
    never occur: they would be known as wrong only.
    """
    found: dict[str, list[Scene]] = {kind: [] for kind in CONTENT}
    taken = {thing.colour for thing in scene.things}
    free = [colour for colour in COLOURS if colour not in taken]
    for thing in scene.things:
        found["colour"] += [_exchanged(scene, thing, replace(thing, colour=colour)) for colour in free]
        found["shape"] += [_exchanged(scene, thing, replace(thing, shape=shape)) for shape in SHAPES]
    if scene.second is None:
        others = [Thing(colour, shape) for colour in free for shape in SHAPES]
        found["extra"] = [Scene(scene.first, relation, other) for other in others for relation in RELATIONS]
    else:
        found["missing"] = [Scene(thing) for thing in scene.things]
        turned = [relation for relation in RELATIONS if relation != scene.relation]
        turned += 2 * [INVERSE[str(scene.relation)]]  # mirrored is the mistake that a picture's parts do not show
        found["relation"] = [Scene(scene.first, relation, scene.second) for relation in turned]
    splits = {"train", split_of(scene)} - {"combinations"}
    return {
        kind: tuple(s for s in scenes if s.canonical != scene.canonical and split_of(s) in splits)
        for kind, scenes in found.items()
    }


def _exchanged(scene: Scene, old: Thing, new: Thing) -> Scene:
    first, second = (new if thing == old else thing for thing in (scene.first, scene.second))
    return Scene(first or new, scene.relation, second)


def draw_pairs(count: int, split: Split, rng: np.random.Generator, decode: Decode) -> Pairs:
    """`count` pairs for random captions of a split, a fifth of them of one object."""
    scenes = [parse(text) for text in prompts(split)]
    alone = np.array([scene.second is None for scene in scenes])
    index = rng.choice(len(scenes), size=count, p=np.where(alone, ALONE / alone.sum(), (1 - ALONE) / (~alone).sum()))
    about_content = rng.random(count) < CONTENT_SHARE
    kind = np.where(about_content, "colour", rng.choice(LOOKS, count)).astype("U8")
    shown = [scenes[i] for i in index]
    spoilt: list[Scene] = []
    for place, scene in enumerate(shown):
        spoilt.append(scene)
        if about_content[place]:
            kind[place], spoilt[place] = _spoil(scene, scenes, rng)
    better, worse = _draw(shown, spoilt, rng)
    plain = [shown[row] for row in np.flatnonzero(kind == "plain")]
    if plain:
        better[kind == "plain"], worse[kind == "plain"] = _flawless(plain, rng), render(plain, rng)
    worse[kind == "smear"] = better[kind == "smear"]
    _through(decode, better, worse, kind, rng)
    for name in ("noise", "blur", "pale"):
        rows = np.flatnonzero(kind == name)
        worse[rows] = _spoilt_looks(name, better[rows], rng)
    return Pairs(_bytes(better), _bytes(worse), _numbers(shown), _numbers(spoilt), kind)


def _spoil(scene: Scene, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[str, Scene]:
    """A kind of CONTENT that this scene can suffer and the scene drawn instead."""
    choices = {**spoilt_scenes(scene)}
    other = scenes[int(rng.integers(len(scenes)))]
    choices["other"] = (other,) if other.canonical != scene.canonical else ()
    kinds = [kind for kind in (*CONTENT, *HARD) if choices[kind]]
    kind = kinds[rng.integers(len(kinds))]
    return kind, choices[kind][rng.integers(len(choices[kind]))]


def _draw(shown: Sequence[Scene], spoilt: Sequence[Scene], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Pictures of both lists, in blocks that share their nuisance, or do not, or have none."""
    better, worse = [], []
    for start in range(0, len(shown), 64):
        part = slice(start, start + 64)
        seed, other = rng.integers(2**63, size=2)
        luck = rng.random()
        if luck < FLAWLESS:
            better.append(_flawless(shown[part], rng))
            worse.append(_flawless(spoilt[part], rng))
            continue
        better.append(render(shown[part], np.random.default_rng(seed)))
        worse.append(render(spoilt[part], np.random.default_rng(seed if luck < FLAWLESS + SAME_NUISANCE else other)))
    return np.concatenate(better), np.concatenate(worse)


def _flawless(scenes: Sequence[Scene], rng: np.random.Generator) -> Floats:
    """Flawless pictures, moved by up to JITTER pixels; what leaves on one side is white, or comes back on the other."""
    offset = rng.integers(-JITTER, JITTER + 1, (len(scenes), 2))
    moved = [np.roll(picture, tuple(by), (1, 2)) for picture, by in zip(render_ideal(scenes), offset, strict=True)]
    return np.stack(moved)


def _spoilt_looks(name: str, picture: Floats, rng: np.random.Generator) -> Floats:
    """Pictures (B, 3, 32, 32) with noise, blurred, or faded to their mean colour; faint to strong."""
    much = rng.uniform(0.3, 1.0, (len(picture), 1, 1, 1)).astype(np.float32)
    match name:
        case "noise":
            change = 0.25 * rng.standard_normal(picture.shape, dtype=np.float32)
        case "blur":
            change = _blurred(picture) - picture
        case _:
            change = 0.85 * (picture.mean((2, 3), keepdims=True) - picture)
    spoilt: Floats = np.clip(picture + much * change, 0, 1)
    return spoilt


def _blurred(picture: Floats) -> Floats:
    """Twice a moving mean of 5 pixels along either axis."""
    for axis in (2, 3, 2, 3):
        padded = np.pad(picture, [(2, 2) if a == axis else (0, 0) for a in range(4)], mode="edge")
        picture = np.mean([padded.take(range(k, k + SIDE), axis) for k in range(5)], axis=0, dtype=np.float32)
    return picture


def _through(
    decode: Decode,
    better: Floats,
    worse: Floats,
    kind: Kinds,
    rng: np.random.Generator,
) -> None:
    """Sends the chosen pairs through the autoencoder, with noise on the worse one's latents where it is smeared.

    A worse picture of the other LOOKS is made from its better one afterwards.
    """
    smeared = kind == "smear"
    chosen = np.flatnonzero((rng.random(len(kind)) < ROUND_TRIP) | smeared)
    noise = np.where(smeared, rng.uniform(0.4, 1.0, len(kind)), 0.0).astype(np.float32)[chosen]
    better[chosen] = decode(better[chosen], np.zeros_like(noise))
    waits = np.isin(kind[chosen], ("noise", "blur", "pale"))
    worse[chosen[~waits]] = decode(worse[chosen[~waits]], noise[~waits])


def autoencoded(vae: AutoencoderKL, generator: Generator) -> Decode:
    """The autoencoder as a Decode: mean latents, noise in units of their own standard deviation."""
    import torch

    def decode(picture: Floats, noise: Floats) -> Floats:
        if not len(picture):
            return picture
        parts = []
        with torch.inference_mode():
            for x, sigma in zip(torch.from_numpy(picture).split(64), torch.from_numpy(noise).split(64), strict=True):
                z = vae.encode(2 * x - 1).latent_dist.mean
                eps = torch.randn(z.shape, generator=generator) / vae.config.scaling_factor
                parts.append(vae.decode(z + sigma[:, None, None, None] * eps).sample)
        made: Floats = (torch.cat(parts).numpy() / 2 + 0.5).clip(0, 1)
        return made

    return decode


def _numbers(scenes: Sequence[Scene]) -> Tensor:
    import torch

    return torch.tensor([_PLACES[scene] for scene in scenes])


_PLACES = {scene: place for place, scene in enumerate(SCENES)}


def _bytes(picture: Floats) -> Tensor:
    import torch

    return torch.from_numpy((picture * 255 + 0.5).astype(np.uint8))
