"""Where gradients are taken: a label's session whose policy, behaviour policy and reference are one and the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grpo_bench.config import RunConfig
from grpo_bench.errors import UserError
from grpo_bench.identity import content_hash
from grpo_bench.store.run import RunStore
from grpo_bench.training.planning import needs_reference
from grpo_bench.training.prepare import Prepared
from grpo_bench.training.run import stored_config
from grpo_bench.training.session import Session, open_session

VERSION = 1
"""Of the streams and definitions here; raised, everything is measured anew."""
PLACES = ("path", "revision", "variant")


@dataclass(frozen=True)
class Place:
    """A policy by name: the base, or the last checkpoint of a run."""

    name: str
    checkpoint: Path | None = None
    nfe: float = 0.0
    digest: str = ""


BASE = Place("base")


def of_run(store: RunStore, like: Prepared) -> Place:
    """The policy that a stored run ended with: the weights that were trained, not their average.

    Raises:
        UserError: it has no checkpoint, or is of another model than `like`.
    """
    config, record = stored_config(store), store.record
    for name in ("weights", "policy"):
        if record.hashes.get(name) != like.hashes[name]:
            raise UserError(
                f"--policy {record.run} was trained from another model than {like.config.workload}'s here; give a run "
                "of the same workload and model"
            )
    own, wanted = (_trainable(each) for each in (config, like.config))
    if own != wanted:
        key = next(key for key in wanted if own.get(key) != wanted[key])
        raise UserError(
            f"--policy {record.run} has model.{key} = {own.get(key)!r} and the methods have {wanted[key]!r}; give a "
            f"run of the same, or --set model.{key}"
        )
    checkpoint = store.checkpoints.latest()
    if checkpoint is None:
        raise UserError(f"--policy {record.run} has no checkpoint; give a run that still has its own")
    spent = [row.get("nfe") for row in store.rows()]
    nfe = float(spent[-1] or 0) if spent else 0.0
    files = [file for file in checkpoint.path.rglob("*.safetensors") if file.name not in _NO_WEIGHTS]
    return Place(record.run, checkpoint.path, nfe, content_hash(files, checkpoint.path))


_NO_WEIGHTS = ("optimiser.safetensors", "ema.safetensors", "averages.safetensors", "behaviour.safetensors")


def open_at(place: Place, prepared: Prepared) -> Session:
    """A session at the place; all copies of the policy equal it.

    Raises:
        UserError: anything that does not fit, such as a reference policy that cannot be the run's.
    """
    config, session = prepared.config, open_session(prepared)
    if place.checkpoint is None:
        return session
    if config.model.trainable != "full" and needs_reference(config.objective.beta, session.method):
        raise UserError(
            f"method {session.method.name!r} compares with a reference policy, which beside an adapter is always the "
            "base, not the run's; leave the method or --policy out, or use model.trainable=full"
        )
    session.policy.restore(place.checkpoint)
    session.policy.keep_reference()
    session.averages.restart()
    return session


def place_id(place: Place, identity: Prepared) -> str:
    """A hash of the policy, and of what the deployed objective at it is made of."""
    config = identity.config
    settings = {
        "model": _trainable(config),
        "evaluation": config.evaluation.model_dump(mode="json", include={"steps", "guidance"}),
        "reward": config.reward.weights,
        "sampling": config.sampling.model_dump(mode="json"),
        "seed": config.seed,
    }
    kept = {name: digest for name, digest in identity.hashes.items() if not name.startswith("method")}
    return _hash(settings, kept, place.digest)


def label_id(place: Place, identity: Prepared) -> str:
    """A hash of the policy, and of all that determines a label's estimates at it."""
    return _hash(place_id(place, identity), identity.run, "")


def _trainable(config: RunConfig) -> Mapping[str, object]:
    return config.model.model_dump(mode="json", exclude=set(PLACES))


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:16]
