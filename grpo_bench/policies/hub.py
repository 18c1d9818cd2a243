"""A hub id as a folder: fetched into the hub's own cache, at one commit, which is what a run is named after."""

from __future__ import annotations

import warnings
from pathlib import Path

from grpo_bench.errors import UserError, reason
from grpo_bench.policies.files import NEVER_READ


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
                    **dict.fromkeys(NEVER_READ),
                )
            )
    except Exception as error:  # hub, network and file errors have no common base
        # The client's word on this is advice about arguments that no command line has.
        unreached = isinstance(error, OSError) and "cached" in str(error)
        why = "the hub is not reached, and its cache does not hold it" if unreached else reason(error)
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"model {source!r}{at} is no folder here, and cannot be had from the hub ({why}); check the "
            "path or the id, the network and (for a gated model) your login"
        ) from error
    if folder.parent.name != "snapshots":
        raise UserError(f"model {source!r} lies in {str(folder)!r}, no commit of the hub's cache; give a folder")
    return folder, folder.name
