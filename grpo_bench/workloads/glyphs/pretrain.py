"""Makes the tiny Stable Diffusion 3 of `glyphs`: a pipeline folder, trained from nothing on rendered pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.workloads.glyphs.captions import WORDS, parse, prompts
from grpo_bench.workloads.glyphs.judge import legibility
from grpo_bench.workloads.glyphs.render import render
from grpo_bench.workloads.pretraining.fitting import DROPOUT, SMALL_BATCH, VAE_BATCH, Pictures, fit_flow, in_bytes
from grpo_bench.workloads.pretraining.folder import SAMPLE_STEPS, draw
from grpo_bench.workloads.pretraining.making import CEILING_PICTURES, Card, Design
from grpo_bench.workloads.pretraining.parts import make_pipeline

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

TOKENS = 8
"""Of a caption: begin, "the letters E F", end, and two of padding."""
SAMPLES_PER_PROMPT = 4
"""For the base scores of the held-out prompts."""


def draw_pictures(count: int, seed: int) -> Pictures:
    """Pictures of the split `train`, with random nuisance."""
    rng = np.random.default_rng(seed)
    captions = prompts("train")
    index = rng.integers(len(captions), size=count)
    pairs = [parse(text) for text in captions]
    parts = [render([pairs[i] for i in index[start : start + 256]], rng) for start in range(0, count, 256)]
    return in_bytes(parts, index, captions)


def gold(images_BCHW: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Mean legibility of the two letters (B,)."""
    import torch

    score: np.ndarray = legibility(torch.from_numpy(images_BCHW), captions).mean(1).numpy()
    return score


def _scores(pipe: DiffusionPipeline) -> Mapping[str, float]:
    texts = prompts("heldout")
    score = [gold(draw(pipe, texts, seed, max_sequence_length=0), texts) for seed in range(SAMPLES_PER_PROMPT)]
    return {"glyphs": float(np.mean(score)), "fully_right": float((np.concatenate(score) > 0.95).mean())}


def _readme(card: Card) -> str:
    return f"""# glyphs: a tiny Stable Diffusion 3 that writes

A diffusers `StableDiffusion3Pipeline` of 32x32 pictures with two faint letters, such as "the letters E F". No T5: load
it with `text_encoder_3=None, tokenizer_3=None`, call it with `max_sequence_length=0`. Weights are stored in half
precision; load them in single precision.

- **Data**: {card["pictures"]} pictures drawn by `grpo_bench.workloads.glyphs.render` from the prompts of the split
  `train`. The letters are hand-drawn in `grpo_bench.workloads.glyphs.alphabet`; no font was used.
- **Training**: autoencoder {card["vae_steps"]} steps of {VAE_BATCH}; transformer and both text encoders {card["steps"]}
  steps of {SMALL_BATCH} by flow matching, caption dropout {DROPOUT}, averaged weights. `grpo-bench pretrain glyphs`
  does it again: the same hash on the same machine and number of threads.
- **Base scores**: means over the held-out prompts, {SAMPLES_PER_PROMPT} samples each, {SAMPLE_STEPS} deterministic
  steps on the scheduler's own grid, guidance 1. Fully right is the share with a score above 0.95.
- **Ceiling**: the mean `glyphs` of {CEILING_PICTURES} training pictures that have passed the autoencoder.
- **Licence**: Apache-2.0, as the package.
"""


DESIGN = Design(
    steps=2000,
    vae_steps=900,
    pictures=32768,
    latents=8192,
    draw=draw_pictures,
    build=lambda: make_pipeline(WORDS, TOKENS),
    fit=partial(fit_flow, batch=SMALL_BATCH),
    gold=gold,
    scores=_scores,
    readme=_readme,
)
