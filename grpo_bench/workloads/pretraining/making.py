"""Makes a built-in model from its design: a diffusers pipeline folder, trained from nothing on drawn pictures.

The same seed, thread count and machine give the same weights, bit for bit, also where the training was ended and
started again: what is done so far lies in a hidden folder beside the output.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from grpo_bench.workloads.pretraining.checkpoint import Checkpoint
from grpo_bench.workloads.pretraining.fitting import FLOW_BATCH, VAE_BATCH, Pictures, Progress, fit_vae, threads
from grpo_bench.workloads.pretraining.folder import (
    captions_of,
    check_new,
    load,
    mean_error,
    new_folder,
    rebuilt,
    save,
    weights_sha256,
    write_card,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import Generator

Card = dict[str, float | str]
THREADS = 1
CEILING_PICTURES = 2048
Gold = Callable[[np.ndarray, Sequence[str]], np.ndarray]
"""Scores (B,) of pictures (B, 3, H, W) in [0, 1] and their captions."""


class Fit(Protocol):
    """Trains the denoiser of a pipeline, and its text encoders, in place."""

    def __call__(
        self,
        pipe: DiffusionPipeline,
        pictures: Pictures,
        steps: int,
        generator: Generator,
        progress: Progress,
        checkpoint: Checkpoint,
    ) -> None:
        """See `fit_flow`."""


@dataclass(frozen=True)
class Design:
    """What differs between the built-in models."""

    steps: int
    """Training steps of the denoiser."""
    vae_steps: int
    """Those of the autoencoder; 0: the pipeline is built around a trained one."""
    pictures: int
    latents: int
    """Pictures that the denoiser learns from: the first of them, so that fewer have to be encoded."""
    draw: Callable[[int, int], Pictures]
    """So many pictures of the split `train`, from a seed."""
    build: Callable[[], DiffusionPipeline]
    """The pipeline, with weights from torch's global generator."""
    fit: Fit
    gold: Gold
    scores: Callable[[DiffusionPipeline], Mapping[str, float]]
    """Of samples for the held-out prompts, by name."""
    readme: Callable[[Card], str]
    """The model card in words."""


def pretrain(
    design: Design,
    output: Path,
    *,
    steps: int | None = None,
    vae_steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Card:
    """Trains the pipeline and writes it to the new folder `output`, whole or not at all; returns its card.

    `steps` and `vae_steps` default to the design's; `steps` alone also caps `vae_steps`. Raises UserError where
    `output` exists.
    """
    import torch

    steps = design.steps if steps is None else steps
    if design.vae_steps == 0:
        vae_steps = 0
    elif vae_steps is None:
        vae_steps = min(design.vae_steps, max(steps, 1))
    check_new(output, steps, *([vae_steps] if design.vae_steps else []))
    report = progress or (lambda phase, done, total: None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = design.build()
    generator = torch.Generator().manual_seed(seed)
    pictures = design.draw(min(design.pictures, max(FLOW_BATCH * steps, VAE_BATCH * vae_steps)), seed)
    unfinished = output.with_name(f".{output.name}.{steps}-{vae_steps}-{seed}.unfinished")
    with threads(THREADS):
        if vae_steps:
            fit_vae(pipe.vae, pictures, vae_steps, generator, report, Checkpoint(unfinished))
        design.fit(pipe, pictures.first(design.latents), steps, generator, report, Checkpoint(unfinished))
        card: Card = {"steps": steps, "vae_steps": vae_steps, "pictures": len(pictures.pixels), "seed": seed}
        _write(design, pipe, output, card)
    shutil.rmtree(unfinished, ignore_errors=True)
    return card


def ceiling(gold: Gold, vae: AutoencoderKL, pictures: Pictures) -> float:
    """Mean gold of training pictures that have passed the autoencoder: what a model that draws like them would score.

    Gains are put in units of (ceiling - base), so that workloads can be compared.
    """
    return round(float(gold(rebuilt(vae, pictures), captions_of(pictures)).mean()), 4)


def _write(design: Design, pipe: DiffusionPipeline, output: Path, card: Card) -> None:
    """Saves in half precision, measures what was saved, and completes the card."""
    import diffusers
    import torch

    seed, count = int(card["seed"]), int(card["pictures"])
    with new_folder(output) as folder:
        save(pipe, folder)
        saved = load(folder)
        card |= {
            "threads": torch.get_num_threads(),
            "sha256": weights_sha256(folder),
            "vae_mse": mean_error(saved.vae, design.draw(256, seed + 1)),
            **{name: round(score, 4) for name, score in design.scores(saved).items()},
            "ceiling": ceiling(design.gold, saved.vae, design.draw(min(CEILING_PICTURES, count), seed + 1)),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        }
        write_card(folder, card, design.readme(card))
