"""Reads a prompt file: plain text, a table (CSV, TSV), a JSON array or JSON lines, told apart by suffix and content.

docs/prompts.md has the rules. What could be read in two ways is refused, with what was seen.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from grpo_bench.errors import UserError

COLUMNS = ("prompt", "Prompt", "Prompts", "text", "caption")
"""What a table's prompts may be called; any other column is chosen with `prompts.column`."""
SPLIT = "split"

Kind = Literal["text", "csv", "tsv", "json", "jsonl"]
SUFFIXES: Mapping[str, Kind] = {
    "": "text",
    ".txt": "text",
    ".text": "text",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
"""The longer first: UTF-32's mark begins with UTF-16's."""
_SEPARATOR = re.compile(r"[,;\t|]")
_UNSEEN = "\ufeff\u200b\u2060\u200e\u200f"
"""What editors leave around a text and nobody sees: byte order marks of files joined together, zero-width spaces,
direction marks. Inside a text they stay: a joiner there makes one emoji of two."""


@dataclass(frozen=True)
class Row:
    """One prompt as it stands in a file; `split` is empty where the file names none."""

    prompt: str
    split: str = ""


class PromptFile:
    """A prompt file that can be read and is text.

    Raises:
        UserError: missing, unreadable, of a suffix that no prompt file has, or no text.
    """

    def __init__(self, path: Path, column: str = "") -> None:
        self.path, self._column = path, column
        self.name = f"prompt file {str(path)!r}"
        self._text = self._read()
        if not _bare(self._text):
            raise UserError(f"{self.name} is empty; write one prompt a line")

    def rows(self) -> list[Row]:
        """The file's prompts in order, stripped of blanks and of what nobody sees around them.

        Raises:
            UserError: content that does not fit the suffix, a table without a column of prompts, a broken row.
        """
        readers: dict[Kind, Callable[[], Iterable[Row]]] = {
            "text": self._plain,
            "csv": lambda: self._table(","),
            "tsv": lambda: self._table("\t"),
            "json": self._array,
            "jsonl": self._lines,
        }
        rows = list(readers[self._kind()]())
        if not rows:
            raise UserError(f"{self.name} holds no prompt; write one prompt a line")
        return rows

    def _read(self) -> str:
        """The file's text with `\\n` at the end of every line."""
        try:
            data = self.path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{self.name} cannot be read: {reason}; check the path") from error
        if self.path.suffix.lower() not in SUFFIXES:
            known = ", ".join(suffix for suffix in SUFFIXES if suffix)
            raise UserError(f"{self.name} ends in {self.path.suffix!r}; name it by what it holds: {known}")
        codec = next((codec for mark, codec in _BOMS.items() if data.startswith(mark)), "utf-8")
        try:
            text = data.decode(codec)
        except UnicodeDecodeError as error:
            said = codec.removesuffix("-sig").upper()
            raise UserError(f"{self.name} is not {said} (byte {error.start}); save it as UTF-8") from error
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise UserError(f"{self.name} holds a NUL byte in line {line}, so it is no text; save it as UTF-8")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _kind(self) -> Kind:
        """What the suffix says, unless the content is unmistakably JSON."""
        kind = SUFFIXES[self.path.suffix.lower()]
        head = self._text.lstrip()
        if kind not in ("text", "json"):
            return kind
        if head.startswith("{"):
            return "jsonl"
        if kind == "json" or _is_array(head):
            return "json"
        self._check_plain()
        return "text"

    def _check_plain(self) -> None:
        """Plain text does not begin as a table does, and is no list of quoted texts."""
        first = self._first_line()
        cells = [cell.strip('"') for cell in _SEPARATOR.split(first)]
        header = next((cell for cell in cells if cell in COLUMNS), None)
        if header is not None:
            raise UserError(
                f"{self.name} begins with {_cut(first)!r}, like a table's header, but is named as plain text; name a "
                "table .csv or .tsv, or write prompts as JSON lines"
            )
        if self._column:
            raise UserError(
                f"prompts.column = {self._column!r} is for tables, and {self.name} is plain text; name a table .csv or "
                ".tsv, or leave the column out"
            )
        if all(re.fullmatch(r'".*",?', line.strip()) for line in self._text.split("\n") if line.strip()):
            raise UserError(
                f"{self.name} has every line in quotes ({_cut(first)!r}), which would be part of the prompts; take "
                "them away, or make it a JSON array or a table"
            )

    def _plain(self) -> Iterator[Row]:
        """One prompt a line; blank lines do not count."""
        for number, line in enumerate(self._text.split("\n"), 1):
            prompt = _bare(line)
            if prompt.startswith("{"):
                self._refuse(f"line {number}", f"begins as JSON does ({_cut(prompt)!r}), but the first line does not")
            if prompt:
                yield Row(prompt)

    def _table(self, delimiter: str) -> Iterator[Row]:
        """Rows of a table with a header, of as many cells as that; empty rows do not count."""
        reader = csv.reader(
            io.StringIO(self._text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
        )
        try:
            header: list[str] = []
            for cells in reader:
                if not any(_bare(cell) for cell in cells):
                    continue
                place = f"line {reader.line_num}"
                if not header:
                    header = [_bare(cell) for cell in cells]
                    column = self._header(header, delimiter)
                elif len(cells) != len(header):
                    self._refuse(
                        place, f"has {len(cells)} cells, the header {len(header)}: quote what holds {delimiter!r}"
                    )  # fmt: skip
                else:
                    yield self._row(dict(zip(header, cells, strict=True)), column, place)
        except csv.Error as error:
            self._refuse(f"line {reader.line_num}", f"is not a table's row: {error}")

    def _header(self, columns: Sequence[str], delimiter: str) -> str:
        """The column of prompts; a lone column that holds another separator is no column."""
        other = _SEPARATOR.search(columns[0]) if len(columns) == 1 else None
        if other:
            raise UserError(
                f"{self.name} has the one column {_cut(columns[0])!r}; separate its cells by {delimiter!r}, not by "
                f"{other.group()!r}"
            )
        self._check_split(columns)
        return self._find_column(columns)

    def _array(self) -> Iterator[Row]:
        """The texts of a JSON array, or the objects in it."""
        try:
            items = _parse(self._text)
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise UserError(
                f"{self.name} begins with {_cut(self._first_line())!r}, but is no JSON array ({reason}); mend it, or "
                "write its prompts as JSON lines"
            ) from error
        if not isinstance(items, list):
            raise UserError(f'{self.name} is no JSON array, but {_cut(self._first_line())!r}; write ["a prompt", ...]')
        texts = [isinstance(item, str) for item in items]
        if any(texts) and not all(texts) and not self._column:
            # The one that is no prompt in any form, or else the first that is of another form than the first item.
            odd = next(n for n, item in enumerate(items) if texts[n] != texts[0] or not isinstance(item, str | dict))
            self._refuse(f"item {odd + 1}", f"is {_cut(json.dumps(items[odd]))!r}: all are texts, or all objects")
        if all(texts) and not self._column:
            return (self._row({"prompt": item}, "prompt", f"item {number}") for number, item in enumerate(items, 1))
        return self._objects((f"item {number}", item, json.dumps(item)) for number, item in enumerate(items, 1))

    def _lines(self) -> Iterator[Row]:
        """One JSON object a line; blank lines do not count."""
        lines = enumerate(self._text.split("\n"), 1)
        bare = ((number, _bare(line)) for number, line in lines)
        return self._objects((f"line {number}", _parse_or_none(line), line) for number, line in bare if line)

    def _objects(self, items: Iterable[tuple[str, object, str]]) -> Iterator[Row]:
        """Of (place, what stands there, its text): JSON objects that hold the first one's column of prompts."""
        column, seen = "", set()
        for place, item, text in items:
            if not isinstance(item, dict):
                wanted = self._column or "prompt"
                self._refuse(place, f"is not a JSON object with a text named {wanted!r}, but {_cut(text.strip())!r}")
            if not column:
                column = self._find_column(list(item))
            if (keys := tuple(item)) not in seen:
                self._check_split(keys)
                seen.add(keys)
            yield self._row(item, column, place)

    def _find_column(self, columns: Sequence[str]) -> str:
        """The column of prompts among a table's."""
        twice = [column for column in columns if column and columns.count(column) > 1]
        if twice:
            raise UserError(f"{self.name} has several columns named {twice[0]!r}; leave one")
        seen = ", ".join(repr(_cut(column)) for column in columns[:8]) + (", ..." if len(columns) > 8 else "")
        wanted = [self._column] if self._column else COLUMNS
        found = [column for column in wanted if column in columns]
        if len(found) == 1:
            return found[0]
        choose = "choose one with --set prompts.column=NAME"
        if found:
            raise UserError(f"{self.name} has the columns {seen}, of which several may be the prompts; {choose}")
        names = repr(self._column) if self._column else f"{', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
        raise UserError(f"{self.name} has no column named {names}, but {seen}; {choose}")

    def _check_split(self, columns: Sequence[str]) -> None:
        """A column that is nearly named `split` is not passed over."""
        near = difflib.get_close_matches(SPLIT, [column.lower() for column in columns if column != SPLIT], cutoff=0.8)
        if near:
            raise UserError(f"{self.name} has a column {near[0]!r}; name it 'split', or something else entirely")

    def _row(self, cells: Mapping[str, object], column: str, place: str) -> Row:
        prompt, split = cells.get(column), cells.get(SPLIT, "")
        if not isinstance(prompt, str) or not _bare(prompt):
            self._refuse(place, f"has no text in its column {column!r}")
        if not isinstance(split, str):
            self._refuse(place, f"names its split by {_cut(str(split))!r}, which is no text")
        try:
            f"{prompt}{split}".encode()
        except UnicodeEncodeError:
            self._refuse(place, "holds half a surrogate pair, which is JSON but no text")
        return Row(_bare(prompt), _bare(split))

    def _refuse(self, place: str, what: str) -> NoReturn:
        raise UserError(f"{place} of {self.name} {what}; mend or remove it")

    def _first_line(self) -> str:
        return self._text.lstrip().split("\n", 1)[0].rstrip()


def _parse(text: str) -> object:
    """JSON in which no object names a key twice: Python would keep the last and say nothing."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is given twice")
        return found

    parsed: object = json.loads(text, object_pairs_hook=unique)
    return parsed


def _parse_or_none(text: str) -> object:
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return None


def _is_array(head: str) -> bool:
    """Whether a text that begins so is meant as a JSON array; `[bold] letters` is a prompt."""
    if re.match(r"""\[\s*(["'{\]]|\n)""", head):
        return True
    return head.startswith("[") and isinstance(_parse_or_none(head), list)


def _bare(text: str) -> str:
    """Without the blanks and the unseen characters around it, in whatever order they stand."""
    while (shorter := text.strip().strip(_UNSEEN)) != text:
        text = shorter
    return text


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
