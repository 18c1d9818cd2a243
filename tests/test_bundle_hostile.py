"""Zips that nobody vouches for: each trick is refused in one sentence, before anything of it is looked at."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from repacked import POINTS, crafted, packed, small_bundle, unpacked

from grpo_bench.bundles.layout import MANIFEST, Limits
from grpo_bench.bundles.read import CHUNK, read_archive
from grpo_bench.bundles.verify import verify_bundle
from grpo_bench.cli import program
from grpo_bench.errors import UserError

CONFIG = "runs/run-a/config.toml"


def refused(path: Path, said: str, limits: Limits | None = None) -> None:
    """It is refused in one sentence that says so."""
    with pytest.raises(UserError, match=said) as caught:
        verify_bundle(path, limits)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def one_entry(path: Path, name: str, data: bytes = b"x", **attributes: object) -> Path:
    """A zip of one entry whose header fields are set by hand."""
    info = zipfile.ZipInfo(name)
    info.orig_filename = info.filename = name  # as it is: ZipInfo would clean it
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, data)
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/passwd", "absolute path"),
        ("//server/share/run.json", "absolute path"),
        ("runs/../../x/config.toml", r"leads out of the bundle"),
        ("..", r"leads out of the bundle"),
        ("runs\\run-a\\config.toml", "backslash"),
        ("..\\config.toml", "backslash"),
        ("C:/runs/config.toml", "drive letter"),
        ("c:config.toml", "drive letter"),
        ("runs/run-a/hook.py", "no kind"),
        ("runs/run-a/model.pt", "no kind"),
        ("runs/run-a/./config.toml", "no kind"),
        ("runs//config.toml", "no kind"),
        ("runs/.hidden/config.toml", "no kind"),
        ("runs/run-a/config.toml ", "no kind"),
        ("runs/run-a/config.toml\n", "no kind"),
        ("runs/run-\x1b[31ma/config.toml", "no kind"),
        ("RUNS/run-a/config.toml", "no kind"),
        ("manifest.json", "no kind"),
        ("runs/run-ä/config.toml", "no kind"),
    ],
)
def test_a_name_that_no_bundle_has_is_refused(tmp_path: Path, name: str, said: str) -> None:
    refused(one_entry(tmp_path / "x.zip", name), said)


def test_a_null_byte_in_a_name_is_refused(tmp_path: Path) -> None:
    path = one_entry(tmp_path / "x.zip", "runs/run-a/config.tomlX.py")
    path.write_bytes(path.read_bytes().replace(b"tomlX.py", b"toml\0.py"))

    refused(path, "null byte")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16, "create_system": 3}, "is a link"),
        ({"external_attr": 0x400, "create_system": 0}, "is a link"),
        ({"external_attr": (stat.S_IFIFO | 0o644) << 16}, "not a plain file"),
        ({"external_attr": (stat.S_IFCHR | 0o644) << 16}, "not a plain file"),
        ({"external_attr": (stat.S_IFDIR | 0o755) << 16}, "is a folder"),
        ({"external_attr": 0x10}, "is a folder"),
        ({"compress_type": zipfile.ZIP_BZIP2}, "other than deflate"),
        ({"compress_type": zipfile.ZIP_LZMA}, "other than deflate"),
        ({"extra": b"\xfe\xca\x02\x00ab"}, "extra fields"),
        ({"comment": b"hello"}, "extra fields"),
    ],
)
def test_an_entry_that_is_no_plain_deflated_file_is_refused(
    tmp_path: Path, attributes: dict[str, object], said: str
) -> None:
    refused(one_entry(tmp_path / "x.zip", CONFIG, **attributes), said)


@pytest.mark.parametrize("data", [b"", b"a folder with content"])
def test_a_folder_is_refused_with_and_without_data(tmp_path: Path, data: bytes) -> None:
    refused(one_entry(tmp_path / "x.zip", "runs/run-a/", data), "is a folder")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (0x1, "is encrypted"),
        (0x40, "is encrypted"),  # strongly
        (0x2000, "is encrypted"),  # with hidden headers
        (0x8, "extra fields"),  # its sizes stand behind it
    ],
)
def test_an_entry_with_a_flag_that_no_bundle_sets_is_refused(tmp_path: Path, flag: int, said: str) -> None:
    path = one_entry(tmp_path / "x.zip", CONFIG)
    data = bytearray(path.read_bytes())
    for place in (6, data.index(b"PK\x01\x02") + 8):  # local header's flags, central directory's
        data[place : place + 2] = struct.pack("<H", flag)
    path.write_bytes(data)

    refused(path, said)


@pytest.mark.parametrize("place", [-18, -16, -14])
def test_a_list_of_entries_on_other_disks_is_refused(tmp_path: Path, place: int) -> None:
    """Of the end: this disk, the first disk, and how many of the entries are on this one."""
    path = one_entry(tmp_path / "x.zip", CONFIG)
    data = bytearray(path.read_bytes())
    data[place] += 1
    path.write_bytes(data)

    refused(path, "split")


@pytest.mark.parametrize(
    "names",
    [
        (CONFIG, CONFIG),
        (CONFIG, CONFIG.upper()),
        ("runs/run-\u00e9/config.toml", "runs/run-e\u0301/config.toml"),
        ("runs/\u212bngstrom", "runs/\u00e5ngstrom"),
        ("runs/stra\u00dfe", "runs/STRASSE"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """Twice is also what some file system would make of it: other case, other accents' spelling."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")

    refused(tmp_path / "x.zip", "there twice")


def test_too_many_entries_are_refused_before_their_list_is_read(tmp_path: Path) -> None:
    files = {f"runs/run-{number}/config.toml": b"" for number in range(10_001)}
    path = packed(files, tmp_path / "x.zip")

    started = perf_counter()
    refused(path, "more than 10,000 entries")
    assert perf_counter() - started < 0.5

    # The same archive whose end says that it has ten: the list that follows is still too long, or counted
    data = bytearray(path.read_bytes())
    data[-14:-10] = struct.pack("<2H", 10, 10)
    path.write_bytes(data)
    refused(path, "more than 10,000 entries")


def test_a_list_of_entries_that_is_itself_a_bomb_is_refused(tmp_path: Path) -> None:
    size = 20_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, size, 0, 0)
    (tmp_path / "x.zip").write_bytes(b"\0" * size + end)

    refused(tmp_path / "x.zip", "oversized")


def test_unpacked_bytes_are_counted_and_not_believed(tmp_path: Path) -> None:
    zeros = b"\0" * 60_000
    path = packed({MANIFEST: b"{}", CONFIG: zeros, "runs/run-b/config.toml": zeros}, tmp_path / "x.zip")

    refused(path, "too large: it unpacks to more than 49,998 bytes", Limits(unpacked=50_000))
    refused(path, "too large", Limits(unpacked=100_000))
    refused(path, "too large", Limits(entry=Limits().entry | {"record": 59_999}))
    assert read_archive(path, Limits(unpacked=120_002)).files[CONFIG] == zeros


def _zeros(size: int) -> bytes:
    """So many zeros (whole megabytes), deflated: one block, packed once and repeated."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = engine.compress(b"\0" * 1_000_000) + engine.flush(zlib.Z_FULL_FLUSH)
    return block * (size // 1_000_000) + engine.flush()


def test_a_bomb_of_two_gigabytes_is_stopped_early(tmp_path: Path) -> None:
    data = _zeros(2_000_000_000)
    assert len(data) < 3_000_000

    for claimed, said in ((2_000_000_000, "too large"), (15_000_000, "damaged")):
        path = crafted(tmp_path / "x.zip", [(POINTS, data, claimed, 0)])
        started = perf_counter()
        refused(path, said)
        assert perf_counter() - started < 1


@pytest.mark.slow
def test_small_entries_that_are_a_bomb_together_are_stopped_at_a_gigabyte(tmp_path: Path) -> None:
    # Each of 150 is true and within its own limit; the 101st would pass 1,000,000,000 bytes
    data, checksum = _zeros(10_000_000), zlib.crc32(b"\0" * 10_000_000)
    entries = [
        (f"runs/run-{number:03d}/images/panel-000000/000.png", data, 10_000_000, checksum) for number in range(150)
    ]
    path = crafted(tmp_path / "x.zip", entries)

    refused(path, r"run-100.* too large: it unpacks to more than 0 bytes")


def test_content_beyond_what_is_listed_is_refused_though_the_checksum_fits_its_beginning(tmp_path: Path) -> None:
    """Other programs would unpack all of it, and see another file than the one that was verified."""
    path = crafted(tmp_path / "x.zip", [(CONFIG, _zeros(3_000_000), 100, zlib.crc32(b"\0" * 100))])

    refused(path, "damaged")


def test_a_file_larger_than_all_it_may_unpack_to_is_not_read(tmp_path: Path) -> None:
    path = packed({CONFIG: b"x"}, tmp_path / "x.zip")

    refused(path, "bytes, more than the 100 that a bundle may unpack to", Limits(unpacked=100, entries=0))


def test_content_shorter_than_listed_is_refused_though_its_checksum_fits(tmp_path: Path) -> None:
    data = zlib.compress(b"\0" * 50, wbits=-15)

    refused(crafted(tmp_path / "x.zip", [(CONFIG, data, 100, zlib.crc32(b"\0" * 50))]), "damaged")


def deflated(size: int) -> tuple[bytes, int]:
    """Zeros, deflated but not packed, as `size` bytes, and how many zeros they are."""
    for zeros in range(size - 40, size):
        engine = zlib.compressobj(0, zlib.DEFLATED, -15)
        data = engine.compress(b"\0" * zeros) + engine.flush()
        if len(data) == size:
            return data, zeros
    raise AssertionError


@pytest.mark.parametrize("size", [200, CHUNK, CHUNK + 200])
def test_what_follows_the_end_of_the_packed_data_is_refused(tmp_path: Path, size: int) -> None:
    """Also where the end is that of a piece that is read at once, so that the rest comes with the next."""
    data, zeros = deflated(size)
    checksum = zlib.crc32(b"\0" * zeros)
    whole = crafted(tmp_path / "x.zip", [(CONFIG, data, zeros, checksum)])
    assert read_archive(whole).entries[CONFIG].size == zeros

    refused(crafted(tmp_path / "x.zip", [(CONFIG, data + b"hidden", zeros, checksum)]), "damaged")


def test_packed_data_without_an_end_are_refused_though_all_content_is_there(tmp_path: Path) -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = engine.compress(b"\0" * 1000) + engine.flush(zlib.Z_SYNC_FLUSH)

    refused(crafted(tmp_path / "x.zip", [(CONFIG, data, 1000, zlib.crc32(b"\0" * 1000))]), "damaged")


def _change(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"#!/bin/sh\n" + data, "list of entries is not where"),
        (lambda data: data + b"more", "after the zip's end"),
        (lambda data: data[:-30], "after the zip's end"),
        (lambda data: data[:100], "no zip file|after the zip's end"),
        (lambda data: b"", "no zip file"),
        (lambda data: b"PK", "no zip file"),
        (lambda data: b"\0" * 5000, "no zip file"),
        (lambda data: data.replace(b"PK\x03\x04", b"PK\x03\x05", 1), "listed otherwise"),
        (lambda data: data[:30] + b"runs/run-b" + data[40:], "listed otherwise"),
        (lambda data: data[:6] + b"\0\x08" + data[8:], "listed otherwise"),  # flags of the entry and not of the list
        (lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:], "damaged"),
    ],
)
def test_an_archive_that_is_not_whole_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], said: str) -> None:
    path = packed({CONFIG: b"what a run was told, some of it twice: what a run was told" * 3}, tmp_path / "x.zip")

    refused(_change(path, change), said)


def test_data_hidden_between_entries_is_refused(tmp_path: Path) -> None:
    path = packed({CONFIG: b"x"}, tmp_path / "x.zip")
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    moved = bytearray(data[:start] + b"hidden" + data[start:])
    moved[-6:-2] = struct.pack("<L", start + 6)
    path.write_bytes(moved)

    refused(path, "something stands between")


def test_entries_that_share_their_data_are_refused(tmp_path: Path) -> None:
    """How small zips unpack to petabytes: many entries of the list point at one piece of data."""
    path = packed({CONFIG: b"x" * 100}, tmp_path / "x.zip")
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), len(data) - 22
    second = data[start:end].replace(b"run-a", b"run-b")
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * (end - start), start, 0)
    path.write_bytes(data[:end] + second + tail)

    refused(path, "does not begin where")


def test_a_zip64_list_hidden_in_the_last_entrys_comment_is_refused(tmp_path: Path) -> None:
    """A reader that finds the mark would follow it to another list of entries."""
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 1)
    path = one_entry(tmp_path / "x.zip", CONFIG, comment=locator)

    refused(path, "zip64")


def test_a_folder_a_missing_file_and_a_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("PK is how zips begin, and this is none, though it is long enough to be one")

    refused(tmp_path, "is a folder and no bundle")
    refused(tmp_path / "gone.zip", "there is no bundle")
    refused(tmp_path / "text.zip", "no zip file")


def test_refusal_is_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one_entry(tmp_path / "x.zip", "../\x1b[31mevil")
    monkeypatch.setattr("sys.argv", ["grpo-bench", "verify", str(path)])

    with pytest.raises(SystemExit) as caught:
        program()

    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert shown.err.count("\n") == 1
    assert "\x1b" not in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.slow
def test_no_damaged_byte_ends_in_a_crash(tmp_path: Path) -> None:
    """Any one byte changed, anywhere: a sentence, a list of problems, or no difference that matters."""
    bundle = small_bundle(tmp_path)
    data, rng = bundle.read_bytes(), np.random.default_rng(0)
    other = tmp_path / "damaged.zip"
    files = unpacked(bundle)
    for _ in range(100):
        place = int(rng.integers(len(data)))
        other.write_bytes(data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :])
        try:
            assert verify_bundle(other).problems or unpacked(other) == files
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.slow
def test_no_damaged_parquet_ends_in_a_crash(tmp_path: Path) -> None:
    """Points that were damaged before they were packed, so that every checksum of the archive is right."""
    bundle = small_bundle(tmp_path)
    files, rng = unpacked(bundle), np.random.default_rng(1)
    data = files[POINTS]
    for _ in range(100):
        place = int(rng.integers(len(data)))
        damaged = data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :]
        found = verify_bundle(packed(files | {POINTS: damaged}, tmp_path / "damaged.zip"))
        assert any(one.kind == "changed" and one.where == POINTS for one in found.problems)
