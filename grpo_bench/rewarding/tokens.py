"""CLIP's tokens: the byte-pair vocabulary that OpenAI published, which open_clip, HPSv2 and transformers share."""

from __future__ import annotations

import gzip
import html
import logging
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

log = logging.getLogger(__name__)

MERGES = 49152 - 256 - 2
"""Merges that are used of the file's, whose first line is a heading."""


@lru_cache(maxsize=1)
def clip_tokenizer() -> CLIPTokenizer:
    """transformers' CLIP tokenizer with the published vocabulary of 49,408 entries, made from the shipped file."""
    from transformers import CLIPTokenizer

    packed = (resources.files("grpo_bench.rewarding") / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges)


def _byte_letters() -> list[str]:
    """A printable letter for each byte, in the vocabulary's order: printable Latin-1 first, then the rest."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def repaired(prompt: str) -> str:
    """What open_clip does to a prompt before it is tokenised: mend broken unicode, resolve HTML entities, strip."""
    return html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()


class ClipTokens:
    """Prompts as token ids, from the start mark to the end mark, no more than `limit`; tells once when a prompt is cut.

    `repair` is what open_clip and HPSv2 do and transformers' CLIPProcessor does not. `folder` holds a tokenizer to take
    in place of the published one.
    """

    def __init__(self, reward: str, *, limit: int, repair: bool, folder: Path | None = None) -> None:
        self.limit, self._repair = limit, repair
        self._tokenizer = _tokenizer_of(folder) if folder else clip_tokenizer()
        self._cut = Cut(reward, limit)

    def ids(self, prompt: str) -> list[int]:
        """Ids of one prompt, without padding."""
        text = repaired(prompt) if self._repair else prompt
        found: list[int] = self._tokenizer(text)["input_ids"]
        if len(found) > self.limit:
            self._cut.tell(prompt, len(found))
            found = [*found[: self.limit - 1], found[-1]]
        return found


def _tokenizer_of(folder: Path) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


class Cut:
    """Tells once, in the log, that a reward does not read the end of a prompt."""

    def __init__(self, reward: str, limit: int) -> None:
        self._reward, self._limit, self._told = reward, limit, False

    def tell(self, prompt: str, tokens: int) -> None:
        """`prompt` has `tokens` tokens, which are more than the reward reads."""
        if not self._told:
            log.warning(
                "reward %r reads %d tokens of a prompt: the end of %r (%d tokens) does not count; this is said once",
                self._reward, self._limit, prompt[:80], tokens,
            )  # fmt: skip
        self._told = True
