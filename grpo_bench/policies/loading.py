"""Reads a diffusers pipeline from a folder or the hub, and says in one sentence what is missing."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from grpo_bench.errors import UserError

P = TypeVar("P", bound=DiffusionPipeline)


def load_pipeline(
    kind: type[P], source: str, dtype: torch.dtype, given: Mapping[str, object] = MappingProxyType({})
) -> P:
    """The pipeline at `source`, in eval mode, its weights copied out of the memory-mapped files.

    Components that its index leaves out or gives as null (T5, in an SD3 without it) are loaded as None, which diffusers
    wants to be told. `given` holds components and options that are not read: the pipeline takes these instead.

    Raises:
        UserError: no such folder or hub id, another kind of pipeline, or a component that is listed but missing.
    """
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    if Path(source).exists():
        _check_folder(Path(source), kind.__name__, given)
    try:
        listed = _config(kind, source)
        known = inspect.signature(kind.__init__).parameters.keys() - {"self"}
        absent = {name: None for name in known if listed.get(name) in (None, [None, None], (None, None))}
        pipeline: P = kind.from_pretrained(source, dtype=dtype, **(absent | dict(given)))
    except Exception as error:  # hub, file and format errors have no common base
        reason = " ".join(str(error).split())[:300].rstrip(".")
        hub = "" if Path(source).exists() else ", and for the hub check the network and (for a gated model) your login"
        raise UserError(
            f"model {source!r} cannot be loaded as a {kind.__name__}: {type(error).__name__}: {reason}; "
            f"give the folder or hub id of a complete diffusers pipeline{hub}"
        ) from error
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            fresh_copy(component)
            component.eval().requires_grad_(False)
    return pipeline


def _config(kind: type[DiffusionPipeline], source: str) -> dict[str, object]:
    """The pipeline's index, without the deprecation warnings on the way, on which nobody here can act."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index: dict[str, object] = kind.load_config(source)
    return index


def fresh_copy(module: nn.Module) -> None:
    """Copy weights out of a memory-mapped file: its alignment picks other kernels, which round the last bit."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


def _check_folder(folder: Path, kind: str, given: Mapping[str, object]) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"model folder {str(folder)!r} has no model_index.json; give a diffusers pipeline's folder")
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(index)!r} is not readable JSON ({error}); copy the model again") from error
    if not isinstance(listed, dict):
        raise UserError(f"{str(index)!r} is not a JSON object; copy the model again")
    if listed.get("_class_name") != kind:
        raise UserError(f"model folder {str(folder)!r} holds a {listed.get('_class_name')}, but a {kind} is needed")
    parts = [name for name, value in listed.items() if isinstance(value, list) and value[0] is not None]
    missing = [name for name in parts if name not in given and not (folder / name).is_dir()]
    if missing:
        raise UserError(f"model folder {str(folder)!r} lacks its component {missing[0]!r}; copy the model again")
