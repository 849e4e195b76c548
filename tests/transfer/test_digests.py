"""The checksum, which is the same on every engine."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pytest

from iftb_store.batches.arrow import arrow_schema
from iftb_store.models import SystemEvent
from iftb_store.schema.table_spec import BARS, EVENTS, TRADES, ColumnKind, TableSpec
from iftb_store.testing.samples import HOUR, NOW, T0, bar, full_bar, full_trade, hourly, trade
from iftb_store.transfer.digests import Chunk, Digester, compute_checksum, normalise_json
from iftb_store.values.tags import encode_texts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BARS_OF_THREE_DAYS = [
    replace(item, id=number, created_at=NOW)
    for number, item in enumerate([*hourly(30), full_bar(T0 + 30 * HOUR), bar(datetime(1969, 12, 31, 23, tzinfo=UTC))], 7)
]
BARS_OF_THREE_DAYS.sort(key=lambda item: item.timestamp)


def arrow(table: TableSpec, rows: list[Any]) -> pa.Table:
    """Return rows as a scan returns them."""
    columns = zip(*map(_values, rows), strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, arrow_schema(table), strict=True)],
        schema=arrow_schema(table),
    )


def _values(row: Any) -> list[Any]:
    return [_in_column(value) for value in astuple(row)]


def _in_column(value: Any) -> Any:
    if isinstance(value, list):
        return encode_texts(value)
    return json.dumps(value, indent=1) if isinstance(value, dict) else value


def parts(table: TableSpec, rows: list[Any], step: int | None = None) -> list[Chunk]:
    """Return the chunks of rows that are added a few at a time."""
    whole, digester = arrow(table, rows), Digester(table)
    for first in range(0, len(rows), step or len(rows)):
        digester.take(whole.slice(first, step))
    return digester.parts()


def as_a_stranger_does(table: TableSpec, rows: list[Any]) -> str:
    """Compute a checksum only from the definition in `iftb_store.transfer.digests`."""
    found: dict[int, list[bytes]] = {}
    for row in rows:
        number = (row.timestamp - EPOCH) // timedelta(days=1) if table is BARS else row.id // 10_000
        # the id and the created_at of a bar are the store's own
        values = astuple(row)[:-2] if table is BARS else astuple(row)
        found.setdefault(number, []).append(b"".join(map(encoded, values)))
    whole = b"".join(
        eight(number) + eight(len(texts)) + blake2b(b"".join(texts), digest_size=16).digest() for number, texts in found.items()
    )
    return blake2b(whole, digest_size=16).hexdigest()


def eight(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def encoded(value: Any) -> bytes:
    if value is None:
        return b"\0"
    if isinstance(value, int):
        return b"\1" + eight(value)
    if isinstance(value, datetime):
        return b"\1" + eight((value - EPOCH) // timedelta(microseconds=1))
    if isinstance(value, Decimal):
        return b"\1" + int(value.scaleb(18)).to_bytes(16, "little", signed=True)
    if isinstance(value, list):
        value = encode_texts(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":")) if isinstance(value, dict) else value
    return b"\1" + eight(len(text.encode())) + text.encode()


EVENTS_OF_THREE_RANGES = [
    SystemEvent("tick", "info", "grüße", {"b": 1, "a": [None, "ü"]}, id=number, created_at=NOW)
    for number in (1, 2, 9_999, 10_000, 25_000)
]


@pytest.mark.parametrize(
    ("table", "rows", "known"),
    [
        (BARS, BARS_OF_THREE_DAYS, "f5e135a2ddd0046aab2ab3627b086a47"),
        (TRADES, [replace(full_trade(), id=1), replace(trade(), id=2)], "c37399d94ead3739a2fe28d183c639fe"),
        (EVENTS, EVENTS_OF_THREE_RANGES, "89052de2082650c86e2a57d4708dca19"),
    ],
)
def test_a_checksum_is_what_its_definition_says_and_stays_what_it_was(table: TableSpec, rows: list[Any], known: str) -> None:
    assert compute_checksum(parts(table, rows)) == as_a_stranger_does(table, rows) == known


def test_parts_are_days_of_a_series_and_ranges_of_ids() -> None:
    assert [(part.number, part.rows) for part in parts(BARS, BARS_OF_THREE_DAYS)] == [(-1, 1), (19_723, 24), (19_724, 7)]
    assert [(part.number, part.rows) for part in parts(EVENTS, EVENTS_OF_THREE_RANGES)] == [(0, 3), (1, 1), (2, 1)]


@pytest.mark.parametrize("step", [1, 2, 23, 24, 25])
def test_a_checksum_does_not_depend_on_how_the_rows_come(step: int) -> None:
    assert parts(BARS, BARS_OF_THREE_DAYS, step) == parts(BARS, BARS_OF_THREE_DAYS)


@pytest.mark.parametrize("field", ["id", "created_at"])
def test_a_checksum_of_bars_covers_no_value_of_the_store_s_own(field: str) -> None:
    other: dict[str, Any] = {field: None}
    changed = [*BARS_OF_THREE_DAYS[:-1], replace(BARS_OF_THREE_DAYS[-1], **other)]
    assert parts(BARS, changed) == parts(BARS, BARS_OF_THREE_DAYS)


@pytest.mark.parametrize("field", [name for name in BARS.compared if name != "timestamp"])
def test_a_checksum_covers_every_other_column(field: str) -> None:
    other: dict[ColumnKind, Any] = {
        ColumnKind.TEXT: "x",
        ColumnKind.INTEGER: 99,
        ColumnKind.DECIMAL: Decimal("0.000000000000000001"),
        ColumnKind.TIME: NOW + timedelta(microseconds=1),
    }
    changed = [*BARS_OF_THREE_DAYS[:-1], replace(BARS_OF_THREE_DAYS[-1], **{field: other[BARS.kinds[field]]})]
    assert parts(BARS, changed)[:-1] == parts(BARS, BARS_OF_THREE_DAYS)[:-1]
    assert parts(BARS, changed)[-1] != parts(BARS, BARS_OF_THREE_DAYS)[-1]


def test_null_is_not_nothing() -> None:
    texts = [SystemEvent("tick", "info", "", stack_trace=text, id=1, created_at=NOW) for text in ("", None)]
    assert parts(EVENTS, texts[:1]) != parts(EVENTS, texts[1:])


@pytest.mark.parametrize("text", ['{"a":1,"b":[2.5]}', '{ "b" : [2.5], "a" : 1 }', '{"b": [2.50], "a": 1}'])
def test_json_is_compared_by_what_it_means(text: str) -> None:
    assert normalise_json(text) == b'{"a":1,"b":[2.5]}'


@pytest.mark.parametrize("text", ["{", '{"a": 1e400}', "[" * 100_000, f"[{'9' * 5_000}]"])
def test_what_json_cannot_hold_is_compared_as_text(text: str) -> None:
    assert normalise_json(text) == text.encode()
