"""Functions that check the values of each column of the tables of records, derived from `TableSpec`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from iftb_store.schema.table_spec import BALANCES, EVENTS, FILLS, LEDGER, POSITIONS, TRADES, ColumnKind, ColumnSpec, TableSpec
from iftb_store.values import checks
from iftb_store.values.tags import check_texts

_Check = Callable[[object, str], Any]


_BY_KIND: dict[ColumnKind, _Check] = {
    ColumnKind.TEXT: checks.text,
    ColumnKind.INTEGER: checks.integer,
    # bots compute these by division; bars are checked in `iftb_store.batches`, which never round
    ColumnKind.DECIMAL: checks.round_to_places,
    ColumnKind.TIME: checks.utc,
    ColumnKind.JSON: lambda value, name: checks.json_object(checks.json_text(value, name)),
    ColumnKind.TEXTS: check_texts,
}


def find_check(spec: ColumnSpec) -> _Check:
    """Return the function that checks a value of a column: check(value, name for error messages) -> normalised value."""
    check = _BY_KIND[spec.kind]
    if spec.choices:
        check = partial(checks.choice, choices=spec.choices)
    elif spec.is_name:
        check = checks.short_name if spec.is_short else checks.name_text
        if spec.default == "":
            check = partial(checks.name_or_empty, check)
    return partial(checks.optional, check) if spec.nullable or spec.kept else check


def _find_checks(table: TableSpec, *kept: str) -> dict[str, _Check]:
    return {name: find_check(spec) for name, spec in table.specs.items() if not spec.kept or name in kept}


TRADE_CHECKS = _find_checks(TRADES)
#: The id is included, because the id of a position selects the position to update.
POSITION_CHECKS = _find_checks(POSITIONS, "id")
EVENT_CHECKS = _find_checks(EVENTS)
FILL_CHECKS = _find_checks(FILLS)
LEDGER_CHECKS = _find_checks(LEDGER)
BALANCE_CHECKS = _find_checks(BALANCES)
#: The checks of each table of records, by the name of the table.
ROW_CHECKS = {
    TRADES.name: TRADE_CHECKS,
    POSITIONS.name: POSITION_CHECKS,
    EVENTS.name: EVENT_CHECKS,
    FILLS.name: FILL_CHECKS,
    LEDGER.name: LEDGER_CHECKS,
    BALANCES.name: BALANCE_CHECKS,
}
