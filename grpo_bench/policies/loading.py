"""Opens a diffusers pipeline in a folder or on the hub, strictly: what does not fit is refused in one sentence."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from grpo_bench.config import ModelSection
from grpo_bench.errors import UserError, reason
from grpo_bench.policies.component import component_class, read_component
from grpo_bench.policies.files import INDEX, Weights, components, model_weights, read_index, read_json
from grpo_bench.policies.hub import snapshot

P = TypeVar("P", bound=DiffusionPipeline)
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


@dataclass(frozen=True)
class PipelineFolder(Generic[P]):
    """A pipeline of the wanted kind whose index fits, and of which no weights have been read yet."""

    path: Path
    kind: type[P]
    options: Mapping[str, object]
    """Arguments of the pipeline that are not components."""
    classes: Mapping[str, type]
    """Class of each component to be read, by name."""
    weights: Mapping[str, Weights]

    def require(self, names: Sequence[str]) -> None:
        """Refuse a pipeline that lacks one of these.

        Raises:
            UserError: the index leaves one out.
        """
        absent = [name for name in names if name not in self.classes]
        if absent:
            raise UserError(f"the model's {INDEX} leaves out {absent[0]!r}; use a complete pipeline")

    def config(self, name: str) -> dict[str, object]:
        """A component's settings, with its class's defaults for those that its file leaves out.

        Raises:
            UserError: the file is missing or damaged, or gives something else where the class has a number.
        """
        file = self.path / name / getattr(self.classes[name], "config_name", "config.json")
        parameters = inspect.signature(self.classes[name].__init__).parameters  # type: ignore[misc]
        defaults = {key: one.default for key, one in parameters.items() if one.default is not one.empty}
        said = read_json(file)
        for key, value in said.items():
            if key in defaults and _no_number(value, defaults[key], parameters[key].annotation):
                raise UserError(f"{key} = {value!r} in {str(file)!r} is no number; copy the model again")
        return defaults | said

    def load(self, dtypes: Mapping[str, torch.dtype]) -> P:
        """The pipeline in eval mode, each component with exactly the weights of its files; fp32 or what `dtypes` says.

        Components that the index leaves out or gives as null (T5, in an SD3 without it) are None.

        Raises:
            UserError: a component cannot be read, or its weights are not those of its model.
        """
        nothing = dict.fromkeys(inspect.signature(self.kind).parameters)
        with _quiet():
            parts = {
                name: read_component(
                    kind, self.path / name, self.weights.get(name), dtypes.get(name, torch.float32), self._what(name)
                )
                for name, kind in sorted(self.classes.items())
            }
            pipeline: P = self.kind(**(nothing | parts | dict(self.options)))
        return pipeline

    def _what(self, name: str) -> str:
        return f"component {name!r} of model {str(self.path)!r}"


def open_pipeline(
    kind: type[P],
    source: str,
    settings: ModelSection,
    *,
    options: Mapping[str, object] = MappingProxyType({}),
    without: Mapping[str, str] = MappingProxyType({}),
) -> PipelineFolder[P]:
    """The pipeline at `source`, a folder or hub id; its weights are chosen and not yet read.

    `without` says of components that can be done without how to go on where they are missing.

    Raises:
        UserError: no such folder or hub id, another kind of pipeline, or a component that is listed but missing.
    """
    variant = settings.variant or ""
    folder = _folder(kind, source, settings)
    name = read_index(folder).get("_class_name")
    if name != kind.__name__:
        raise UserError(f"model folder {str(folder)!r} holds a {name}, but a {kind.__name__} is needed")
    known = inspect.signature(kind).parameters
    listed = {name: value for name, value in components(folder).items() if name in known and name not in options}
    missing = [name for name in listed if not (folder / name).is_dir()]
    if missing:
        fix = without.get(missing[0], "copy the model again")
        raise UserError(f"model folder {str(folder)!r} lacks its component {missing[0]!r}; {fix}")
    hints = typing.get_type_hints(kind.__init__)
    classes = {
        name: _class(library, own, hints.get(name), f"component {name!r} of model {str(folder)!r}")
        for name, (library, own) in listed.items()
    }
    return PipelineFolder(folder, kind, options, classes, model_weights(folder, variant))


def precisions(settings: ModelSection, denoiser: str) -> dict[str, torch.dtype]:
    """Precision of each component that need not be fp32.

    Trained weights and the decoder are always the file's own: the optimiser would start from rounded masters, and
    SD3's decoder rounds visibly in bf16.
    """
    if settings.dtype != "bf16":
        return {}
    frozen = ["text_encoder", "text_encoder_2", "text_encoder_3", *([denoiser] if settings.trainable == "lora" else [])]
    return dict.fromkeys(frozen, torch.bfloat16)


def _no_number(value: object, default: object, annotation: object) -> bool:
    """Whether a setting is something else where its class has a real number, or none."""
    if not isinstance(default, float) and float not in typing.get_args(annotation):
        return False
    return isinstance(value, bool) or not (isinstance(value, int | float) or (value is None and default is None))


def _class(library: str, name: str, wanted: object, what: str) -> type:
    kind = component_class(library, name, what)
    if isinstance(wanted, type) and issubclass(wanted, nn.Module) and not issubclass(kind, wanted):
        raise UserError(f"{what} is a {name}, and a {wanted.__name__} is needed; give another model")
    return kind


def _folder(kind: type[P], source: str, settings: ModelSection) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file() and path.suffix in SINGLE_FILES:
        raise UserError(
            f"model {source!r} is a single file, and a pipeline's folder is needed; make one with diffusers: "
            f"{kind.__name__}.from_single_file({source!r}).save_pretrained('FOLDER')"
        )
    if path.exists():
        raise UserError(f"model {source!r} is not a folder and has no {INDEX}; give a diffusers pipeline's folder")
    return snapshot(source, settings.revision, settings.variant or "")[0]


@contextmanager
def followed() -> Iterator[None]:
    """Turn what a scheduler raises over its own config into a sentence.

    Raises:
        UserError: it raised.
    """
    try:
        yield
    except Exception as error:  # nonsense in a config shows as any error
        raise UserError(
            f"the model's scheduler cannot make timesteps ({reason(error)}); mend its scheduler_config.json"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' bars, warnings and reports, on which nobody here can act: what matters is checked."""
    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity(library.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)
