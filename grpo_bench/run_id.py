"""A run's id, from its settings and the hashes of all else that determines its outcome: `identity` computes those."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from grpo_bench.config import RunConfig, Table
from grpo_bench.versions import NUMERICS_VERSION

MODEL_PLACES = ("path", "revision", "variant")
REWARD_PLACES = ("path", "python")
"""Settings that say where content lies; the content itself is hashed."""


def run_id(config: RunConfig, hashes: Mapping[str, str]) -> str:
    """workload-method-sSEED-HASH, where the hash covers the settings that are no place, and all of `hashes`."""
    parts = [_settings(config), *(f"{name}={digest}" for name, digest in sorted(hashes.items())), NUMERICS_VERSION]
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:10]
    return f"{config.workload}-{config.method.name}-s{config.seed}"[:53] + f"-{digest}"


def _settings(config: RunConfig) -> str:
    table = config.model_dump(mode="json", exclude_none=True, exclude={"prompts": True, "model": set(MODEL_PLACES)})
    reward: Table = {
        key: {own: setting for own, setting in value.items() if not (own in REWARD_PLACES and isinstance(setting, str))}
        if isinstance(value, Mapping)
        else value
        for key, value in config.reward.model_dump(mode="json").items()
    }
    return json.dumps(table | {"reward": reward}, sort_keys=True)
