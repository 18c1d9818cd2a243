"""The errors a person sees, and the offer of the nearest name when one is mistyped."""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Iterable

_ADVICE = re.compile(r"trust_remote_code|weights_only|ignore_mismatched_sizes|low_cpu_mem_usage|use_safetensors|allow_")
"""Options of libraries that no setting of ours reaches."""
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Unable to allocate", re.IGNORECASE)
_REASON = 250


class UserError(Exception):
    """Bad input. The message is one sentence for the person who typed it: the rule, the value, the fix."""


class PluginFailed(Exception):
    """A plugin's code raised something; a run ends with status `failed`, and can be resumed."""


class RewardFailed(PluginFailed):
    """A reward's own process died, hung or answered nonsense; the run ends with status `failed` and can be resumed."""


class Diverged(Exception):
    """The policy or a reward produced a NaN or an Inf; the run ends with status `diverged`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that offers the closest of `known` (or all of them, if few) for the mistyped `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(known) if known else "none is installed"


def reason(error: BaseException) -> str:
    """A library's error in one line, without advice that this command line cannot follow."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        return f"it holds Python objects{what}, and only tensors are read: nothing in a file is executed"
    words = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
    kept = [part for part in re.split(r"(?<=[.;!])\s", words) if not _ADVICE.search(part)]
    return f"{type(error).__name__}: {' '.join(kept)[:_REASON]}".rstrip(" .:;")


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory, of the machine or of the device, was not to be had: numpy's and torch's too."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
