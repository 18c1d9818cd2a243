"""Makes the model of `shapes-pref`, the laptop's HPS: a folder with a checkpoint in the published HPS layout.

The same seed, thread count and machine give the same file, byte for byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grpo_bench.errors import UserError
from grpo_bench.workloads.pretraining.fitting import Progress, threads
from grpo_bench.workloads.pretraining.parts import make_tokenizer
from grpo_bench.workloads.shapes.preference_fitting import (
    BATCH,
    CONTRAST,
    embed_images,
    embed_texts,
    fit,
    make_model,
    published_layout,
    tokens_of,
)
from grpo_bench.workloads.shapes.preference_pairs import CONTENT, LOOKS, SCENES, Pairs, autoencoded, draw_pairs
from grpo_bench.workloads.shapes.scenes import WORDS, caption
from grpo_bench.workloads.shapes.workload import MODEL as PIPELINE

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

MODEL = Path(__file__).parent / "preference_model"
"""The shipped model's folder."""
THREADS = 1
"""Of its training."""
WEIGHTS, TOKENIZER = "shapes_pref.pt", "tokenizer"
"""Its checkpoint and its folder of the tokenizer."""
STEPS, PAIRS, HELD_OUT = 4000, 16384, 2048
"""Of the shipped model: training steps, pairs of the split `train`, and pairs of `heldout` that it is measured on."""


@dataclass(frozen=True)
class PreferenceResult:
    """The model card in numbers: `sha256` of the checkpoint and accuracies on pairs of held-out captions.

    `accuracy` is over all of them, `content` and `looks` over the kinds of either sort, `by_kind` of each kind; NaN
    where there was none.
    """

    steps: int
    pairs: int
    seed: int
    threads: int
    sha256: str
    accuracy: float
    content: float
    looks: float
    by_kind: dict[str, float]
    torch: str
    transformers: str


def pretrain(
    output: Path, *, steps: int | None = None, seed: int = 0, progress: Progress | None = None
) -> PreferenceResult:
    """Trains the model and writes it to the new folder `output`, whole or not at all.

    `steps` defaults to the shipped model's. Raises UserError where `output` exists.
    """
    import torch
    import transformers

    steps = STEPS if steps is None else steps
    if output.exists():
        raise UserError(f"pretraining writes a new folder, but {output} exists: remove it or name another")
    if steps < 1:
        raise UserError(f"pretraining takes at least one step, not {steps}")
    report = progress or (lambda phase, done, total: None)
    tokenizer = make_tokenizer(WORDS)
    with torch.random.fork_rng(devices=[]), threads(THREADS):
        torch.manual_seed(seed)
        model = make_model(tokenizer)
        generator = torch.Generator().manual_seed(seed)
        decode = autoencoded(autoencoder(), generator)
        pairs = draw_pairs(min(PAIRS, BATCH * steps), "train", np.random.default_rng(seed), decode)
        fit(model, tokenizer, pairs, steps, generator, report)
        held_out = draw_pairs(min(HELD_OUT, BATCH * steps), "heldout", np.random.default_rng([seed, 1]), decode)
        data = _trained_bytes(model)
        right = prefers_better(model, tokenizer, held_out)
    result = PreferenceResult(
        steps=steps,
        pairs=len(pairs),
        seed=seed,
        threads=THREADS,
        sha256=hashlib.sha256(data).hexdigest(),
        accuracy=_share(right),
        content=_share(right[np.isin(held_out.kind, CONTENT)]),
        looks=_share(right[np.isin(held_out.kind, LOOKS)]),
        by_kind={name: _share(right[held_out.kind == name]) for name in (*CONTENT, *LOOKS)},
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    _write(output, data, tokenizer, result)
    return result


def autoencoder() -> AutoencoderKL:
    """The shipped pipeline's, in single precision."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae: AutoencoderKL = AutoencoderKL.from_pretrained(
        PIPELINE / "vae", torch_dtype=torch.float32, local_files_only=True
    )
    return vae


def _trained_bytes(model: CLIPModel) -> bytes:
    """The model's file in half precision; the model itself is rounded alike, so that it is measured as it is read."""
    model.half()
    data = checkpoint(published_layout(model.state_dict()))
    model.float()
    return data


def checkpoint(state: Mapping[str, Tensor]) -> bytes:
    """The bytes of a file {"state_dict": state}, the same wherever it is written."""
    import torch

    buffer = io.BytesIO()  # a file's name would become a part of its bytes
    torch.save({"state_dict": dict(state)}, buffer)
    return buffer.getvalue()


def prefers_better(model: CLIPModel, tokenizer: CLIPTokenizer, pairs: Pairs) -> NDArray[np.bool_]:
    """Whether each pair's better picture scores higher, (P,)."""
    import torch

    with torch.inference_mode():
        text_PE = embed_texts(model, tokens_of(tokenizer, map(caption, SCENES)))[pairs.asked]
        better_PE, worse_PE = (
            torch.cat([embed_images(model, part) for part in pixels.split(64)])
            for pixels in (pairs.better, pairs.worse)
        )
        right: NDArray[np.bool_] = ((text_PE * (better_PE - worse_PE)).sum(-1) > 0).numpy()
    return right


def _share(right: NDArray[np.bool_]) -> float:
    return round(float(right.mean()), 4) if len(right) else float("nan")


def _write(output: Path, data: bytes, tokenizer: CLIPTokenizer, result: PreferenceResult) -> None:
    """Writes the folder beside `output`, then renames it."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tokenizer.save_pretrained(partial / TOKENIZER)
        (partial / WEIGHTS).write_bytes(data)
        (partial / "card.json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(_card(result), encoding="utf-8")
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _card(result: PreferenceResult) -> str:
    numbers = {name: value for name, value in asdict(result).items() if name != "by_kind"}
    kinds = {f"pairs that differ by: {name}": value for name, value in result.by_kind.items()}
    rows = "\n".join(f"| {name} | {value} |" for name, value in {**numbers, **kinds}.items())
    return f"""# shapes-pref: a tiny HPS

A CLIP of HPSv2's architecture, file layout and loss for the pictures of `shapes`: {WEIGHTS} holds
`{{"state_dict": ...}}` under OpenCLIP's names, in half precision, and is read by the code that reads HPSv2. The score
is the cosine of picture and caption. It is a learned proxy: good, dense, and no judge of truth.

- **Data**: {result.pairs} pairs for captions of the split `train`, drawn and labelled by
  `grpo_bench.workloads.shapes.preference_pairs`: the better picture shows the caption, the worse one another scene
  ({", ".join(CONTENT)}) or the same one spoilt ({", ".join(LOOKS)}). Labels come from how the pictures were made;
  the gold judge of `shapes` is not used. No photographs, no people.
- **Training**: {result.steps} steps of {BATCH} pairs on the preference loss, plus {CONTRAST} times CLIP's
  contrastive loss, plus the reading of the scene by a linear map that is thrown away. `grpo-bench pretrain shapes-pref`
  does it again: the same hash on the same machine.
- **Accuracy**: the share of pairs of held-out captions (split `heldout`) whose better picture scores higher;
  `content` and `looks` are over the two sorts of pairs.
- **Licence**: Apache-2.0, as the package.

| | |
| --- | --- |
{rows}
"""
