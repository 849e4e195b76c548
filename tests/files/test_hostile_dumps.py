"""Damaged or malicious dumps: bounded memory, an error that names file and line, and no row stored."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar
from iftb_store.batches.bars import check_bar
from iftb_store.files.klines import import_klines
from iftb_store.files.readers.binance import DumpError, KlineDump
from iftb_store.testing import raw
from tests.faults.rounds import SOAK, rounds
from tests.support.archives import FIRST, write_hostile_dumps

DATA = Path(__file__).parents[3] / "shared" / "data"
NAME = "BTCUSDT-1m-2024-02"
_MEBIBYTE = 1 << 20
_MOST_MEMORY = 48 * _MEBIBYTE

# reads every dump of a folder under a memory limit, and prints the outcome of each and the growth of the memory
_READER = """
import json, resource, sys
from pathlib import Path
from iftb_store.files.readers.binance import DumpError, KlineDump
from iftb_store.errors import StoreError

def peak():
    # the peak memory of this process only; getrusage includes that of its parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 256 * 2**20,) * 2)
before, said = peak(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        said[path.name] = f"{sum(map(len, KlineDump(path).batches()))} bar"
    except StoreError as error:
        said[path.name] = str(error)
print(json.dumps({"said": said, "grown": peak() - before}))
"""


def content(lines: int = 40) -> bytes:
    opened = 1706745600000
    return "".join(
        f"{opened + minute * 60_000},2.{minute},3.5,1.25,2.75,124314.5,{opened + minute * 60_000 + 59_999},351525.351,986,1,2,0\n"
        for minute in range(lines)
    ).encode()


def pack(compression: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{NAME}.csv", content())
    return stream.getvalue()


def damaged(whole: bytes, dice: random.Random) -> bytes:
    """Return bytes with some of them flipped, cut off, cut out, duplicated or spliced in from elsewhere."""
    damage = bytearray(whole)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        at = dice.randrange(len(damage) or 1)
        length = dice.choice([1, 2, 4, 30, len(damage) // 2])
        kind = dice.randrange(6)
        if kind == 0:
            damage[at : at + 1] = bytes([dice.choice([0, 10, 13, 34, 44, 45, 127, 128, 255, dice.randrange(256)])])
        elif kind == 1:
            del damage[at:]
        elif kind == 2:
            del damage[at : at + length]
        elif kind == 3:
            damage[at:at] = damage[at : at + length]
        elif kind == 4:
            other = dice.randrange(len(damage) or 1)
            damage[at : at + length] = damage[other : other + length]
        else:
            damage[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"PK\x01\x02", b"PK\x05\x06", b"\0\0\0\x80"])
    return bytes(damage)


def read(path: Path) -> list[OHLCVBar]:
    return [bar for batch in KlineDump(path).batches() for bar in batch]


def read_or_refuse(path: Path) -> list[OHLCVBar] | None:
    """Return the bars, each of which can be stored, or None after an error that names the file."""
    try:
        bars = read(path)
    except DumpError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert len(message) < len(str(path)) + 1_000
        return None
    assert [check_bar(bar) for bar in bars] == bars
    return bars


@pytest.mark.soaks("damaged dump", "importer")
@pytest.mark.timeout(36_000 if SOAK else 300)
@pytest.mark.parametrize("kind", ["csv", "deflated", "stored"])
def test_a_damaged_dump_is_refused_or_every_bar_can_be_stored(tmp_path: Path, kind: str) -> None:
    compressions = {"deflated": zipfile.ZIP_DEFLATED, "stored": zipfile.ZIP_STORED}
    whole = pack(compressions[kind]) if kind in compressions else content()
    path = tmp_path / (f"{NAME}.csv" if kind == "csv" else f"{NAME}.zip")
    path.write_bytes(whole)
    undamaged = read(path)
    dice = random.Random(None if SOAK else kind)
    refused = 0
    for _ in range(rounds("damaged dump")):
        damage = damaged(whole, dice)
        path.write_bytes(damage)
        bars = read_or_refuse(path)
        refused += bars is None
        # an archive has a checksum of its content
        assert kind == "csv" or bars in (None, undamaged), damage
    assert refused > rounds("damaged dump") // 3


@pytest.mark.skipif(not DATA.exists(), reason="the exchange's own dumps are not here")
@pytest.mark.timeout(36_000 if SOAK else 300)
@pytest.mark.parametrize("name", ["NEARUSDT-1m-2024-02.zip", "ADABTC-1m-2021-11-27.csv"])
def test_a_damaged_dump_of_the_exchange_is_refused_or_every_bar_can_be_stored(tmp_path: Path, name: str) -> None:
    whole = (DATA / name).read_bytes()
    path = tmp_path / name
    dice = random.Random(None if SOAK else name)
    for _ in range(rounds("damaged real dump" if name.endswith("zip") else "damaged dump")):
        path.write_bytes(damaged(whole, dice))
        read_or_refuse(path)


@pytest.mark.soaks("damaged dump imported", "each of the three")
@pytest.mark.timeout(36_000 if SOAK else 300)
async def test_nothing_of_a_dump_that_is_refused_is_stored(url: str, tmp_path: Path) -> None:
    whole = content(300)
    path = tmp_path / f"{NAME}.csv"
    dice = random.Random(None if SOAK else 3)
    async with DatabaseManager(url) as db:
        await db.create_tables()
        for _ in range(rounds("damaged dump imported")):
            path.write_bytes(damaged(whole, dice))
            try:
                await import_klines(db, KlineDump(path))
                expected = len({bar.timestamp for bar in read(path)})
            except DumpError:
                expected = 0
            assert await raw.count(db, "ohlcv") == expected
            await raw.run(db, "DELETE FROM ohlcv")


_numbers = st.sampled_from(
    ["1", "0", "-0", "-1", "+2.5", "1e3", "1E-18", "1e-19", "1e9999", "1e99999", "1_000", "٣", "1.", ".5", "NaN", "Infinity",
     "99999999999999999999.999999999999999999", "100000000000000000000", "1." + "0" * 40, "9" * 39, "", " 1", '"1"', "1\0"]
)  # fmt: skip
_times = st.sampled_from(
    ["1706745600000", "1706745600000000", "9999999999999", "9999999999999999", "1000000000000", "0999999999999", "0000000000000",
     "999999999999", "10000000000000", "17067456000000", "99999999999999999", "-1706745600000", "1e12", "", "\u0661" * 13]
)  # fmt: skip
_columns = st.tuples(
    _times, _numbers, _numbers, _numbers, _numbers, _numbers, _times, _numbers, _numbers, _numbers, _numbers, _numbers
)
_good = st.just(tuple(FIRST.rstrip().split(",")))
_lines: st.SearchStrategy[str] = st.one_of(
    _good.map(",".join),
    _columns.map(",".join),
    st.tuples(_good, st.integers(0, 11), _numbers | _times).map(lambda drawn: ",".join(_changed(*drawn))),
    st.lists(_numbers, max_size=14).map(",".join),
    st.text(max_size=40),
)


def _changed(fields: tuple[str, ...], column: int, value: str) -> list[str]:
    return [*fields[:column], value, *fields[column + 1 :]]


@pytest.mark.soaks("hostile line", "importer")
@settings(
    max_examples=rounds("hostile line"),
    deadline=None,
    derandomize=not SOAK,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.timeout(36_000 if SOAK else 300)
@given(
    lines=st.lists(_lines, min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\n", "\r", "\0\n", "\u2028", ""]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
)
def test_a_damaged_value_is_read_as_stored_or_named_by_an_error(
    tmp_path: Path, lines: list[str], end: str, encoding: str
) -> None:
    path = tmp_path / f"{NAME}.csv"
    path.write_bytes("".join(line + end for line in lines).encode(encoding, "replace"))

    bars = read_or_refuse(path)

    if bars is not None:
        rows = [line.split(",") for line in path.read_text("utf-8-sig").split("\n") if line.rstrip("\r")]
        found = [(bar.open, bar.high, bar.low, bar.close, bar.volume, bar.quote_volume, bar.trades_count) for bar in bars]
        expected = [(*map(Decimal, row[1:6]), Decimal(row[7]), int(Decimal(row[8]))) for row in rows]
        assert found == expected


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of hostile dumps, and the outcome of each."""
    folder = tmp_path_factory.mktemp("hostile") / "dumps"
    folder.mkdir()
    return folder, write_hostile_dumps(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's own means")
def test_bombs_and_lies_are_refused_in_bounded_memory(hostile: tuple[Path, dict[str, str]]) -> None:
    folder, expected = hostile

    done = subprocess.run([sys.executable, "-c", _READER, str(folder)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    wrong = {name: said for name, said in result["said"].items() if not re.search(expected[name], said)}
    assert wrong == {}
    assert result["said"].keys() == expected.keys()
    assert result["grown"] < _MOST_MEMORY


def test_the_command_refuses_bombs_and_lies_one_by_one_and_stores_the_rest(
    hostile: tuple[Path, dict[str, str]], sqlite_url: str
) -> None:
    folder, expected = hostile
    command = [sys.executable, "-m", "iftb_store"]
    subprocess.run([*command, "migrate", sqlite_url], check=True, capture_output=True)
    beside = sorted(folder.parent.iterdir())

    done = subprocess.run([*command, "import", sqlite_url, f"{folder}/*"], capture_output=True, text=True, check=False)

    errors = done.stderr.splitlines()
    read_whole = [line for line in done.stdout.splitlines() if line.startswith(NAME)]
    assert done.returncode == 1
    assert len(errors) + len(read_whole) == len(expected)
    assert {line[: len(f"error: {folder}")] for line in errors} == {f"error: {folder}"}
    assert all(line.endswith("no row of this file was stored") and line.isprintable() for line in errors)
    assert f"{len(read_whole)} of {len(expected)} files imported" in done.stdout
    assert sorted(folder.parent.iterdir()) == beside


@pytest.mark.parametrize("path", [None, 1, b"BTCUSDT-1m-2024-02.zip", "BTCUSDT-1m-2024-02\0.zip", "", "\ud800.zip"])
def test_what_is_no_path_of_a_dump_is_refused(path: object) -> None:
    make: Callable[[object], KlineDump] = KlineDump  # type: ignore[assignment]

    with pytest.raises(InvalidValueError):
        make(path)


@pytest.mark.parametrize("option", ["symbol", "timeframe", "exchange"])
@pytest.mark.parametrize("value", ["", "\0", "\ud800", "x" * 256, 1, b"x"])
def test_a_series_that_cannot_be_stored_is_refused_before_the_file_is_read(option: str, value: object) -> None:
    with pytest.raises(InvalidValueError, match=option):
        KlineDump(f"{NAME}.zip", **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, True, 1.5, None])
def test_batches_of_no_size_are_refused(size: object) -> None:
    with pytest.raises(InvalidValueError, match="size"):
        next(KlineDump(f"{NAME}.csv").batches(size))  # type: ignore[arg-type]
