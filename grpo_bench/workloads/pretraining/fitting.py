"""The training loops of the built-in models: an autoencoder on pictures, then a denoiser and its texts on latents.

A Stable Diffusion 3 learns by flow matching (arXiv 2403.03206, section 2): x = (1 - sigma) x0 + sigma eps, target
velocity eps - x0, sigma logit-normal. A Stable Diffusion 1 learns the noise (arXiv 2006.11239, eq. 14) at uniform
timesteps. A loop that is given a `Checkpoint` can be ended at any moment and goes on from its last one: the same
weights, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.errors import Diverged
from grpo_bench.workloads.pretraining.checkpoint import Checkpoint

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from torch import Generator, Tensor
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer
    from transformers import CLIPTokenizer

Progress = Callable[[str, int, int], None]
"""Called as progress(phase, steps done, steps in all)."""

VAE_BATCH, VAE_LR, KL_WEIGHT = 32, 1.5e-3, 2e-5
FLOW_BATCH, FLOW_LR, DROPOUT, EMA = 64, 1e-3, 0.1, 0.999
SMALL_BATCH = 32
"""Of the later models: as many steps in half the time."""


@dataclass(frozen=True)
class Pictures:
    """Training pictures (P, 3, H, W) as bytes, and each one's place in the captions (P,)."""

    pixels: Tensor
    caption: Tensor
    captions: tuple[str, ...]

    def first(self, count: int) -> Pictures:
        """So many of them."""
        return Pictures(self.pixels[:count], self.caption[:count], self.captions)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many threads of torch inside: sums are split over threads, and another number of them rounds otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_bytes(parts: Sequence[np.ndarray], index: np.ndarray, captions: tuple[str, ...]) -> Pictures:
    """Pictures (B, 3, H, W) in [0, 1], in parts, each picture of the caption at its place in `index` (P,)."""
    import torch

    pixels = np.concatenate([(part * 255 + 0.5).astype(np.uint8) for part in parts])
    return Pictures(torch.from_numpy(pixels), torch.from_numpy(index), captions)


def to_input(pixels: Tensor) -> Tensor:
    """Bytes to the autoencoder's range [-1, 1]."""
    return pixels.float() / 127.5 - 1


def fit_vae(
    vae: AutoencoderKL,
    pictures: Pictures,
    steps: int,
    generator: Generator,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Trains the autoencoder in place on squared error and a faint KL, then gives its latents mean 0 and variance 1."""
    import torch

    optimiser = torch.optim.AdamW(vae.parameters(), lr=VAE_LR, betas=(0.9, 0.99), weight_decay=0.01)
    saved = (checkpoint or Checkpoint(None)).of("autoencoder", list(vae.parameters()), optimiser, generator)
    for step in saved.steps(steps):
        set_rate(optimiser, VAE_LR * rate_schedule(step, steps))
        index = torch.randint(len(pictures.pixels), (VAE_BATCH,), generator=generator)
        x_BCHW = to_input(pictures.pixels[index])
        posterior = vae.encode(x_BCHW).latent_dist
        error = (vae.decode(posterior.sample(generator)).sample - x_BCHW).square().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        descend(optimiser, error + KL_WEIGHT * kl, vae.parameters())
        progress("autoencoder", step + 1, steps)
    z = encode(vae, pictures.pixels[:4096])
    vae.register_to_config(shift_factor=float(z.mean()), scaling_factor=float(1 / z.std()))


def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """The mean latents (P, C, H, W) of pictures, not yet normalised."""
    import torch

    with torch.no_grad():
        return torch.cat([vae.encode(to_input(part)).latent_dist.mean for part in pixels.split(256)])


Loss = Callable[["Tensor", "Tensor", "Generator"], "Tensor"]
"""Of clean latents (B, C, H, W) and token ids (B, S); draws times and noise from the generator."""


def fit_flow(
    pipe: StableDiffusion3Pipeline,
    pictures: Pictures,
    steps: int,
    generator: Generator,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    batch: int = FLOW_BATCH,
) -> None:
    """Trains transformer and text encoders in place by flow matching on latents; leaves their averaged weights."""
    parts = pipe.transformer, pipe.text_encoder, pipe.text_encoder_2
    z = (encode(pipe.vae, pictures.pixels) - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    run = _Run("transformer", steps, batch, generator, progress, checkpoint or Checkpoint(None))
    _fit(parts, z, pipe.tokenizer, pictures, partial(_flow_loss, pipe), run)


def fit_noise(
    pipe: StableDiffusionPipeline,
    pictures: Pictures,
    steps: int,
    generator: Generator,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Trains U-Net and text encoder in place to predict the noise in latents; leaves their averaged weights."""
    z = encode(pipe.vae, pictures.pixels) * pipe.vae.config.scaling_factor
    run = _Run("unet", steps, SMALL_BATCH, generator, progress, checkpoint or Checkpoint(None))
    _fit((pipe.unet, pipe.text_encoder), z, pipe.tokenizer, pictures, partial(_noise_loss, pipe), run)


@dataclass(frozen=True)
class _Run:
    """What a denoiser's training is told beside its data."""

    phase: str
    steps: int
    batch: int
    generator: Generator
    progress: Progress
    checkpoint: Checkpoint


def _fit(
    parts: Iterable[Module], z: Tensor, tokenizer: CLIPTokenizer, pictures: Pictures, loss: Loss, run: _Run
) -> None:
    """AdamW on batches of latents and captions, some of them dropped; leaves the weights' running average."""
    import torch

    texts = [*pictures.captions, ""]
    tokens = torch.tensor(tokenizer(texts, padding="max_length").input_ids)
    weights = [p for part in parts for p in part.parameters()]
    average = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=FLOW_LR, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)
    generator = run.generator
    for step in run.checkpoint.of(run.phase, [*weights, *average], optimiser, generator).steps(run.steps):
        set_rate(optimiser, FLOW_LR * rate_schedule(step, run.steps))
        index = torch.randint(len(z), (run.batch,), generator=generator)
        dropped = torch.rand(run.batch, generator=generator) < DROPOUT
        text = tokens[torch.where(dropped, len(texts) - 1, pictures.caption[index])]
        descend(optimiser, loss(z[index], text, generator), weights)
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - min(EMA, (1 + step) / (10 + step)))
        run.progress(run.phase, step + 1, run.steps)
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)


def _flow_loss(pipe: StableDiffusion3Pipeline, x0: Tensor, tokens: Tensor, generator: Generator) -> Tensor:
    import torch

    sigma = torch.sigmoid(0.3 + 1.2 * torch.randn(len(x0), generator=generator))
    noise = torch.randn(x0.shape, generator=generator)
    x = torch.lerp(x0, noise, sigma[:, None, None, None])
    read = [encoder(tokens, output_hidden_states=True) for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    velocity = pipe.transformer(
        hidden_states=x,
        encoder_hidden_states=torch.cat([out.hidden_states[-2] for out in read], -1),  # what the pipeline reads
        pooled_projections=torch.cat([out.text_embeds for out in read], -1),
        timestep=1000 * sigma,
    ).sample
    loss: Tensor = (velocity - (noise - x0)).square().mean()
    return loss


def _noise_loss(pipe: StableDiffusionPipeline, x0: Tensor, tokens: Tensor, generator: Generator) -> Tensor:
    import torch

    scheduler = pipe.scheduler
    timestep = torch.randint(scheduler.config.num_train_timesteps, (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    x = scheduler.add_noise(x0, noise, timestep)
    read = pipe.text_encoder(tokens)[0]  # what the pipeline reads
    loss: Tensor = (pipe.unet(x, timestep, encoder_hidden_states=read).sample - noise).square().mean()
    return loss


def rate_schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 3%, then half a cosine down to 2%."""
    warm = min(1.0, (step + 1) / max(1, 0.03 * steps))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(optimiser: Optimizer, loss: Tensor, weights: Iterable[Parameter]) -> None:
    """One clipped step down the loss. Raises Diverged where that is no finite number."""
    import torch

    if not torch.isfinite(loss):
        raise Diverged("the pretraining loss is not a finite number")
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
