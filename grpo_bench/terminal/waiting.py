"""A spinner with a word on what is being waited for, on stderr; nothing where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from grpo_bench.terminal.text import plain


@contextmanager
def waiting(text: str, *, quiet: bool = False, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show `text` until the block ends; what the block is handed changes it."""
    console = console or Console(stderr=True, highlight=False, quiet=quiet)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status(plain(text)) as status:
        yield lambda now: status.update(plain(now))
