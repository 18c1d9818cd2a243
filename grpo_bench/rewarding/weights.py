"""Finds the published files of a reward, says what to do where they are not to be had, and reads their tensors."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError, out_of_memory, reason
from grpo_bench.guard import calling
from grpo_bench.registry import REWARDS
from grpo_bench.reward import Reward, RewardConfig, WeightsFile
from grpo_bench.weights import common_prefix, misfit

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

UNVERIFIED = "unverified:"
"""Before the sha256 of a file that is none of the published ones."""
SECONDS_TO_ANSWER = 5.0


def find(weights: WeightsFile, reward: str, *, given: str = "", setting: str = "path") -> Path:
    """The file at `given` (the reward's `setting`), else in the hub's cache, else fetched from the hub.

    Raises:
        UserError: it is nowhere and cannot be fetched; or the hub's file is not the published one.
    """
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            what = "is a folder, not" if path.is_dir() else "is not"
            raise UserError(f"reward.{reward}.{setting} = {given!r} {what} a file; give the path of {weights.file}")
        return path
    return _published(weights, f"reward.{reward}.{setting}=FILE", reward, weights.file)


def _published(weights: WeightsFile, setting: str, reward: str, names: str) -> Path:
    """The file in the hub's cache, fetched if need be. `setting` and `names` say in an error what to give by hand."""
    path = _cached(weights) or _fetched(weights, setting, reward, names)
    if weights.sha256 and sha256(path) != weights.sha256:
        raise UserError(
            f"{path} is not the published {weights.file} (its sha256 differs); fetch it anew with `hf download "
            f"{weights.repo} {weights.file} --force-download`"
        )
    return path


def find_folder(weights: tuple[WeightsFile, ...], reward: str, *, given: str = "", setting: str = "path") -> Path:
    """The folder that holds all of `weights`, which are files of one repository: `given`, else the hub's.

    Raises:
        UserError: as `find`, or a file is missing in the folder `given`.
    """
    if not given:
        names = " ".join(file.file for file in weights)
        largest_first = sorted(weights, key=lambda file: -file.size)  # the one to name where none can be had
        paths = [_published(file, f"reward.{reward}.{setting}=FOLDER", reward, names) for file in largest_first]
        return paths[0].parent
    folder = Path(given).expanduser()
    missing = [file.file for file in weights if not (folder / file.file).is_file()]
    if missing:
        what = "is a file, not a folder" if folder.is_file() else f"has no {missing[0]}"
        raise UserError(
            f"reward.{reward}.{setting} = {given!r} {what}; give a folder with the files of {weights[0].repo} "
            f"({', '.join(file.file for file in weights)})"
        )
    return folder


def fingerprints(reward: Reward[RewardConfig]) -> dict[str, str]:
    """sha256 of each weight file that the reward reads, by file name; marked where it is not a published one.

    Raises:
        UserError: a file cannot be had.
    """
    published = {weights.sha256 for weights in reward.weights}
    with calling(f"reward {reward.name!r}"):
        files = reward.files()
    twice = {path.name for path in files if sum(path.name == other.name for other in files) > 1}
    digests = {
        f"{number}/{path.name}" if path.name in twice else path.name: sha256(path) for number, path in enumerate(files)
    }
    return {name: digest if digest in published else UNVERIFIED + digest for name, digest in digests.items()}


def sha256(path: Path) -> str:
    """The file's sha256; read once while it does not change, since such files have gigabytes."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cached(weights: WeightsFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo, weights.file) for repo in (weights.repo, *weights.aliases))
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _fetched(weights: WeightsFile, setting: str, reward: str, names: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    by_hand = f"`hf download {weights.repo} {names} --local-dir FOLDER`"
    # The hub's client retries for 23 s before it gives up; one question tells as much at once.
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise UserError(
            f"reward {reward!r} needs {weights}, which is not in the hub's cache ({constants.HF_HUB_CACHE}), and the "
            f"hub cannot be reached; fetch it with {by_hand} where there is a network and give --set {setting}; "
            f"rewards that work offline: {', '.join(_weightless())}"
        )
    log.info("fetching %s", weights)
    try:
        return Path(hf_hub_download(weights.repo, weights.file))
    except Exception as error:  # the client's errors have no common base that all its versions share
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} cannot be fetched ({reason}); try {by_hand} and give --set {setting}") from error


def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False


def _weightless() -> list[str]:
    """The registered rewards that need no published file."""
    kinds = [REWARDS.get(entry.name) for entry in REWARDS.entries() if entry.error is None]
    return [kind.name for kind in kinds if not kind.weights]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or one of torch's by name, fp32, in memory of their own; nothing is unpickled.

    A `state_dict` or `model` around them is taken off, and so is what a wrapper left before all of their names.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    import torch

    try:
        held = _read(path)
    except Exception as error:  # a broken file shows as any of a dozen errors
        if out_of_memory(error):
            raise
        raise UserError(f"{path} cannot be read as weights ({reason(error)}); fetch it anew") from error
    for wrapper in ("state_dict", "model"):
        inner = held.get(wrapper)
        if isinstance(inner, Mapping):
            held = inner
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name; give the published file")
    prefix = common_prefix(tensors)
    # A mapped tensor multiplies differently in the last bit, so each is copied.
    return {
        name.removeprefix(prefix): value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in tensors.items()
    }


def _read(path: Path) -> Mapping[str, object]:
    """By content: a file of torch's is a zip, or a pickle in its old format."""
    import torch

    zipped = zipfile.is_zipfile(path)
    with path.open("rb") as stream:
        pickled = stream.read(1) == b"\x80"
    if not zipped and not pickled:
        from safetensors.torch import load_file

        return load_file(path)
    held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    return held if isinstance(held, Mapping) else {}


def fill(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], what: str) -> nn.Module:
    """The model that `build` makes, with exactly these weights, in evaluation mode and without gradients.

    It is built without memory, so that a large model is not first filled with random numbers. `what` says in an error
    what the weights should have been.

    Raises:
        UserError: a weight is missing, left over, or of another shape.
    """
    import torch

    with torch.device("meta"):
        model = build()
    _check_keys({name: tuple(value.shape) for name, value in model.state_dict().items()}, tensors, what)
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:  # a model's own constants, which no file holds: 0, 1, 2 ... as positions
            assert name.endswith("position_ids"), name
            owner, _, own = name.rpartition(".")
            model.get_submodule(owner).register_buffer(
                own, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False
            )
    return model.eval().requires_grad_(False)


def _check_keys(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], what: str) -> None:
    shapes = {name: (tuple(tensors[name].shape), shape) for name, shape in wanted.items() if name in tensors}
    other = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    wrong = misfit(wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys(), other)
    if wrong:
        raise UserError(f"these are not the weights of {what}: the file {wrong}; give the published file")
