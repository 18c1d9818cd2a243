"""Makes the tiny Stable Diffusion 3 of `shapes`: a pipeline folder, trained from nothing on rendered scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.workloads.pretraining.fitting import DROPOUT, FLOW_BATCH, VAE_BATCH, Pictures, fit_flow, in_bytes
from grpo_bench.workloads.pretraining.folder import SAMPLE_STEPS, draw
from grpo_bench.workloads.pretraining.making import CEILING_PICTURES, Card, Design
from grpo_bench.workloads.pretraining.parts import SHIFT, make_pipeline
from grpo_bench.workloads.shapes.judge import judge
from grpo_bench.workloads.shapes.render import render
from grpo_bench.workloads.shapes.scenes import ALONE, WORDS, Scene, parse, prompts

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

SAMPLES_PER_PROMPT = 4
"""For the base scores of the held-out prompts."""


def draw_pictures(count: int, seed: int) -> Pictures:
    """Pictures of the split `train`, with random nuisance."""
    rng = np.random.default_rng(seed)
    captions = prompts("train")
    scenes: list[Scene] = [parse(text) for text in captions]
    alone = np.array([scene.second is None for scene in scenes])
    weight = np.where(alone, ALONE / alone.sum(), (1 - ALONE) / (~alone).sum())
    index = rng.choice(len(scenes), size=count, p=weight)
    parts = [render([scenes[i] for i in index[start : start + 256]], rng) for start in range(0, count, 256)]
    return in_bytes(parts, index, captions)


def gold(images_BCHW: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """The mean of correctness and appeal (B,)."""
    correct, appealing = judge(images_BCHW, captions)
    mean: np.ndarray = (correct + appealing) / 2
    return mean


def base_scores(pipe: DiffusionPipeline, **options: object) -> Mapping[str, float]:
    """Mean scores of samples for the held-out prompts, from fixed seeds."""
    texts = prompts("heldout")
    scores = [judge(draw(pipe, texts, seed, **options), texts) for seed in range(SAMPLES_PER_PROMPT)]
    correct, appealing = np.concatenate(scores, axis=1)
    return {
        "correctness": float(correct.mean()),
        "appeal": float(appealing.mean()),
        "shapes": float((correct + appealing).mean() / 2),
        "fully_right": float((correct > 0.95).mean()),
    }


def _readme(card: Card) -> str:
    return f"""# shapes: a tiny Stable Diffusion 3

A diffusers `StableDiffusion3Pipeline` of 32x32 pictures with one or two coloured shapes, such as "a red circle left of
a blue square". No T5: load it with `text_encoder_3=None, tokenizer_3=None`, call it with `max_sequence_length=0`.
Weights are stored in half precision; load them in single precision.

- **Data**: {card["pictures"]} pictures drawn by `grpo_bench.workloads.shapes.render` from the prompts of the split
  `train`, a fifth of them of one object. Held-out prompts, and the (colour, shape) pairs of the split `combinations`,
  never occur. No photographs, no people.
- **Training**: autoencoder {card["vae_steps"]} steps of {VAE_BATCH}; transformer and both text encoders {card["steps"]}
  steps of {FLOW_BATCH} by flow matching, caption dropout {DROPOUT}, averaged weights. `grpo-bench pretrain shapes` does
  it again: the same hash on the same machine and number of threads.
- **Base scores**: means over the held-out prompts, {SAMPLES_PER_PROMPT} samples each, {SAMPLE_STEPS} deterministic
  steps on the scheduler's own grid (shift {SHIFT}), guidance 1. `shapes` is the mean of correctness and appeal; fully
  right is the share with a correctness above 0.95.
- **Ceiling**: the mean `shapes` of {CEILING_PICTURES} training pictures that have passed the autoencoder.
- **Licence**: Apache-2.0, as the package.
"""


DESIGN = Design(
    steps=7000,
    vae_steps=1500,
    pictures=32768,
    latents=32768,
    draw=draw_pictures,
    build=lambda: make_pipeline(WORDS),
    fit=fit_flow,
    gold=gold,
    scores=lambda pipe: base_scores(pipe, max_sequence_length=0),
    readme=_readme,
)
