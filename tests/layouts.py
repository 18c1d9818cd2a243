"""The layouts in which a pipeline may lie on a disk, made from a tiny one that is changed in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

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
