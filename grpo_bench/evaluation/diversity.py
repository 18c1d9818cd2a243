"""How different a prompt's images are, and tripwires for reward hacking that need no model (RULES.md, "Evaluation").

All take uint8 images (B, H, W, 3) or clips (B, F, H, W, 3), the very pixels that are stored and scored. Of clips, two
differ as their frames do, and the tripwires are means over frames.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grpo_bench.forest.rollout import Floats
from grpo_bench.media import as_pictures

Images = npt.NDArray[np.uint8]
CELLS = 8
"""Features are the mean colours of an 8 x 8 grid: layout and colour, not texture."""
WIDTH = 0.2
"""Root-mean-square difference at which two images are well on the way to being two (a kernel of 0.61)."""


def features(images: Images) -> Floats:
    """Mean colours of an 8 x 8 grid of cells, (B, 192), from -0.5 to 0.5; of a clip, of each frame."""
    media = len(images)
    images = as_pictures(images)
    _, height, width, _ = images.shape
    rows = np.linspace(0, height, CELLS + 1).astype(int)
    columns = np.linspace(0, width, CELLS + 1).astype(int)
    summed = np.pad(images.astype(np.float64) / 255, ((0, 0), (1, 0), (1, 0), (0, 0))).cumsum(1).cumsum(2)
    corners = summed[:, rows][:, :, columns]
    total = np.diff(np.diff(corners, axis=1), axis=2)
    area = np.diff(rows)[:, None, None] * np.diff(columns)[None, :, None]
    cells: Floats = total / np.maximum(area, 1) - 0.5
    return cells.reshape(media, -1)


def _square(feature_BD: Floats) -> Floats:
    """Mean square difference of each pair (B, B), a row at a time: not all at once, for the memory."""
    return np.stack([((feature_D - feature_BD) ** 2).mean(-1) for feature_D in feature_BD])


def pairwise_distance(feature_BD: Floats) -> float:
    """Mean root-mean-square difference over all pairs of one prompt's images; 0 for fewer than two."""
    if len(feature_BD) < 2:
        return 0.0
    pairs = np.triu_indices(len(feature_BD), 1)
    return float(np.sqrt(_square(feature_BD)[pairs]).mean())


def vendi(feature_BD: Floats) -> float:
    """Vendi score (Friedman and Dieng, arXiv 2210.02410, def. 3.1): exp entropy of the kernel's eigenvalues.

    The effective number of different images, 1 .. B. The kernel is exp(-d^2 / (2 WIDTH^2)) of the root-mean-square
    difference d, so that a black and a white image count as two.
    """
    eigen = np.linalg.eigvalsh(np.exp(-_square(feature_BD) / (2 * WIDTH**2)) / len(feature_BD))
    eigen = eigen[eigen > 1e-12]
    return float(np.exp(-(eigen * np.log(eigen)).sum()))


def per_prompt(images: Images, prompt_B: npt.NDArray[np.int64]) -> dict[str, float]:
    """Columns `diversity` (pairwise distance) and `vendi`, means over prompts; `prompt_B` is each image's prompt."""
    feature_BD = features(images)
    groups = [feature_BD[prompt_B == prompt] for prompt in np.unique(prompt_B)]
    return {
        "diversity": float(np.mean([pairwise_distance(group) for group in groups])),
        "vendi": float(np.mean([vendi(group) for group in groups])),
    }


def across_prompts(images: Images, prompt_B: npt.NDArray[np.int64]) -> dict[str, float]:
    """Columns `diversity_across` and `vendi_across`: the same two measures between the images of different prompts.

    Each is taken over sets of one image a prompt (every prompt's first, every prompt's second, ...), then averaged over
    the sets: a policy that draws one picture whatever it is asked for has 0 and 1, however well that picture scores.
    """
    feature_BD = features(images)
    place_B = np.array([int((prompt_B[:row] == prompt).sum()) for row, prompt in enumerate(prompt_B)])
    groups = [feature_BD[place_B == place] for place in np.unique(place_B)]
    return {
        "diversity_across": float(np.mean([pairwise_distance(group) for group in groups])),
        "vendi_across": float(np.mean([vendi(group) for group in groups])),
    }


def tripwires(images: Images) -> dict[str, float]:
    """Columns `luminance`, `edge_density`, `colour_entropy` (bits) and `high_frequency`, means over images.

    luminance: Rec. 709 weights, 0 to 1. edge_density: share of pixels whose luminance gradient exceeds 0.1.
    colour_entropy: of a 4 x 4 x 4 RGB histogram, 0 to 6 bits. high_frequency: share of the luminance's power (mean
    removed) beyond half the Nyquist frequency.
    """
    images = as_pictures(images)
    rgb = images.astype(np.float64) / 255
    light = rgb @ np.array([0.2126, 0.7152, 0.0722])
    down, right = np.gradient(light, axis=1), np.gradient(light, axis=2)
    power = np.abs(np.fft.fft2(light - light.mean((1, 2), keepdims=True))) ** 2
    frequency = np.hypot(np.fft.fftfreq(light.shape[1])[:, None], np.fft.fftfreq(light.shape[2])[None])
    bins = (images // 64).astype(np.int64) @ np.array([16, 4, 1])
    return {
        "luminance": float(light.mean()),
        "edge_density": float((np.hypot(down, right) > 0.1).mean()),
        "colour_entropy": float(np.mean([_entropy(np.bincount(image.ravel(), minlength=64)) for image in bins])),
        "high_frequency": float(np.mean(power[:, frequency > 0.25].sum(1) / np.maximum(power.sum((1, 2)), 1e-12))),
    }


def _entropy(count: npt.NDArray[np.int64]) -> float:
    share = count[count > 0] / count.sum()
    return float(-(share * np.log2(share)).sum())
