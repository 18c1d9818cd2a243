"""Which files of a diffusers pipeline's folder are read, and so are the model: nothing here loads torch.

The layouts are those that diffusers and transformers write: safetensors or `.bin`, whole or in shards, with a variant
(`fp16`) in their names or without.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from grpo_bench.errors import UserError

INDEX = "model_index.json"
ORIGIN = "_name_or_path"
"""Key of a config under which the libraries note the folder or hub id that it was loaded from."""
NEVER_READ = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that no policy uses. A checker that blacks images out would be scored as the policy's work."""
_SETTINGS = (".json", ".txt", ".model", ".jinja")
"""Endings of configs, vocabularies and merges."""
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)"
    r"(\.(?P<variant>[^.]+))?\.(?P<format>safetensors|bin)"
    r"(?P<index>(\.(?P<legacy>[^.]+))?\.index(\.(?P<late>[^.]+))?\.json)?"
)
_SHARD = re.compile(r".*-\d+-of-\d+")


@dataclass(frozen=True)
class Weights:
    """The weights of one component: one file, or an index and the shards that it names."""

    variant: str
    """`fp16` and the like; empty for files without a variant."""
    index: Path | None
    files: tuple[Path, ...]

    @property
    def safetensors(self) -> bool:
        """Whether they are safetensors; else torch's `.bin`."""
        return self.files[0].suffix == ".safetensors"


def model_files(folder: Path, variant: str = "") -> list[Path]:
    """Exactly the files that loading the pipeline in `folder` reads, sorted.

    These are the index, and of each component that it lists the settings and the chosen weights. What else lies there
    is no part of the model: other variants and formats, folders that are not listed, `.git`, a README. A component that
    is listed but absent is left out here; loading says what to do about it. A folder without an index belongs to a
    policy with a layout of its own: all of it but hidden files and `*.md`.

    Raises:
        UserError: the index cannot be read, a shard is missing, or `variant` does not say which weights.
    """
    if not (folder / INDEX).is_file():
        return sorted(path for path in folder.rglob("*") if path.is_file() and not _kept_beside(path, folder))
    files = [folder / INDEX]
    for name in components(folder):
        if (folder / name).is_dir():
            files += _settings(folder / name)
    for weights in model_weights(folder, variant).values():
        files += [*([weights.index] if weights.index else []), *weights.files]
    return sorted(files)


def config_text(path: Path) -> str | None:
    """What a config says, as diffusers and transformers write it: keys in order, without where it was loaded from.

    None for another file, and for one that is damaged, which loading refuses.
    """
    if path.name != INDEX and not path.name.endswith("config.json"):
        return None
    try:
        said = read_json(path)
    except UserError:
        return None
    return json.dumps({key: value for key, value in said.items() if key != ORIGIN}, indent=2, sort_keys=True) + "\n"


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of the components that the index lists and a policy reads, by name.

    Raises:
        UserError: the index is missing or damaged.
    """
    listed = read_index(folder)
    return {
        name: (str(value[0]), str(value[1]))
        for name, value in listed.items()
        if _is_component(value) and name not in NEVER_READ and Path(name).name == name
    }


def read_index(folder: Path) -> dict[str, object]:
    """The pipeline's `model_index.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        raise UserError(f"model folder {str(folder)!r} has no {INDEX}; give a diffusers pipeline's folder")
    return read_json(path)


def model_weights(folder: Path, variant: str = "") -> dict[str, Weights]:
    """The weights of each component that has some, by the component's name.

    Of a `variant` that is given, where the component has it; else those without a variant; else its only one.

    Raises:
        UserError: several variants and none is given, no component has the one that is, or a shard is missing.
    """
    found = {
        name: _candidates(folder / name, library)
        for name, (library, _) in components(folder).items()
        if (folder / name).is_dir()
    }
    variants = sorted({weights for own in found.values() for weights in own} - {""})
    if variant and variant not in variants:
        raise UserError(
            f"model.variant = {variant!r}, but no component of {str(folder)!r} has such weights; "
            + (f"it has {', '.join(variants)}" if variants else "leave it out")
        )
    return {name: _weights(own, _chosen(own, variant, folder / name)) for name, own in found.items() if own}


def _chosen(own: dict[str, Path], variant: str, component: Path) -> str:
    """The variant to read of one component's."""
    if variant in own:
        return variant
    if "" in own:
        return ""
    if len(own) > 1:
        raise UserError(
            f"{str(component)!r} has weights of the variants {', '.join(sorted(own))} only; choose one with "
            "--set model.variant=NAME"
        )
    return next(iter(own))


def _candidates(component: Path, library: str) -> dict[str, Path]:
    """The file or index that its library would read, by variant."""
    best: dict[str, tuple[int, Path]] = {}
    for path in sorted(component.iterdir()):
        match = _WEIGHTS.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        part = match.groupdict()
        own = (part["stem"] == "diffusion_pytorch_model") == (library == "diffusers")
        variant = part["variant"] or part["late"] or part["legacy"] or ""
        if not own or _SHARD.fullmatch(variant):
            continue
        # diffusers takes shards before a whole file, transformers after; either takes safetensors first.
        sharded_second = (part["index"] is not None) != (library == "diffusers")
        rank = 2 * (part["format"] == "bin") + sharded_second
        if variant not in best or rank < best[variant][0]:
            best[variant] = rank, path
    return {variant: path for variant, (_, path) in best.items()}


def _weights(own: dict[str, Path], variant: str) -> Weights:
    """The weights that the variant's file is, or that its index names."""
    path = own[variant]
    if path.suffix != ".json":
        return Weights(variant, None, (path,))
    named = read_json(path).get("weight_map")
    shards = sorted({str(shard) for shard in named.values()}) if isinstance(named, dict) else []
    broken = [shard for shard in shards if Path(shard).name != shard or not (path.parent / shard).is_file()]
    if broken or not shards:
        missing = f"names {broken[0]!r}, which is not there" if broken else "names no shards"
        raise UserError(f"{str(path)!r} {missing}; copy the model again")
    return Weights(variant, path, tuple(path.parent / shard for shard in shards))


def _settings(component: Path) -> list[Path]:
    """A component's own small files; the indices of shards are counted with the weights."""
    return [
        path
        for path in component.iterdir()
        if path.is_file()
        and path.suffix in _SETTINGS
        and not path.name.startswith(".")
        and not _WEIGHTS.fullmatch(path.name)
    ]


def _kept_beside(path: Path, folder: Path) -> bool:
    """Whether it is bookkeeping or a text about the model."""
    return path.suffix == ".md" or any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_component(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list) and len(value) == 2 and None not in value


def read_json(path: Path) -> dict[str, object]:
    """A JSON object.

    Raises:
        UserError: it is missing, damaged or something else.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not readable JSON ({error}); copy the model again") from error
    if not isinstance(held, dict):
        raise UserError(f"{str(path)!r} is not a JSON object; copy the model again")
    return held
