"""An export reads as many rows at once as their texts allow, on every engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.files.export import export_table


@pytest.mark.parametrize("format", ["csv", "parquet"])
async def test_rows_with_long_texts_are_read_a_few_at_a_time(url: str, tmp_path: Path, format: str) -> None:
    reached: list[int] = []
    async with DatabaseManager(url) as db:
        await db.migrate()
        events = SystemEventRepository(db)
        for number in range(9):
            await events.log_event("long", "info", str(number) * 4_000_000)
        path = tmp_path / f"events.{format}"
        done = await export_table(db, path, table="system_events", progress=lambda step, rows, total: reached.append(rows))
    assert done.rows == 9
    # 16 MiB at once
    assert reached == [0, 4, 8, 9]
