"""What determines a run's outcome: its plugins' sources, the content of its model, prompts and weights, its settings.

A run's id is a hash of these and of nothing else: no path, no time, no property of the machine that computes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_bench.config import RunConfig, validated
from grpo_bench.errors import UserError
from grpo_bench.guard import calling
from grpo_bench.policies.files import config_text, model_files
from grpo_bench.registry import METHODS, POLICIES, WORKLOADS
from grpo_bench.rewarding.weights import fingerprints, sha256
from grpo_bench.run_id import REWARD_PLACES
from grpo_bench.sources import Sources, sources_of
from grpo_bench.store.names import check_text
from grpo_bench.versions import NUMERICS_VERSION

if TYPE_CHECKING:
    from grpo_bench.reward import Reward, RewardConfig
    from grpo_bench.store.record import RunRecord


@dataclass(frozen=True)
class Base:
    """Where a run's model lies: a folder, and the hub's commit where it came from there."""

    folder: Path
    revision: str = ""


def find_base(config: RunConfig) -> Base:
    """The folder of the config's model, or of its workload's own; a hub id is fetched, at the commit it points to.

    Raises:
        UserError: there is no such folder or hub id, or a folder was given a revision.
    """
    with calling(f"workload {config.workload!r}"):
        source = config.model.path or WORKLOADS.get(config.workload)().model(config)
    folder = Path(source).expanduser()
    # A stored config has a hub's commit, and means that, whatever folder lies where it is read.
    if not _exists(folder) or re.fullmatch("[0-9a-f]{40}", config.model.revision):
        from grpo_bench.policies.hub import snapshot

        return Base(*snapshot(source, config.model.revision, config.model.variant or ""))
    if config.model.revision and config.model.path:
        raise UserError(
            f"model.revision = {config.model.revision!r} is for a hub id, but {source!r} is a folder here; drop one"
        )
    return Base(Path(os.path.abspath(folder)))


def placed(config: RunConfig, base: Base) -> RunConfig:
    """The config with paths that can be found from anywhere, and the hub's commit in place of what points to it.

    Raises:
        UserError: a path that is not UTF-8, which no config file could hold.
    """
    model = {"revision": base.revision}
    if config.model.path and not base.revision:
        model["path"] = _storable(str(base.folder))
    tables = {name: table for name, table in (config.reward.model_extra or {}).items() if isinstance(table, Mapping)}
    rewards = {name: {key: _absolute(key, value) for key, value in table.items()} for name, table in tables.items()}
    return config.model_copy(
        update={
            "prompts": config.prompts.model_copy(update={"path": _absolute("path", config.prompts.path)}),
            "model": config.model.model_copy(update=model),
            "reward": type(config.reward).model_validate({**config.reward.model_dump(), **rewards}),
        }
    )


def outcome_hashes(
    config: RunConfig,
    base: Base,
    prompts: Mapping[str, Iterable[str]],
    rewards: Mapping[str, Reward[RewardConfig]],
) -> dict[str, str]:
    """Digests by name of everything but the settings: sources of every plugin, weights, prompts.

    Raises:
        UserError: a reward's weights cannot be had, or a plugin has no source.
    """
    method = METHODS.get(config.method.name)
    settings = validated(method.Config, config.method.settings, "method")
    hashes = {
        **base_hashes(config, base),
        "prompts": _prompts_digest(prompts),
        **_source("method", sources_of(method, settings=settings)),
        **_source("workload", sources_of(WORKLOADS.get(config.workload))),
    }
    for name, reward in rewards.items():
        hashes |= _source(f"reward/{name}", sources_of(type(reward), settings=reward.config))
        hashes |= {f"reward/{name}/{file}": digest for file, digest in fingerprints(reward).items()}
        hashes |= {f"reward/{name}/{key}": digest for key, digest in _named_files(config, name).items()}
    return hashes


def _prompts_digest(prompts: Mapping[str, Iterable[str]]) -> str:
    """sha256 of the prompts by split; one a line, unless a prompt has a line's end in it."""
    rows = [(split, prompt) for split, texts in sorted(prompts.items()) for prompt in texts]
    told = "\n".join(f"{split}\t{prompt}" for split, prompt in rows)
    if told.count("\n") >= max(1, len(rows)):
        told = f"\0{json.dumps(rows)}"
    return hashlib.sha256(told.encode()).hexdigest()


def _named_files(config: RunConfig, reward: str) -> dict[str, str]:
    """sha256 of each file that a setting of the reward names, whatever the setting is called."""
    table = (config.reward.model_extra or {}).get(reward)
    texts = {key: value for key, value in table.items() if isinstance(value, str)} if isinstance(table, Mapping) else {}
    paths = {key: Path(value).expanduser() for key, value in texts.items() if "/" in value or Path(value).suffix}
    return {key: sha256(path) for key, path in paths.items() if _exists(path) and path.is_file()}


def base_hashes(config: RunConfig, base: Base) -> dict[str, str]:
    """Digests of what draws images: the model's files, and the policy that reads them."""
    weights = content_hash(model_files(base.folder, config.model.variant or ""), base.folder)
    return {"weights": weights, **_source("policy", sources_of(POLICIES.get(config.model.policy)))}


def content_hash(files: Iterable[Path], folder: Path) -> str:
    """sha256 over files' contents and their names inside `folder`; of configs, over what they say (`config_text`)."""
    parts = sorted(f"{file.relative_to(folder).as_posix()}\0{_file_hash(file)}" for file in files)
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def _file_hash(file: Path) -> str:
    text = config_text(file)
    return sha256(file) if text is None else hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def check_unchanged(record: RunRecord, now: Mapping[str, str], doing: str) -> None:
    """Hold what is there now against what a stored run was made with.

    `doing` ends the sentence "RUN cannot be …": resumed, sampled from.

    Raises:
        UserError: something differs, the engine's numerics included, or the run is of a time before all this was
            recorded.
    """
    if "policy" not in record.hashes:
        raise UserError(
            f"{record.run} cannot be {doing}: an older grpo-bench made it, whose hashes cover less; run it anew"
        )
    if record.numerics_version != NUMERICS_VERSION:
        raise UserError(
            f"{record.run} cannot be {doing}: it was made under numerics version {record.numerics_version}, and this "
            f"grpo-bench has {NUMERICS_VERSION}; run it anew"
        )
    for name, digest in now.items():
        then = record.hashes.get(name)
        if then != digest:
            change = f" ({then} then, {digest} now)" if name.endswith("/libraries") else ""
            raise UserError(f"{record.run} cannot be {doing}: {_said(name)} changed since{change}; run it anew")


def _source(name: str, sources: Sources) -> dict[str, str]:
    """The digest of a plugin's source as `name` (`reward/NAME/source`), and its libraries, if any, beside it."""
    own = f"{name}/source" if name.startswith("reward/") else name
    return {own: sources.digest()} | ({f"{name}/libraries": sources.versions()} if sources.libraries else {})


def _said(name: str) -> str:
    """The ingredient that a hash's name stands for, with its verb."""
    if name in ("weights", "prompts"):
        return {"weights": "its base weights have", "prompts": "its prompts have"}[name]
    kind, *rest = name.split("/")
    whose = f"its reward {rest[0]!r}" if kind == "reward" else f"its {kind}"
    part = rest[-1] if rest else "source"
    return f"the {part} of {whose} {'have' if part == 'libraries' else 'has'}"


def _absolute(key: str, value: object) -> object:
    if key not in REWARD_PLACES or not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    return _storable(os.path.abspath(path)) if _exists(path) else value


def _storable(path: str) -> str:
    check_text(path, "the path")  # of a folder that the command was given in
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
