"""Makes the tiny Stable Diffusion 3 of `count`: that of `shapes`, trained on with captions that count."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.workloads.count.judge import right
from grpo_bench.workloads.count.render import render
from grpo_bench.workloads.count.scenes import WORDS, caption, is_rare, prompts, taught
from grpo_bench.workloads.pretraining.fitting import DROPOUT, SMALL_BATCH, Pictures, fit_flow, in_bytes
from grpo_bench.workloads.pretraining.folder import SAMPLE_STEPS, draw, load
from grpo_bench.workloads.pretraining.making import CEILING_PICTURES, Card, Design
from grpo_bench.workloads.pretraining.parts import make_pipeline
from grpo_bench.workloads.shapes.workload import MODEL as SHAPES

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

RARITY = 0.02
"""How often a scene with a rare kind is drawn, beside one without."""
SHARES = {1: 0.45, 2: 0.35, 3: 0.20}
"""Of the pictures, by the number of kinds."""
SAMPLES_PER_PROMPT = 24
"""For the base scores of the held-out prompts: a group of the usual size."""


def draw_pictures(count: int, seed: int) -> Pictures:
    """Pictures of the taught scenes, with random nuisance."""
    rng = np.random.default_rng(seed)
    told = taught()
    weight = np.array([RARITY if is_rare(scene) else 1.0 for scene in told])
    kinds = np.array([len(scene) for scene in told])
    for number, share in SHARES.items():
        weight[kinds == number] *= share / weight[kinds == number].sum()
    index = rng.choice(len(told), size=count, p=weight)
    parts = [render([told[i] for i in index[start : start + 256]], rng) for start in range(0, count, 256)]
    return in_bytes(parts, index, tuple(map(caption, told)))


def build() -> StableDiffusion3Pipeline:
    """The trained model of `shapes` with a vocabulary that counts; only the new words are untrained."""
    known, pipe = load(SHAPES), make_pipeline(WORDS)
    pipe.register_modules(vae=known.vae)
    pipe.transformer.load_state_dict(known.transformer.state_dict())
    for name in ("text_encoder", "text_encoder_2"):
        _take_over(getattr(pipe, name), pipe.tokenizer, getattr(known, name), known.tokenizer)
    return pipe


def _take_over(
    encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    known: CLIPTextModelWithProjection,
    known_tokenizer: CLIPTokenizer,
) -> None:
    """Gives an encoder another's weights, and its embeddings of the tokens that both vocabularies have."""
    import torch

    fresh = encoder.get_input_embeddings().weight.detach().clone()
    state = known.state_dict()
    for name, weight in encoder.state_dict().items():
        if weight.shape != state[name].shape:
            state[name] = weight  # the embeddings, which are given row by row below
    encoder.load_state_dict(state)
    places, old = tokenizer.get_vocab(), known_tokenizer.get_vocab()
    shared = sorted(places.keys() & old.keys())
    with torch.no_grad():
        fresh[[places[token] for token in shared]] = known.get_input_embeddings().weight[
            [old[token] for token in shared]
        ]
        encoder.get_input_embeddings().weight.copy_(fresh)


def _scores(pipe: DiffusionPipeline) -> Mapping[str, float]:
    texts = prompts("heldout")
    won = np.array([right(draw(pipe, texts, seed, max_sequence_length=0), texts) for seed in range(SAMPLES_PER_PROMPT)])
    share = won.mean(0)
    return {
        "count": float(share.mean()),
        "deviation_over_prompts": float(share.std()),
        "without_spread": float(((share == 0) | (share == 1)).mean()),
    }


def _readme(card: Card) -> str:
    return f"""# count: a tiny Stable Diffusion 3 that counts

A diffusers `StableDiffusion3Pipeline` of 32x32 pictures with up to three coloured shapes, such as "two red circles and
one blue square". No T5: load it with `text_encoder_3=None, tokenizer_3=None`, call it with `max_sequence_length=0`.
Weights are stored in half precision; load them in single precision.

- **Data**: {card["pictures"]} pictures drawn by `grpo_bench.workloads.count.render` of `taught` scenes; those with a
  rare pair of colour and shape are drawn {RARITY} times as often as the others.
- **Training**: the autoencoder is that of `shapes`; transformer and both text encoders start from its weights and take
  {card["steps"]} steps of {SMALL_BATCH} by flow matching, caption dropout {DROPOUT}, averaged weights. `grpo-bench
  pretrain count` does it again: the same hash on the same machine and number of threads.
- **Base scores**: over the held-out prompts, {SAMPLES_PER_PROMPT} samples each, {SAMPLE_STEPS} deterministic steps on
  the scheduler's own grid, guidance 1: the share that is right, its standard deviation over prompts, and the share of
  prompts whose {SAMPLES_PER_PROMPT} samples are all right or all wrong.
- **Ceiling**: the share right of {CEILING_PICTURES} training pictures that have passed the autoencoder.
- **Licence**: Apache-2.0, as the package.
"""


DESIGN = Design(
    steps=800,
    vae_steps=0,
    pictures=8192,
    latents=8192,
    draw=draw_pictures,
    build=build,
    fit=partial(fit_flow, batch=SMALL_BATCH),
    gold=right,
    scores=_scores,
    readme=_readme,
)
