"""The layouts in which a pipeline may lie on a disk, made from a tiny one that is changed in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

Tensors = dict[str, Tensor]


def weights(model: Path, component: str) -> Path:
    """The one safetensors file of a component."""
    (found,) = (model / component).glob("*.safetensors")
    return found


def rewrite(model: Path, component: str, change: Callable[[Tensors], Mapping[str, Tensor]]) -> None:
    """Replace a component's tensors by what `change` makes of them."""
    path = weights(model, component)
    save_file(dict(change(load_file(path))), path, {"format": "pt"})


def as_variant(model: Path, *components: str, variant: str = "fp16", dtype: torch.dtype = torch.float16) -> None:
    """Leave only files of a variant, as `save_pretrained(variant=...)` does; of all components if none is named."""
    for path in _files(model, components):
        halved = {name: value.to(dtype) for name, value in load_file(path).items()}
        save_file(halved, path.with_suffix(f".{variant}.safetensors"), {"format": "pt"})
        path.unlink()


def as_bin(model: Path, *components: str) -> None:
    """Leave only torch's own files, as `save_pretrained(safe_serialization=False)` does."""
    for path in _files(model, components):
        stem = {"model": "pytorch_model"}.get(path.stem, path.stem)
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()


def sharded(model: Path, component: str) -> None:
    """Cut a component's weights into shards of a few kilobytes with an index."""
    path = weights(model, component)
    tensors = load_file(path)
    path.unlink()
    save_torch_state_dict(
        tensors, path.parent, filename_pattern=path.stem + "{suffix}.safetensors", max_shard_size="50KB"
    )


def listed(model: Path, **changes: object) -> None:
    """Change entries of the pipeline's index."""
    index = model / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


def _files(model: Path, components: tuple[str, ...]) -> list[Path]:
    folders = [model / name for name in components] if components else sorted(model.iterdir())
    return [path for folder in folders for path in folder.glob("*.safetensors")]


def add_t5(model: Path) -> None:
    """Give a tiny SD3 a random T5 of two layers, whose tokens are as wide as its transformer takes."""
    wide = json.loads((model / "transformer" / "config.json").read_text())["joint_attention_dim"]
    torch.manual_seed(3)
    T5EncoderModel(T5Config(vocab_size=104, d_model=wide, d_kv=8, d_ff=32, num_layers=2, num_heads=2)).save_pretrained(
        model / "text_encoder_3"
    )
    T5Tokenizer().save_pretrained(model / "tokenizer_3")
    listed(model, text_encoder_3=["transformers", "T5EncoderModel"], tokenizer_3=["transformers", "T5TokenizerFast"])


def configured(model: Path, component: str, **changes: object) -> None:
    """Change entries of a component's config."""
    (path,) = (model / component).glob("*config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
