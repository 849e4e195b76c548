"""The calls of `iftb_store.testing.hostile` for the methods that work on whole series, and those that read or write Arrow."""

from __future__ import annotations

from typing import Any

from iftb_store import OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository, UpsertReport
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import needs
from iftb_store.testing.hostile_values import Attempt, Try
from iftb_store.testing.samples import T0

_ARROW_READS: tuple[Any, ...] = (TradeRepository, PositionRepository, SystemEventRepository)


async def _write_arrow(one: Try) -> int:
    arguments = one.changed(**({} if one.parameter == "data" else {"data": []}))
    written: int | UpsertReport = await OHLCVRepository(one.session).write_arrow(**arguments)
    return written.inserted if isinstance(written, UpsertReport) else written


async def _delete_range(one: Try) -> int:
    arguments = one.changed(symbol="another", timeframe="1h", start=T0, end=T0, exchange="another")
    assert await OHLCVRepository(one.session).delete_range(**arguments) == 0
    return 0


def _attempt_read(made: Any) -> Attempt:
    async def read(one: Try) -> int:
        arguments = one.changed()
        _assert_selected(await made(one.session).read_arrow(**arguments), arguments)
        return 0

    return read


def _attempt_stream(made: Any) -> Attempt:
    async def read(one: Try) -> int:
        arguments = one.changed()
        async with made(one.session).stream_arrow(**arguments) as stream:
            async for batch in stream:
                _assert_selected(batch, arguments)
        return 0

    return read


def _assert_selected(rows: Any, arguments: dict[str, Any]) -> None:
    for row in rows.to_pylist():
        assert all(row[name] == value for name, value in arguments.items() if value is not None and name in row)


async def _resample(one: Try) -> int:
    arguments = one.changed(symbol="another", source="1h", target="1d", start=T0, end=T0, exchange="another")
    assert await OHLCVRepository(one.session).resample(**arguments) == []
    return 0


async def _get_coverage(one: Try) -> int:
    needs(one.db, Capability.RECORDS)
    arguments = one.changed(symbol="another", timeframe="1h", exchange="another", start=T0, end=T0)
    assert all(found.first <= found.last for found in await OHLCVRepository(one.session).get_coverage(**arguments))
    return 0


async def _read_days(one: Try) -> int:
    needs(one.db, Capability.RECORDS)
    arguments = one.changed(symbol="another", timeframe="1h", exchange="another", start=T0, end=T0)
    assert all(day.traded == 0 for day in await OHLCVRepository(one.session).coverage_by_day(**arguments))
    return 0


async def _mark_covered(one: Try) -> int:
    needs(one.db, Capability.RECORDS)
    arguments = one.changed(symbol="another", timeframe="1h", start=T0, end=T0, exchange="another", source="fetch")
    await OHLCVRepository(one.session).mark_covered(**arguments)
    named = arguments["symbol"], arguments["timeframe"], arguments["exchange"]
    assert await OHLCVRepository(one.session).get_coverage(*named) != []
    return 0


async def _get_gaps_all(one: Try) -> int:
    arguments = one.changed(start=T0, end=T0)
    async with OHLCVRepository(one.session).get_gaps_all(**arguments) as stream:
        async for batch in stream:
            _assert_selected(batch, {name: arguments.get(name) for name in ("exchange", "timeframe")})
    return 0


async def _resample_all(one: Try) -> int:
    arguments = one.changed(source="1h", target="1d", start=T0, end=T0)
    async with OHLCVRepository(one.session).resample_all(**arguments) as stream:
        async for batch in stream:
            _assert_selected(batch, {"exchange": arguments.get("exchange"), "timeframe": arguments["target"]})
    return 0


async def _list_series(one: Try) -> int:
    (series,) = await OHLCVRepository(one.session).list_series(**one.changed())
    assert hasattr(series, "count") is bool(one.value)
    return 0


METHODS: dict[str, Attempt] = {
    "OHLCVRepository.list_series": _list_series,
    "OHLCVRepository.write_arrow": _write_arrow,
    "OHLCVRepository.delete_range": _delete_range,
    "OHLCVRepository.get_coverage": _get_coverage,
    "OHLCVRepository.coverage_by_day": _read_days,
    "OHLCVRepository.mark_covered": _mark_covered,
    **{f"{made.__name__}.read_arrow": _attempt_read(made) for made in (*_ARROW_READS, OHLCVRepository)},
    **{f"{made.__name__}.stream_arrow": _attempt_stream(made) for made in (*_ARROW_READS, OHLCVRepository)},
    "OHLCVRepository.resample": _resample,
    "OHLCVRepository.get_gaps_all": _get_gaps_all,
    "OHLCVRepository.resample_all": _resample_all,
}
