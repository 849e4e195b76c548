"""Malicious files: bombs, lies, damage and names of other files, in every supported format."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa

from tests.files.test_hostile_dumps import damaged
from tests.support import crafted_parquet as crafted
from tests.support.archives import FIRST, Entry, archive, bomb, write_hostile_dumps
from tests.support.bombs import feather_bombs, ipc, parquet_bombs
from tests.support.crafted_parquet import Column, Page, candles, zstd_zeros

_MEBIBYTE = 1 << 20
_HEAD = "time,open,high,low,close,volume\n"
_DUMP = "BTCUSDT-1m-2024-02"


def write_corpus(folder: Path, number: int, dice: random.Random, secret: Path) -> list[Path]:
    """Write so many files; some of them name ``secret``, another file."""
    for name, content in (*_fixed(secret), *_dumps(folder)):
        (folder / name).write_bytes(content)
    whole = sorted(folder.iterdir())
    small = [path for path in whole if path.stat().st_size < 4 * _MEBIBYTE]
    made = _made(dice)
    while len(whole) < number:
        if dice.random() < 0.5:
            path = dice.choice(small)
            # the name keeps its beginning, which names the series
            whole.append(path.with_name(f"{path.stem} {len(whole)}{path.suffix}"))
            whole[-1].write_bytes(damaged(path.read_bytes(), dice))
        else:
            name, content = next(made)
            whole.append(folder / name)
            whole[-1].write_bytes(content)
    dice.shuffle(whole)
    return whole[:number]


def _fixed(secret: Path) -> Iterator[tuple[str, bytes]]:
    for name, (content, _) in parquet_bombs().items():
        yield f"{name}.parquet", content
    for name, (content, _) in feather_bombs().items():
        yield f"{name}.feather", content
    path = str(secret).encode()
    eight = crafted.Page(b"\0" * 64, 64, 8)
    yield "elsewhere.parquet", candles(8, Column([eight], codec=crafted.UNCOMPRESSED, file=path))
    yield f"{_DUMP} link.zip", archive(Entry("x.csv", path, mode=0o120777))
    yield f"{_DUMP} path.zip", archive(Entry(f"../../../../../../..{secret}.csv"))
    yield "path.csv", f"{_HEAD}{secret},1,1,1,1,1\n".encode()
    yield "url.json", json.dumps([{**dict.fromkeys(crafted.NAMES, 1), "time": f"file://{secret}"}]).encode()
    yield "formula.csv", f'{_HEAD}"=IMPORTDATA(""{secret}"")",1,1,1,1,1\n'.encode()
    yield "entity.json", f'<!DOCTYPE x [<!ENTITY y SYSTEM "file://{secret}">]><x>&y;</x>'.encode()


def _dumps(folder: Path) -> Iterator[tuple[str, bytes]]:
    write_hostile_dumps(folder)
    spaces, rows = b" " * _MEBIBYTE, b"1706745600,1,1,1,1,1\n" * 50_000
    yield "spaces.json.gz", gzip.compress(b"[") + 1_000 * gzip.compress(spaces)
    yield "rows.csv.gz", gzip.compress(_HEAD.encode()) + 1_000 * gzip.compress(rows)
    yield "line.csv.gz", gzip.compress(_HEAD.encode()) + 1_000 * gzip.compress(b"1" * _MEBIBYTE)
    yield "quoted.csv.gz", gzip.compress(f'{_HEAD}"'.encode()) + 1_000 * gzip.compress(spaces)
    yield "members.csv.gz", gzip.compress(b"") * 200_000
    yield "within.csv.gz", gzip.compress(gzip.compress(spaces * 64))
    yield "objects.jsonl", b'{"time": [' + b"{}," * 1_500_000
    yield "names.jsonl", b"".join(json.dumps({"time": 1, f"a{number}": 2}).encode() + b"\n" for number in range(50_000))
    yield "deep.json", b"[" * 1_000_000
    yield "digits.json", b"[[" + b"9" * 3_000_000 + b",1,1,1,1,1]]"
    yield "digits.csv", f"{_HEAD}1706745600,{'9' * 1_000_000},1,1,1,1\n".encode()
    yield "exponent.csv", f"{_HEAD}1706745600,1e999999999,1,1,1,1\n".encode()
    yield "nul.csv", f"{_HEAD}1706745600,1\0,1,1,1,1\n".encode()
    yield "columns.csv", b"time," + b"x," * 2_000_000 + b"open\n1\n"
    yield "cells.csv", _HEAD.encode() + b"1," * 2_000_000
    yield "web.zip", archive(*[Entry(f"{number}.csv", packed=bomb(FIRST.encode(), 64 * _MEBIBYTE)) for number in range(9)])


def _made(dice: random.Random) -> Iterator[tuple[str, bytes]]:
    makers: tuple[tuple[str, Callable[[random.Random], bytes]], ...] = (
        (".parquet", _random_parquet),
        (".feather", _random_feather),
        (".csv.gz", _random_gzip),
        (".zip", _random_zip),
    )
    for number in count():
        suffix, make = dice.choice(makers)
        yield f"{_DUMP} made {number}{suffix}", make(dice)


def _some(dice: random.Random) -> int:
    """Return a number of any size, sometimes larger than any file."""
    return dice.choice([dice.randrange(1 << dice.randrange(1, 31)), (1 << 31) - 1, -1, 0, dice.randrange(1, 100_000)])


def _random_parquet(dice: random.Random) -> bytes:
    rows = dice.choice([8, 1_000, 100_000, abs(_some(dice))])
    columns = {}
    for name in (*crafted.NAMES, "symbol"):
        size = dice.choice([8 * min(rows, 1 << 24), dice.randrange(1, 64 * _MEBIBYTE)])
        values = dice.choice([rows, rows, _some(dice)])
        pages = [
            Page(
                zstd_zeros(size, dice.choice([0, 1])),
                dice.choice([size, size, _some(dice)]),
                values,
                dice.choice([crafted.PLAIN, crafted.PLAIN, crafted.RLE_DICTIONARY, *range(10)]),
                dice.random() < 0.2,
                dice.choice([None, None, None, _some(dice)]),
            )
            for _ in range(dice.choice([1, 1, 2, 9]))
        ]
        columns[name] = Column(
            pages,
            dice.choice([crafted.INT64, crafted.BYTE_ARRAY]),
            dice.choice([crafted.ZSTD, crafted.ZSTD, crafted.UNCOMPRESSED, dice.randrange(8)]),
            dice.choice([None, None, _some(dice)]),
            dice.choice([None, None, _some(dice)]),
            dice.choice([None, None, _some(dice)]),
        )
    return crafted.parquet(rows, columns, groups=dice.choice([1, 1, 3, 200]))


def _random_feather(dice: random.Random) -> bytes:
    rows = dice.choice([8, 1_000, 100_000, 2_000_000])
    longs = pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(bytes(8 * rows))])
    texts = pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))]),
        pa.array(["x" * dice.randrange(1, 4 * _MEBIBYTE)] * dice.choice([1, 1, 8])),
    )
    content = bytearray(ipc({**dict.fromkeys(crafted.NAMES, longs), "symbol": texts}, dice.choice(["zstd", "lz4", None])))
    for _ in range(dice.randrange(3)):
        # a length, an offset or a number of rows somewhere in the metadata
        place = dice.randrange(8, len(content) - 8) & ~7
        content[place : place + 8] = (_some(dice) & ((1 << 64) - 1)).to_bytes(8, "little")
    return bytes(content)


def _random_gzip(dice: random.Random) -> bytes:
    line = f"{dice.randrange(1 << 40)},{dice.random()},{dice.random()},1,1,1\n".encode()
    packed = gzip.compress(line * dice.randrange(1, 20_000))
    return gzip.compress(_HEAD.encode()) + packed * dice.randrange(1, 200)


def _random_zip(dice: random.Random) -> bytes:
    claims = {
        key: dice.choice([_some(dice) & 0xFFFFFFFF, 1 << 20])
        for key in ("packed_size", "size", "crc", "flags", "method")
        if dice.random() < 0.3
    }
    claims = {key: value & (0xFFFF if key in ("flags", "method") else 0xFFFFFFFF) for key, value in claims.items()}
    content = FIRST.encode() * dice.randrange(1, 5_000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(content) + packer.flush()
    return archive(*[Entry("x.csv", content, packed=packed, **claims)] * dice.choice([1, 1, 2]), overlapping=dice.random() < 0.2)
