"""find_series of the relational lookups: every series once, also if one has a bar outside the calendar."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.abilities import SupportsLookups, SupportsSeries
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.samples import HOUR, T0, bar

_NAMES = [
    (exchange, symbol, timeframe)
    for exchange in ("binance", "kraken")
    for symbol in ("BTC", "btc", "É")
    for timeframe in ("1d", "1h")
]


@pytest.fixture(params=["sqlite", "postgres"])
def tables_url(request: pytest.FixtureRequest) -> str:
    """URL of a database with empty tables on each of the two engines in turn."""
    return str(request.getfixturevalue(f"{request.param}_tables_url"))


@pytest.mark.parametrize("row_values", [True, False])
async def test_find_series_passes_over_every_bar_of_a_series(
    tables_url: str, monkeypatch: pytest.MonkeyPatch, row_values: bool
) -> None:
    async with DatabaseManager(tables_url) as db, db.get_session() as session:
        await OHLCVRepository(session).insert_many(
            [
                bar(T0 + hour * HOUR, exchange=exchange, symbol=symbol, timeframe=timeframe)
                for exchange, symbol, timeframe in _NAMES
                for hour in (0, 24)
            ]
        )
        late = 253_402_300_800_000_000 if tables_url.startswith("sqlite") else "'infinity'"
        await session.execute(text(f"UPDATE ohlcv SET timestamp = {late} WHERE id % 2 = 0"))
        stores = get_stores(session)
        lookups = stores.lookups if isinstance(stores, SupportsLookups) else None
        assert isinstance(lookups, SupportsSeries)
        reader = vars(lookups)["_reader"]
        monkeypatch.setattr(reader, "dialect", replace(reader.dialect, row_values=row_values))
        for chosen in ({}, {"exchange": "kraken"}, {"timeframe": "1d"}, {"exchange": "binance", "timeframe": "1h"}):
            wanted = [names for names in _NAMES if set(chosen.values()) <= set(names)]
            assert await lookups.find_series(RowFilter(BARS, dict(chosen))) == wanted
