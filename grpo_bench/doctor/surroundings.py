"""Looks at what is around grpo-bench: the machine, the folder for results, the model hub and its cache."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

from grpo_bench.doctor.facts import Host, Hub
from grpo_bench.metering.environment import cpu_model, total_memory_bytes

HUB_SECONDS = 4
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
ENDPOINT = "https://huggingface.co"


def host(results: Path) -> Host:
    """Python, processor, memory, and whether runs can be stored."""
    free, error = _disk(results)
    return Host(
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        cpu=cpu_model() or "",
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 0,
        memory=total_memory_bytes() or 0,
        omp_threads=os.environ.get("OMP_NUM_THREADS", ""),
        gpus=_gpus(),
        results=str(results),
        disk_free=free,
        results_error=error,
    )


def _disk(folder: Path) -> tuple[int, str]:
    """Free bytes at the folder, or at the nearest one above it that exists, and why nothing can be written there."""
    try:
        there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, StopIteration) as error:
        return 0, str(error.strerror if isinstance(error, OSError) else "there is no such disk")
    return free, ""


def _gpus() -> tuple[str, ...]:
    """NVIDIA devices by name, as the driver's own tool lists them."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return tuple(line.partition(": ")[2].partition(" (UUID")[0] for line in lines if line.startswith("GPU "))


def hub() -> Hub:
    """Whether the hub answers one question, asked once and for a few seconds."""
    import ssl
    import urllib.error
    import urllib.request

    known = silent_hub()
    if known.offline:
        return known
    try:
        import certifi

        context = ssl.create_default_context(cafile=certifi.where())
    except ImportError:
        context = ssl.create_default_context()
    try:
        request = urllib.request.Request(known.endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_SECONDS, context=context).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError, HTTPException) as error:
        reason = re.sub(r"^\[.*?\] ", "", " ".join(str(getattr(error, "reason", error)).split()))[:200]
        return replace(known, reason=reason)
    return replace(known, reachable=True, reason="")


def silent_hub() -> Hub:
    """What is known of the hub without asking it."""
    offline = next((name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")), "")
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    file = Path(os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token")
    token = bool(os.environ.get("HF_TOKEN") or (file.is_file() and file.stat().st_size))
    reason = "" if offline else f"no answer within {HUB_SECONDS} s"
    return Hub(endpoint, offline, False, reason, token, str(hub_cache()), hub_cache().is_dir())


def _hub_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()


def hub_cache() -> Path:
    """The hub's cache folder, as its client finds it."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(given).expanduser() if given else _hub_home() / "hub"


def is_cached(cache: Path, repo: str, file: str) -> bool:
    """Whether the cache holds that file of the repository's main branch."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return (folder / "snapshots" / commit / file).is_file()
