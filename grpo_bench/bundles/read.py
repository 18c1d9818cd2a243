"""Read a zip that nobody vouches for, to memory: nothing is extracted, and what no bundle needs is refused.

The archive must be what `write` makes: entries one after another without gaps or overlaps, each named once, deflated or
stored, with sizes and checksums that are true. So all programs that unpack it see the same files that were verified.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from grpo_bench.bundles.layout import READ, TEXTS, EntryRecord, Limits, place_of
from grpo_bench.errors import UserError
from grpo_bench.store.names import clean_text

CHUNK = 1 << 18
_END = struct.Struct("<4s4H2LH")
"""End of central directory: mark, this disk, first disk, entries here, entries, size, offset, length of a comment."""
_LOCAL = struct.Struct("<4s5H3L2H")
"""Local header: mark, version, flags, method, time, date, checksum, packed, unpacked, length of name, of extra."""
_LOCATOR_SIZE, _LOCATOR = 20, b"PK\x06\x07"
_MOST_PER_ENTRY = 46 + 300
"""Bytes of one entry in the central directory: its header and a name longer than any bundle's."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
"""The one flag that an entry of a bundle may have: its name is plain either way."""
_DOS_FOLDER, _DOS_LINK = 0x10, 0x400
_NOT_WHOLE = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, struct.error)
"""What zipfile and struct raise over bytes that are no zip; RuntimeError is also its word for what it cannot unpack."""


@dataclass(frozen=True)
class Archive:
    """A bundle's content."""

    sha256: str
    """Of the whole file."""
    size: int
    entries: dict[str, EntryRecord]
    """What each entry really holds."""
    files: dict[str, bytes]
    """The content of the entries that figures are made of."""


def read_archive(path: Path, limits: Limits | None = None) -> Archive:
    """All of a bundle, read to memory.

    Raises:
        UserError: it is no bundle, damaged, too large, or has an entry that no bundle has.
    """
    limits = limits or Limits()
    _check_file(path)
    try:
        with path.open("rb") as file:
            size, count, start = _check_ends(file, path, limits)
            digest = _digest(file)
            entries, files = _read_all(file, path, count, start, limits)
    except _NOT_WHOLE as error:
        raise UserError(f"{path} is no whole bundle ({clean_text(str(error), 120)})") from error
    return Archive(digest, size, entries, files)


def _check_file(path: Path) -> None:
    """Refuses what is no file before it is opened: a pipe or a device may never answer, or never end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"there is no bundle {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({clean_text(str(error), 120)})") from error
    kinds = {"folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK, "device": stat.S_ISCHR}
    kind = next((kind for kind, is_one in kinds.items() if is_one(mode)), "device")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is a {kind} and no bundle; give the zip that `grpo-bench bundle` wrote")


def _check_ends(file: BufferedReader, path: Path, limits: Limits) -> tuple[int, int, int]:
    """The file's size, how many entries it says it has, and where their list begins.

    Refuses a list that would itself be too much to read.
    """
    size = file.seek(0, 2)
    if size > limits.unpacked + limits.entries * _MOST_PER_ENTRY:
        raise UserError(f"{path} has {size:,} bytes, more than the {limits.unpacked:,} that a bundle may unpack to")
    if size < _END.size:
        raise UserError(f"{path} is no zip file")
    file.seek(max(0, size - _END.size - _LOCATOR_SIZE))
    tail = file.read()
    mark, disk, first, here, entries, length, offset, comment = _END.unpack(tail[-_END.size :])
    if mark != b"PK\x05\x06" or comment:
        raise UserError(f"{path} is no bundle: it is no zip file, or something stands after the zip's end")
    if entries > limits.entries:
        raise UserError(f"{path} has more than {limits.entries:,} entries, which no bundle has")
    large = entries == 0xFFFF or 0xFFFFFFFF in (length, offset) or tail.startswith(_LOCATOR)
    if disk or first or here != entries or large or length > limits.entries * _MOST_PER_ENTRY:
        raise UserError(f"{path} is no bundle: its list of entries is split, oversized or for larger files (zip64)")
    if offset + length + _END.size != size:
        raise UserError(f"{path} is no bundle: its list of entries is not where it says")
    return size, entries, offset


def _digest(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _read_all(
    file: BufferedReader, path: Path, stated: int, start: int, limits: Limits
) -> tuple[dict[str, EntryRecord], dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    if len(infos) > limits.entries:
        raise UserError(f"{path} has more than {limits.entries:,} entries, which no bundle has")
    if len(infos) != stated:
        raise UserError(f"{path} is no bundle: it lists {len(infos):,} entries and says that it has {stated:,}")
    _check_names([info.orig_filename for info in infos])
    for info in infos:
        _check_entry(info)
    entries: dict[str, EntryRecord] = {}
    files: dict[str, bytes] = {}
    at, total, text = 0, 0, 0
    for info in sorted(infos, key=lambda one: one.header_offset):
        at = _check_header(file, info, at)
        place = place_of(info.filename)
        assert place is not None  # _check_entry refused the others
        most = min(limits.entry[place.kind], limits.unpacked - total)
        if place.kind in TEXTS:
            most = min(most, limits.text - text)
            text += info.file_size
        digest, kept, count = hashlib.sha256(), bytearray(), 0
        for chunk in _unpack(file, info, most):
            digest.update(chunk)
            count += len(chunk)
            if place.kind in READ:
                kept += chunk
        total += count
        entries[info.filename] = EntryRecord(sha256=digest.hexdigest(), size=count)
        if place.kind in READ:
            files[info.filename] = bytes(kept)
    if at != start:
        raise UserError(f"{path} is no bundle: something stands between its entries and their list")
    return entries, files


def _check_names(names: Sequence[str]) -> None:
    """Refuses names that lead elsewhere, or that some system takes for one and the same file."""
    seen: set[str] = set()
    for name in names:
        said = repr(clean_text(name, 80))
        if name.startswith("/"):
            raise UserError(f"the bundle's entry {said} has an absolute path")
        if "\\" in name or "\0" in name:
            raise UserError(f"the bundle's entry {said} has a backslash or a null byte in its name")
        if re.match(r"[A-Za-z]:", name):
            raise UserError(f"the bundle's entry {said} begins with a drive letter")
        if ".." in name.split("/"):
            raise UserError(f"the bundle's entry {said} leads out of the bundle by '..'")
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            raise UserError(f"the bundle's entry {said} is there twice (upper and lower case are the same here)")
        seen.add(key)


def _check_entry(info: zipfile.ZipInfo) -> None:
    """Refuses an entry by what the list of entries says of it."""
    raw = info.orig_filename
    said = repr(clean_text(raw, 80))
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode) or info.external_attr & _DOS_LINK:
        raise UserError(f"the bundle's entry {said} is a link")
    if raw.endswith("/") or stat.S_ISDIR(mode) or info.external_attr & _DOS_FOLDER:
        raise UserError(f"the bundle's entry {said} is a folder, and a bundle has files only")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UserError(f"the bundle's entry {said} is not a plain file")
    if info.flag_bits & _ENCRYPTED:
        raise UserError(f"the bundle's entry {said} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"the bundle's entry {said} is packed by a method other than deflate")
    if place_of(raw) is None:
        raise UserError(f"the bundle's entry {said} is of no kind that a bundle has")
    if info.extra or info.comment or info.volume or info.flag_bits & ~_UTF8:
        raise UserError(f"the bundle's entry {said} has flags or extra fields, which `grpo-bench bundle` never writes")


def _check_header(file: BufferedReader, info: zipfile.ZipInfo, at: int) -> int:
    """Leaves `file` at the entry's data, and returns where that ends; the entry must begin at `at`, as listed."""
    said = repr(clean_text(info.filename, 80))
    if info.header_offset != at:
        raise UserError(f"the bundle's entry {said} does not begin where the one before it ends")
    file.seek(at)
    header = _LOCAL.unpack(file.read(_LOCAL.size))
    name = file.read(header[9])
    listed = (b"PK\x03\x04", info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size, 0)
    if (header[0], *header[2:4], *header[6:9], header[10]) != listed or name != info.filename.encode("ascii"):
        raise UserError(f"the bundle's entry {said} is listed otherwise than it is stored")
    return at + _LOCAL.size + len(name) + info.compress_size


def _unpack(file: BufferedReader, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    """The entry's content, piece by piece; ends with an error as soon as it is more than `most` or than was listed."""
    said = repr(clean_text(info.filename, 80))
    too_large = f"the bundle's entry {said} is too large: it unpacks to more than {most:,} bytes"
    if info.file_size > most:
        raise UserError(too_large)
    count, checksum = 0, 0
    for chunk in _inflate(file, info) if info.compress_type == zipfile.ZIP_DEFLATED else _stored(file, info):
        count += len(chunk)
        if count > most:
            raise UserError(too_large)
        if count > info.file_size:
            break
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    if count != info.file_size or checksum != info.CRC:
        raise UserError(f"the bundle's entry {said} is damaged: its content is not what its header says")


def _stored(file: BufferedReader, info: zipfile.ZipInfo) -> Iterator[bytes]:
    left = info.compress_size
    while left and (chunk := file.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk


def _inflate(file: BufferedReader, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """At most `CHUNK` bytes at a time, however well they are packed."""
    said = repr(clean_text(info.filename, 80))
    engine, packed = zlib.decompressobj(-zlib.MAX_WBITS), b""
    try:
        for packed in _stored(file, info):
            if engine.eof:
                break
            while packed and not engine.eof:
                yield engine.decompress(packed, CHUNK)
                packed = engine.unconsumed_tail
        while not engine.eof and (rest := engine.decompress(b"", CHUNK)):  # a last repetition cut by the limit
            yield rest
    except zlib.error as error:
        raise UserError(f"the bundle's entry {said} is damaged ({clean_text(str(error), 80)})") from error
    if not engine.eof or engine.unused_data or packed:
        raise UserError(f"the bundle's entry {said} is damaged: its packed data do not end where it does")
