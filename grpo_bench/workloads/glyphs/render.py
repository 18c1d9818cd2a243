"""Draws pairs of letters: 32x32 RGB pictures whose backgrounds differ far more than the letters do.

That is what makes the letters late: in a picture's latent most of the variance is the background's, so that noise hides
the letters longer than anything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grpo_bench.workloads.glyphs.alphabet import LETTERS, PLACES, REACH, SIDE, Floats, masks

INK = (0.16, 0.24)
"""How much lighter than its background the ink is."""
_RAMP = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5


def render(pairs: Sequence[str], rng: np.random.Generator) -> Floats:
    """Pictures (B, 3, 32, 32) in [0, 1] of pairs such as "EF"; shift, ink and background are drawn from `rng`."""
    count = len(pairs)
    down, right = rng.integers(2 * REACH + 1, size=(2, count))
    ink = rng.uniform(*INK, count).astype(np.float32)
    return backgrounds(count, rng) + ink[:, None, None, None] * written(pairs, down, right)[:, None]


def written(pairs: Sequence[str], down: np.ndarray, right: np.ndarray) -> Floats:
    """Ink (B, 32, 32) in [0, 1] of the pairs, at the shifts of these places in `masks`; a blank writes nothing."""
    out = np.zeros((len(pairs), SIDE, SIDE), np.float32)
    for place in range(PLACES):
        letter = np.array([LETTERS.find(pair[place]) for pair in pairs])
        out += masks()[letter, place, down, right] * (letter >= 0)[:, None, None]
    return out


def backgrounds(count: int, rng: np.random.Generator) -> Floats:
    """Backgrounds (B, 3, 32, 32) in [0.05, 0.75]: a colour that changes evenly across the picture."""
    colour = rng.uniform(0.2, 0.6, (count, 3, 1, 1))
    slope = rng.uniform(-0.15, 0.15, (2, count, 3, 1, 1))
    picture: Floats = (colour + slope[0] * _RAMP + slope[1] * _RAMP[:, None]).astype(np.float32)
    return picture
