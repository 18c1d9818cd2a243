"""Pictures and clips: what policies decode to, and what rewards, stores and pages take.

A picture is (3, H, W) and a clip (F, 3, H, W), RGB in [0, 1]; as stored pixels (H, W, 3) and (F, H, W, 3). A batch of
either has one axis before these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Media = Literal["pictures", "clips"]
SHOWN = 4
"""Frames of a clip that a page shows."""
CLIP_AXES = 5
"""Of a batch of clips: (B, F, 3, H, W) or (B, F, H, W, 3)."""


def kind_of(batch: Tensor | NDArray[np.uint8]) -> Media:
    """Whether a batch holds pictures or clips."""
    return "clips" if batch.ndim == CLIP_AXES else "pictures"


def evenly(frames: int, count: int) -> list[int]:
    """`count` of a clip's frames (all, where it has fewer): the middles of as many equal parts."""
    count = min(count, frames)
    return [(2 * part + 1) * frames // (2 * count) for part in range(count)]


def as_pictures(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Clips (B, F, H, W, 3) as their frames (B F, H, W, 3); pictures as they are."""
    return pixels.reshape(-1, *pixels.shape[2:]) if kind_of(pixels) == "clips" else pixels


def as_shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a page shows of clips (B, F, H, W, 3): a few frames side by side, (B, H, n W, 3); pictures as they are."""
    if kind_of(pixels) == "pictures":
        return pixels
    import numpy as np

    places = evenly(pixels.shape[1], SHOWN)
    return np.concatenate([pixels[:, place] for place in places], axis=2)
