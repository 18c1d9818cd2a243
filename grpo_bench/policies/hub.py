"""A hub id as a folder: fetched into the hub's own cache, at one commit, which is what a run is named after."""

from __future__ import annotations

import warnings
from pathlib import Path

from grpo_bench.errors import UserError


def snapshot(source: str, revision: str = "", variant: str = "") -> tuple[Path, str]:
    """(folder, commit) of a diffusers pipeline on the hub; only the files that loading reads are fetched.

    Without a network, what the cache holds of that revision is taken.

    Raises:
        UserError: no such repository or revision, or it can neither be fetched nor found in the cache.
    """
    if Path(source).is_absolute() or source.startswith((".", "~")):
        raise UserError(f"model {source!r} does not exist; give the folder or hub id of a diffusers pipeline")
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub import constants

    diffusers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(
                DiffusionPipeline.download(
                    source,
                    revision=revision or None,
                    variant=variant or None,
                    local_files_only=constants.HF_HUB_OFFLINE,
                )
            )
    except Exception as error:  # hub, network and file errors have no common base
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"model {source!r}{at} is no folder here, and cannot be had from the hub ({_reason(error)}); check the "
            "path or the id, the network and (for a gated model) your login"
        ) from error
    if folder.parent.name != "snapshots":
        raise UserError(f"model {source!r} lies in {str(folder)!r}, no commit of the hub's cache; give a folder")
    return folder, folder.name


def _reason(error: Exception) -> str:
    """The hub's word, but for its advice on arguments that a command line does not have."""
    text = " ".join(str(error).split())
    if "local_files_only" in text or "cached" in text:
        return "it is not in the hub's cache, and the hub is not reached"
    return f"{type(error).__name__}: {text[:300].rstrip('.')}"
