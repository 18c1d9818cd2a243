"""A run's training prompts: which of them the policy can tell from held-out ones, and their features when needed."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

import torch
from torch import Tensor

from grpo_bench.errors import UserError
from grpo_bench.forest.rollout import Ints
from grpo_bench.policies.base import Policy
from grpo_bench.policies.texts import Reading
from grpo_bench.sampling.handle import Conditioning
from grpo_bench.workloads.base import Splits

log = logging.getLogger(__name__)

KEPT = 256
"""Prompts whose features are kept: 22 MB at the width of a tiny SD3, 0.7 GB (bf16) at that of SD3.5."""


class Encoded:
    """Features of the training prompts, encoded when they are asked for; the latest stay on the CPU."""

    def __init__(self, policy: Policy, prompts: Sequence[str], kept: int = KEPT) -> None:
        self._policy, self._prompts, self._kept = policy, prompts, kept
        self._rows: dict[int, dict[str, Tensor]] = {}
        self._empty: dict[str, Tensor] = {}

    def rows(self, index_P: Ints) -> Conditioning:
        """The features (P rows) of the prompts of these indices, on the policy's device."""
        wanted = [int(index) for index in index_P]
        missing = [index for index in dict.fromkeys(wanted) if index not in self._rows]
        if missing:
            fresh = self._policy.encode([self._prompts[index] for index in missing])
            self._empty = dict(fresh.empty)
            for row, index in enumerate(missing):
                self._rows[index] = {name: value[row].clone() for name, value in fresh.tensors.items()}
        for index in dict.fromkeys(wanted):
            self._rows[index] = self._rows.pop(index)  # to the end: the first is the one unused for longest
        found = {name: torch.stack([self._rows[index][name] for index in wanted]) for name in self._empty}
        for index in list(self._rows)[: max(len(self._rows) - self._kept, 0)]:
            del self._rows[index]
        return Conditioning(found, self._empty).to(self._policy.device)


def told_apart(policy: Policy, splits: Splits) -> tuple[str, ...]:
    """The training prompts but for those that the policy cannot tell from a held-out one; how many it cuts is logged.

    Raises:
        UserError: none is left.
    """
    cuts: Counter[int] = Counter()
    common = _alike(splits["train"], splits["heldout"])
    held = {reading.tokens: prompt for prompt, reading in _suspects(policy, splits["heldout"], common, cuts)}
    train, twins = splits["train"], {}
    for prompt, reading in _suspects(policy, train, common, cuts):
        if reading.tokens in held:
            twins[prompt] = held[reading.tokens], reading
    for split in splits.keys() - {"train", "heldout"}:
        for _ in _suspects(policy, splits[split], frozenset(), cuts):
            pass
    left = tuple(prompt for prompt in train if prompt not in twins)
    if not left:
        raise UserError(f"no prompt is left to train on: {_pair(twins)}; give prompts that the model can tell apart")
    if negative := policy.settings.negative_prompt:
        for limit in sorted({limit for reading in policy.read([negative]) for limit in reading.exceeded}):
            log.warning("model.negative_prompt is cut to the %d tokens that the model reads of it", limit)
    for limit, count in sorted(cuts.items()):
        total = sum(map(len, splits.values()))
        log.warning("%d of %d prompts are cut to the %d tokens that the model reads of them", count, total, limit)
    if twins:
        log.warning("%d of %d training prompts are dropped: %s", len(train) - len(left), len(train), _pair(twins))
    return left


def _suspects(
    policy: Policy, prompts: Sequence[str], common: Set[str], cuts: Counter[int]
) -> Iterator[tuple[str, Reading]]:
    """The prompts that may be cut or read like one of another split, and how they are read; counts the cut ones.

    The others need not be read: a tokenizer makes at most one token of an ASCII letter, beside one before and after.
    """
    limit = policy.token_limit
    chosen = [
        prompt
        for prompt in prompts
        if limit is not None
        and (not prompt.isascii() or len(prompt) + 2 >= limit or (common and _loose(prompt) in common))
    ]
    for prompt, reading in zip(chosen, policy.read(chosen), strict=True):
        cuts.update(set(reading.exceeded))
        yield prompt, reading


def _alike(train: Sequence[str], held_out: Sequence[str]) -> Set[str]:
    """The loose forms that occur on both sides."""
    held = {_loose(prompt) for prompt in held_out}
    return {form for prompt in train if (form := _loose(prompt)) in held}


def _loose(prompt: str) -> str:
    """Letters and digits alone, without case: ASCII texts that are read alike have one such form."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", prompt).casefold())


def _pair(twins: Mapping[str, tuple[str, Reading]]) -> str:
    """The first of the prompts that cannot be told apart, with its twin."""
    prompt, (other, reading) = next(iter(twins.items()))
    cut = f", both cut to {min(reading.exceeded)} tokens" if reading.exceeded else ""
    return f"the model cannot tell {_ends(prompt)!r} from the held-out {_ends(other)!r}{cut}"


def _ends(text: str) -> str:
    """A long text's beginning and end: such texts often differ at the end only."""
    return text if len(text) <= 60 else f"{text[:25]} ... {text[-30:]}"
