"""Tensors that a method's loss is given are for reading: what writes into one is told, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from torch import Tensor

from grpo_bench.errors import UserError
from grpo_bench.method import EdgeBatch, ForwardBatch


@contextmanager
def handed(batch: EdgeBatch | ForwardBatch, method: str) -> Iterator[None]:
    """Around the code of a method that is given `batch`. It looks at torch's counters of writes, not at values.

    Raises:
        UserError: a tensor of the batch was written to.
    """
    before = {name: tensor._version for name, tensor in tensors(batch).items()}
    yield
    for name, tensor in tensors(batch).items():
        if tensor._version != before[name]:
            raise written(name, method)


def tensors(batch: EdgeBatch | ForwardBatch) -> dict[str, Tensor]:
    """The batch's tensors by name."""
    named = {field.name: getattr(batch, field.name) for field in fields(batch)}
    named |= {f"v_average[{name!r}]": value for name, value in named.get("v_average", {}).items()}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def written(name: str, method: str) -> UserError:
    """The sentence about a batch that was changed."""
    return UserError(
        f"method {method!r} wrote into batch.{name}, but what a method is given is for reading; copy it first"
    )
