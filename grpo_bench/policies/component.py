"""Reads one component of a pipeline, and checks what diffusers and transformers only warn about."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from zipfile import is_zipfile

import diffusers
import torch
import transformers
from diffusers import ModelMixin
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo_bench.errors import UserError, out_of_memory, reason
from grpo_bench.policies.files import Weights, read_json
from grpo_bench.weights import misfit

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
LFS, LFS_BYTES = b"version https://git-lfs", 1024
"""How Git LFS begins the small file that stands for a large one."""


def component_class(library: str, name: str, what: str) -> type:
    """The class that a pipeline's index names.

    Raises:
        UserError: it belongs to neither of the two libraries.
    """
    kind = getattr(LIBRARIES.get(library), name, None)
    if not isinstance(kind, type):
        raise UserError(
            f"{what} is a {name} of {library}, which the installed diffusers and transformers do not have; code that "
            "comes with a model is never run, so give another model"
        )
    return kind


def read_component(kind: type, folder: Path, weights: Weights | None, dtype: torch.dtype, what: str) -> object:
    """The model, tokenizer or scheduler in `folder`; a model has exactly the weights given, in memory of its own.

    Raises:
        UserError: it cannot be read; weights are missing, left over or of another shape; or a tokenizer has no
            vocabulary.
    """
    try:
        if issubclass(kind, ModelMixin | PreTrainedModel):
            return _model(kind, folder, weights, dtype, what)
        if issubclass(kind, PreTrainedTokenizerBase):
            _check_vocabulary(kind, folder, what)
        return kind.from_pretrained(str(folder), local_files_only=True)  # type: ignore[attr-defined]
    except UserError:
        raise
    except Exception as error:  # the errors of three libraries have no common base
        if out_of_memory(error):
            raise
        raise UserError(
            f"{what} cannot be read as a {kind.__name__} ({reason(error)}); copy the model again"
        ) from error


def _model(
    kind: type[ModelMixin | PreTrainedModel], folder: Path, weights: Weights | None, dtype: torch.dtype, what: str
) -> nn.Module:
    if weights is None:
        raise UserError(
            f"{what} has no weights (*.safetensors or *.bin); copy them too, or where a hub has them as a variant "
            "only, name it with --set model.variant=fp16"
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{what} holds an adapter of peft beside its weights; merge it into them and save the result")
    integers = _check_files(weights, what)
    # Mismatched shapes are let through to be told with the rest, in one sentence of ours.
    model, info = kind.from_pretrained(
        str(folder),
        variant=weights.variant or None,
        use_safetensors=weights.safetensors,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        local_files_only=True,
    )
    shapes = {name: (tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"]}
    empty = {name for name, value in model.state_dict().items() if value.is_meta} - shapes.keys()
    wrong = misfit({*info["missing_keys"], *empty}, info["unexpected_keys"], shapes)
    if wrong:
        raise UserError(f"{what} does not have the weights of a {kind.__name__}: it {wrong}; copy the model again")
    assert isinstance(model, nn.Module)
    _check_kinds(model, integers, what)
    fresh_copy(model)
    return model.eval().requires_grad_(False)


def fresh_copy(module: nn.Module) -> None:
    """Copy weights out of a memory-mapped file: its alignment picks other kernels, which round the last bit."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


def _check_kinds(model: nn.Module, integers: Set[str], what: str) -> None:
    """Refuse whole numbers where the model has real ones: quantised weights mean other ones."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    real = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    cast = sorted(name for name in integers if real & {name, f"{prefix}{name}", name.removeprefix(prefix)})
    if cast:
        more = f" and {len(cast) - 1} more weights" if cast[1:] else ""
        raise UserError(
            f"{what} has whole numbers in {cast[0]}{more}, where the model has real ones; quantised weights are not "
            "read: give them in fp32, bf16 or fp16"
        )


def _check_files(weights: Weights, what: str) -> frozenset[str]:
    """Refuse damaged files, and an index that its shards do not bear out: diffusers believes it.

    Returns the names of the tensors that hold whole numbers or truth values.
    """
    held: dict[str, bool] = {}
    for file in weights.files:
        try:
            held |= _names(file)
        except Exception as error:  # a broken file shows as any of a dozen errors
            pointer = file.stat().st_size < LFS_BYTES and file.read_bytes().startswith(LFS)
            why = "it is a pointer of Git LFS: run `git lfs pull`" if pointer else reason(error)
            raise UserError(
                f"{what} has weights in {file.name} that cannot be read ({why}); copy them again or save them as "
                "safetensors"
            ) from error
    integers = frozenset(name for name, real in held.items() if not real)
    if weights.index is None:
        return integers
    named = read_json(weights.index)["weight_map"]
    assert isinstance(named, dict)
    wrong = misfit(named.keys() - held.keys(), held.keys() - named.keys())
    if wrong:
        raise UserError(f"{what} does not have the weights that {weights.index.name} lists: it {wrong}; copy it again")
    return integers


def _names(file: Path) -> dict[str, bool]:
    """The tensors in a file by name, and whether each holds real numbers."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as stream:
            return {name: "F" in stream.get_slice(name).get_dtype() for name in stream.keys()}  # noqa: SIM118
    held = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    return {name: not torch.is_tensor(value) or value.is_floating_point() for name, value in held.items()}


def _check_vocabulary(kind: type[PreTrainedTokenizerBase], folder: Path, what: str) -> None:
    """transformers makes a tokenizer of two or three words where there are no files."""
    names = dict(kind.vocab_files_names)
    whole = names.pop("tokenizer_file", "tokenizer.json")
    missing = [name for name in names.values() if not (folder / name).is_file()]
    if missing and not (folder / whole).is_file():
        raise UserError(f"{what} has neither {whole} nor {missing[0]}; copy the model again")
