"""Makes the tiny Stable Diffusion 1 of `shapes-sd`: a U-Net that predicts noise, on the autoencoder of `shapes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_bench.workloads.pretraining.fitting import DROPOUT, SMALL_BATCH, fit_noise
from grpo_bench.workloads.pretraining.folder import SAMPLE_STEPS, load
from grpo_bench.workloads.pretraining.making import CEILING_PICTURES, Card, Design
from grpo_bench.workloads.pretraining.parts import make_sd_pipeline
from grpo_bench.workloads.shapes.pretrain import SAMPLES_PER_PROMPT, base_scores, draw_pictures, gold
from grpo_bench.workloads.shapes.scenes import WORDS
from grpo_bench.workloads.shapes.workload import MODEL as SHAPES

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline


def build() -> StableDiffusionPipeline:
    """Autoencoder and text encoder of `shapes`, and an untrained U-Net."""
    known = load(SHAPES)
    pipe = make_sd_pipeline(WORDS, known.vae)
    pipe.text_encoder.load_state_dict(known.text_encoder.state_dict(), strict=False)  # all but its projection
    return pipe


def _readme(card: Card) -> str:
    return f"""# shapes-sd: a tiny Stable Diffusion 1

A diffusers `StableDiffusionPipeline` of 32x32 pictures with one or two coloured shapes, such as "a red circle left of a
blue square", without a safety checker. Weights are stored in half precision; load them in single precision.

- **Data**: {card["pictures"]} pictures drawn by `grpo_bench.workloads.shapes.render` from the prompts of the split
  `train`, as for `shapes`.
- **Training**: the autoencoder is that of `shapes`, without its shift of latents; the text encoder starts from one
  of its. U-Net and text encoder take {card["steps"]} steps of {SMALL_BATCH} on predicting the noise at uniform
  timesteps, caption dropout {DROPOUT}, averaged weights. `grpo-bench pretrain shapes-sd` does it again: the same hash
  on the same machine and number of threads.
- **Base scores**: means over the held-out prompts, {SAMPLES_PER_PROMPT} samples each, {SAMPLE_STEPS} steps of DDIM,
  guidance 1. `shapes` is the mean of correctness and appeal; fully right is the share with a correctness above 0.95.
- **Ceiling**: the mean `shapes` of {CEILING_PICTURES} training pictures that have passed the autoencoder.
- **Licence**: Apache-2.0, as the package.
"""


DESIGN = Design(
    steps=8000,
    vae_steps=0,
    pictures=8192,
    latents=8192,
    draw=draw_pictures,
    build=build,
    fit=fit_noise,
    gold=gold,
    scores=base_scores,
    readme=_readme,
)
