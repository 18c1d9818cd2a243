"""Names that are safe as files everywhere, and untrusted text made safe for a terminal or a log line."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping

from grpo_bench.errors import UserError

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"

# CSI, then OSC/DCS/SOS/PM/APC strings up to their terminator, then two-character escapes
_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_DEEP_KEY = re.compile(r"(?:[^\s.,=\[\]{}]{1,99}[ \t]*\.[ \t]*){64}")
# Joiners are invisible too, but emoji and many scripts are spelt with them and they move no cursor
_HARMLESS_FORMAT = "\u200c\u200d"


def check_name(name: str, what: str = "name") -> str:
    """Return `name` unchanged if it is a valid name; `what` is how the error calls it ("method", "run").

    Raises:
        UserError: for anything but 1 to 64 of a-z, 0-9, dot, dash and underscore, begun by a letter or digit.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(
            f"The {what} {clean_text(name, 80)!r} is not a valid name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or a digit."
        )
    return name


def clean_text(text: str, limit: int = 500) -> str:
    """One line of untrusted text that cannot steer a terminal: no escapes, controls, newlines or text direction.

    Terminal sequences are dropped, white space becomes a space, any other control character U+FFFD; at most `limit`
    characters. Markup of a display library (rich's `[bold]`) is not touched: print it unparsed.
    """
    plain = text if text.isascii() and text.isprintable() else "".join(map(_harmless, _ANSI.sub("", text)))
    line = " ".join(plain.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def check_text(value: object, what: str) -> None:
    """Refuse text that is not Unicode, as a path's bytes may be: no record, TOML or JSON can hold it.

    Raises:
        UserError: `what` (or a part of it, in tables and lists) holds such a text.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_text(key, f"a name in {what}")
            check_text(inner, f"{what}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_text(inner, what)
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{what} = {value[:200]!r} is not UTF-8, in which it would be stored; rename it")


def parse_json(text: str) -> object:
    """JSON that anybody may have written.

    Raises:
        ValueError: it is none, or nested deeper than any file of this program (for which `json` has another error).
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_toml(text: str) -> dict[str, object]:
    """TOML that anybody may have written.

    Raises:
        tomllib.TOMLDecodeError: it is none, or nested deeper than any settings (for which `tomllib` takes minutes, or
            has another error).
    """
    if _DEEP_KEY.search(text):
        raise tomllib.TOMLDecodeError("keys are nested too deeply")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("values are nested too deeply") from error


def _harmless(character: str) -> str:
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    # Cc controls, Cf invisible formatting such as right-to-left overrides, Cs lone surrogates (cannot be encoded)
    if category in {"Cc", "Cs"} or (category == "Cf" and character not in _HARMLESS_FORMAT):
        return "\ufffd"
    return character
