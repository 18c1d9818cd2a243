"""The folder of a built-in model: written whole or not at all, in half precision, with its card and its hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.errors import UserError
from grpo_bench.workloads.pretraining.fitting import Pictures, to_input

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import Tensor

SAMPLE_STEPS = 10
"""How base scores are taken: so many deterministic steps on diffusers' own grid, guidance 1."""
CARD, README = "card.json", "README.md"


def check_new(output: Path, *steps: int) -> None:
    """Raises UserError where `output` exists, or a phase of the training has no step."""
    if output.exists():
        raise UserError(f"pretraining writes a new folder, but {output} exists: remove it or name another")
    if min(steps) < 1:
        raise UserError(
            f"pretraining takes at least one step of each kind, not {' and '.join(map(str, steps))}: ask for more"
        )


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` that becomes it when the block ends; where the block raises, it is removed."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save(pipe: DiffusionPipeline, folder: Path) -> None:
    """As diffusers saves it in half precision, but for the place that a taken-over part was loaded from.

    An SD3's index also states the absence of T5, so that a loader can tell it from a lost folder.
    """
    import torch

    pipe.to(torch.float16).save_pretrained(folder)
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if type(pipe).__name__ != "StableDiffusion3Pipeline":
        return
    index = folder / "model_index.json"
    parts = json.loads(index.read_text(encoding="utf-8"))
    parts |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_card(folder: Path, card: Mapping[str, object], readme: str) -> None:
    """The card as JSON, and as the table that ends the README."""
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    rows = "\n".join(f"| {name} | {value} |" for name, value in card.items())
    (folder / README).write_text(f"{readme}\n| | |\n| --- | --- |\n{rows}\n", encoding="utf-8")


def load(folder: Path) -> DiffusionPipeline:
    """A saved pipeline in single precision; diffusers wants to be told about what an SD3 lacks."""
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    absent = {name: None for name in ("text_encoder_3", "tokenizer_3") if name in index}
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **absent)


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the folder's safetensors files, each preceded by its relative path, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors"), key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def draw(pipe: DiffusionPipeline, texts: Sequence[str], seed: int, **options: object) -> np.ndarray:
    """Images (B, 3, H, W) in [0, 1] that diffusers' own call draws, one a text."""
    import torch

    pipe.set_progress_bar_config(disable=True)
    images_BHWC: np.ndarray = pipe(
        list(texts),
        num_inference_steps=SAMPLE_STEPS,
        height=32,
        width=32,
        guidance_scale=1.0,
        output_type="np",
        generator=torch.Generator().manual_seed(seed),
        **options,
    ).images
    return images_BHWC.transpose(0, 3, 1, 2)


def through(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures as bytes (B, 3, H, W) that have passed the autoencoder, in its range [-1, 1]."""
    import torch

    with torch.inference_mode():
        decoded: Tensor = vae.decode(vae.encode(to_input(pixels)).latent_dist.mean).sample
    return decoded.clamp(-1, 1)


def mean_error(vae: AutoencoderKL, pictures: Pictures) -> float:
    """Mean squared error of the autoencoder in [0, 1] pixels, to three digits."""
    error = through(vae, pictures.pixels) - to_input(pictures.pixels)
    return float(f"{error.square().mean().item() / 4:.3g}")


def rebuilt(vae: AutoencoderKL, pictures: Pictures) -> np.ndarray:
    """The pictures (P, 3, H, W) in [0, 1] after the autoencoder, rounded to bytes as evaluation does."""
    import torch

    parts = [through(vae, part) for part in pictures.pixels.split(64)]
    rounded: np.ndarray = ((torch.cat(parts) / 2 + 0.5) * 255).round().div(255).numpy()
    return rounded


def captions_of(pictures: Pictures) -> list[str]:
    """The caption of each picture."""
    return [pictures.captions[index] for index in pictures.caption.tolist()]
