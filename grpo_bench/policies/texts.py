"""How policies read prompts: in batches of a fixed size, by encoders that visit the device, cut to what models take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODE_BATCH = 8
"""Prompts encoded at once, always: kernels round differently by the size of a batch, so that with a fixed one a
prompt's features depend on nothing but its text."""
READ_BATCH = 1024


@dataclass(frozen=True)
class Tokenizer:
    """One of a policy's tokenizers, and the tokens that are left of a prompt."""

    tokenizer: PreTrainedTokenizerBase
    limit: int


@dataclass(frozen=True)
class Reading:
    """What a policy reads of a prompt."""

    tokens: tuple[bytes, ...]
    """Its tokens by tokenizer, cut; prompts with equal tokens are one prompt to the model."""
    exceeded: tuple[int, ...]
    """The tokenizers' limits that it is longer than."""


def fixed_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in batches of `ENCODE_BATCH`, the last one filled up with empty texts."""
    for start in range(0, len(texts), ENCODE_BATCH):
        batch = list(texts[start : start + ENCODE_BATCH])
        yield batch + [""] * (ENCODE_BATCH - len(batch))


@contextmanager
def visiting(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Modules of the CPU are on `device` inside. Their own tensors come back after: nothing is copied back."""
    kept = [(tensor, tensor.data) for module in modules for tensor in (*module.parameters(), *module.buffers())]
    try:
        for tensor, data in kept:
            tensor.data = data.to(device)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def read(tokenizers: Sequence[Tokenizer], prompts: Sequence[str]) -> Iterator[Reading]:
    """What tokenizers leave of each prompt; without any, all of it."""
    for start in range(0, len(prompts), READ_BATCH):
        texts = list(prompts[start : start + READ_BATCH])
        columns = [_tokens(each, texts) for each in tokenizers] or [[(text.encode(), False) for text in texts]]
        for row in zip(*columns, strict=True):
            exceeded = (each.limit for each, (_, cut) in zip(tokenizers, row, strict=False) if cut)
            yield Reading(tuple(tokens for tokens, _ in row), tuple(exceeded))


def _tokens(each: Tokenizer, texts: list[str]) -> list[tuple[bytes, bool]]:
    """(tokens, whether the text has more) of each text. Padding is left out: prompts that differ in it alone do not."""

    def ids(texts: list[str], limit: int | None) -> list[list[int]]:
        options = {"truncation": limit is not None, "max_length": limit, "return_attention_mask": False}
        rows: list[list[int]] = each.tokenizer(texts, verbose=False, **options)["input_ids"] if texts else []
        return rows

    rows = ids(texts, each.limit)
    full = [number for number, row in enumerate(rows) if len(row) >= each.limit]
    whole = dict(zip(full, ids([texts[number] for number in full], None), strict=True))
    return [(_unpadded(row, each), len(whole.get(number, row)) > each.limit) for number, row in enumerate(rows)]


def _unpadded(row: list[int], each: Tokenizer) -> bytes:
    """The ids without those of padding at the end, which some texts bring along themselves."""
    end = len(row)
    while end and row[end - 1] == each.tokenizer.pad_token_id:
        end -= 1
    return np.array(row[:end], dtype=np.int32).tobytes()
