"""Makes the tiny Stable Diffusion 3 of `shapes`: a diffusers pipeline folder, trained from nothing on rendered scenes.

The same seed, thread count and machine give the same weights, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grpo_bench.errors import UserError
from grpo_bench.workloads.shapes.fitting import (
    DROPOUT,
    FLOW_BATCH,
    VAE_BATCH,
    Pictures,
    Progress,
    draw_pictures,
    fit_flow,
    fit_vae,
    threads,
    to_input,
)
from grpo_bench.workloads.shapes.judge import judge
from grpo_bench.workloads.shapes.parts import SHIFT, make_pipeline
from grpo_bench.workloads.shapes.scenes import prompts

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

MODEL = Path(__file__).parent / "model"
"""The shipped checkpoint."""
STEPS, VAE_STEPS, PICTURES = 7000, 1500, 32768
THREADS = 1
"""Of the shipped checkpoint's training."""
SAMPLE_STEPS, SAMPLES_PER_PROMPT = 10, 4
"""How base scores are taken: 10 deterministic steps on diffusers' own grid, guidance 1, 4 samples a held-out prompt."""


@dataclass(frozen=True)
class PretrainResult:
    """The model card in numbers: `sha256` of the weights, `vae_mse` of [0, 1] pixels, scores of held-out prompts."""

    steps: int
    vae_steps: int
    pictures: int
    seed: int
    threads: int
    sha256: str
    vae_mse: float
    correctness: float
    appeal: float
    shapes: float
    fully_right: float
    torch: str
    diffusers: str


def pretrain(
    output: Path,
    *,
    steps: int | None = None,
    vae_steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PretrainResult:
    """Trains the pipeline and writes it to the new folder `output`, whole or not at all.

    `steps` and `vae_steps` default to the shipped model's; `steps` alone also caps `vae_steps`. Raises UserError where
    `output` exists.
    """
    import torch

    steps = STEPS if steps is None else steps
    vae_steps = min(VAE_STEPS, max(steps, 1)) if vae_steps is None else vae_steps
    if output.exists():
        raise UserError(f"pretraining writes a new folder, but {output} exists: remove it or name another")
    if steps < 1 or vae_steps < 1:
        raise UserError(f"pretraining takes at least one step of each kind, not {steps} and {vae_steps}")
    report = progress or (lambda phase, done, total: None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = make_pipeline()
    generator = torch.Generator().manual_seed(seed)
    pictures = draw_pictures(min(PICTURES, max(FLOW_BATCH * steps, VAE_BATCH * vae_steps)), seed)
    with threads(THREADS):
        fit_vae(pipe.vae, pictures, vae_steps, generator, report)
        fit_flow(pipe, pictures, steps, generator, report)
        return _write(pipe, output, steps, vae_steps, len(pictures.pixels), seed)


def _write(
    pipe: StableDiffusion3Pipeline, output: Path, steps: int, vae_steps: int, pictures: int, seed: int
) -> PretrainResult:
    """Saves in half precision beside `output`, scores what was saved, then renames."""
    import diffusers
    import torch

    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _save(pipe.to(torch.float16), partial)
        saved = load(partial)
        correct, appealing = base_scores(saved)
        result = PretrainResult(
            steps=steps,
            vae_steps=vae_steps,
            pictures=pictures,
            seed=seed,
            threads=torch.get_num_threads(),
            sha256=weights_sha256(partial),
            vae_mse=_vae_mse(saved.vae, draw_pictures(256, seed + 1)),
            correctness=round(float(correct.mean()), 4),
            appeal=round(float(appealing.mean()), 4),
            shapes=round(float((correct + appealing).mean() / 2), 4),
            fully_right=round(float((correct > 0.95).mean()), 4),
            torch=torch.__version__,
            diffusers=diffusers.__version__,
        )
        (partial / "card.json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(_card(result), encoding="utf-8")
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _save(pipe: StableDiffusion3Pipeline, folder: Path) -> None:
    """As diffusers saves it, plus the absence of T5 in the index, so that a loader can tell it from a lost folder."""
    pipe.save_pretrained(folder)
    index = folder / "model_index.json"
    parts = json.loads(index.read_text(encoding="utf-8"))
    parts |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load(folder: Path) -> StableDiffusion3Pipeline:
    """A saved pipeline in single precision; diffusers wants to be told about an absent T5."""
    import torch
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

    absent = {"text_encoder_3": None, "tokenizer_3": None}
    return StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **absent)


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the folder's safetensors files, each preceded by its relative path, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors"), key=lambda path: path.relative_to(folder).as_posix()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def base_scores(pipe: StableDiffusion3Pipeline) -> tuple[np.ndarray, np.ndarray]:
    """(correctness, appeal) of samples for the held-out prompts, from a fixed seed."""
    import torch

    pipe.set_progress_bar_config(disable=True)
    texts = list(prompts("heldout"))
    scores = []
    for draw in range(SAMPLES_PER_PROMPT):
        images_BHWC = pipe(
            texts,
            num_inference_steps=SAMPLE_STEPS,
            height=32,
            width=32,
            max_sequence_length=0,
            guidance_scale=1.0,
            output_type="np",
            generator=torch.Generator().manual_seed(draw),
        ).images
        scores.append(judge(images_BHWC.transpose(0, 3, 1, 2), texts))
    return np.concatenate([score[0] for score in scores]), np.concatenate([score[1] for score in scores])


def _vae_mse(vae: AutoencoderKL, pictures: Pictures) -> float:
    import torch

    x_BCHW = to_input(pictures.pixels)
    with torch.inference_mode():
        decoded = vae.decode(vae.encode(x_BCHW).latent_dist.mean).sample
    return float(f"{(decoded.clamp(-1, 1) - x_BCHW).square().mean().item() / 4:.3g}")


def _card(result: PretrainResult) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in asdict(result).items())
    return f"""# shapes: a tiny Stable Diffusion 3

A diffusers `StableDiffusion3Pipeline` of 32x32 pictures with one or two coloured shapes, such as "a red circle left of
a blue square". No T5: load it with `text_encoder_3=None, tokenizer_3=None`, call it with `max_sequence_length=0`.
Weights are stored in half precision; load them in single precision.

- **Data**: {result.pictures} pictures drawn by `grpo_bench.workloads.shapes.render` from the prompts of the split
  `train`, a fifth of them of one object. Held-out prompts, and the (colour, shape) pairs of the split `combinations`,
  never occur. No photographs, no people.
- **Training**: autoencoder {result.vae_steps} steps of {VAE_BATCH}; transformer and both text encoders {result.steps}
  steps of {FLOW_BATCH} by flow matching, caption dropout {DROPOUT}, averaged weights. `grpo-bench pretrain shapes` does
  it again: the same hash on the same machine and number of threads.
- **Base scores**: means over the held-out prompts, {SAMPLES_PER_PROMPT} samples each, {SAMPLE_STEPS} deterministic
  steps on the scheduler's own grid (shift {SHIFT}), guidance 1. `shapes` is the mean of correctness and appeal; fully
  right is the share with a correctness above 0.95.
- **Licence**: Apache-2.0, as the package.

| | |
| --- | --- |
{rows}
"""
