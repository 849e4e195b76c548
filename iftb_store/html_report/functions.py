"""`iftb_store.report` and its result: the HTML report of a store."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from html import escape
from importlib import import_module
from pathlib import Path

from iftb_store.abilities import ConnectedStore
from iftb_store.analytics.figures import PerformanceReport
from iftb_store.errors import InvalidValueError, MissingDriverError
from iftb_store.files.outputs import check_target, new_file
from iftb_store.html_report.data import ReportData, read_report
from iftb_store.html_report.page import write_page
from iftb_store.repositories.performance import make_scope
from iftb_store.transfer.access import check_store
from iftb_store.values import checks
from iftb_store.values.choices import Fees, Side
from iftb_store.values.display import show
from iftb_store.values.timeframes import Timeframe, check_timeframe

_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class HtmlReport:
    """A report as a page; a notebook shows it, if it is the value of a cell.

    Attributes:
        html: the page, which is complete and makes no request.
        performance: the figures; None if the store keeps only bars.
        path: the file that has the page; None if it was not written.
    """

    html: str = field(repr=False)
    performance: PerformanceReport | None = field(repr=False)
    path: Path | None

    def show(self, height: int = 900) -> None:
        """Show the page in a notebook.

        Args:
            height: the height in pixels.

        Raises:
            MissingDriverError: IPython, which notebooks have, is not installed.
            InvalidValueError: height is not a whole number above 0.

        Example:
            (await report(db)).show(height=600)  # -> None
        """
        pixels = checks.integer(height, "height", least=1)
        try:
            display = import_module("IPython.display")
        except ModuleNotFoundError as error:
            raise MissingDriverError("show() needs a notebook; give report() a path, and open the file in a browser") from error
        display.display({"text/html": self._frame(pixels), "text/plain": repr(self)}, raw=True)

    def _repr_html_(self) -> str:
        return self._frame(900)

    def _frame(self, height: int) -> str:
        style = "width: 100%; border: 0"
        return f'<iframe srcdoc="{escape(self.html)}" style="{style}" height="{height}" title="iftb-store report"></iframe>'


async def report(
    db: ConnectedStore,
    path: str | os.PathLike[str] | None = None,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    side: Side | None = None,
    timeframe: Timeframe | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    starting_balance: Decimal | None = None,
    fees: Fees = "apart",
    tz: tzinfo = UTC,
    account: str | None = None,
    strategy: str | None = None,
    exit_reason: str | None = None,
    tag: str | None = None,
    currency: str | None = None,
    title: str = "Trading report",
    overwrite: bool = False,
) -> HtmlReport:
    """Write a report as one HTML file: figures, equity, candles with the trades, results by month and day, coverage, errors.

    The page makes no request, works offline, in light and dark, by keyboard and with a screen reader. All is read from one
    snapshot, if the engine has snapshots. The candles are those of the symbol with the most trades, or else of the series with
    the most bars; more than 100,000 are resampled to the next longer timeframe that fits, and the page says so.

    Args:
        db: the connected store.
        path: the file to write, whose name ends in .html; None: none, the page is only returned.
        exchange: only trades, positions and bars of this exchange; None: of all. Errors are those of all exchanges.
        symbol: only trades, positions and bars of this symbol; None: of all. Errors are those of all symbols.
        side: only long or only short trades and positions; None: both.
        timeframe: the timeframe of the candles; None: that of the series with the most bars.
        start: start of the time window, inclusive; naive times are UTC. None: no limit.
        end: end of the time window, inclusive. None: no limit.
        starting_balance: the balance at the start, above 0; None: that of the stored snapshots of balances. Without either
            there are no returns, see `iftb_store.TradeRepository.get_performance`.
        fees: "apart": realized_pnl is before fees; "included": fees are subtracted already.
        tz: the time zone of days, weekdays and hours.
        account: only trades, positions and events of this account; None: of all.
        strategy: only trades of this strategy; None: of all.
        exit_reason: only trades closed for this reason; None: for any.
        tag: only trades with this tag; None: all.
        currency: the currency of the snapshots to use; None: any, if all are of one currency.
        title: the title of the page.
        overwrite: whether an existing file is replaced.

    Returns:
        The page and its figures; without trades or bars the page says so.

    Raises:
        InvalidValueError: an argument has a value that it cannot have, or the file exists and ``overwrite`` is False.
        OperationalError: the database failed.

    Example:
        made = await report(db, "report.html", starting_balance=Decimal(1000))
        (made.path, made.performance.final_balance)  # -> (PosixPath('report.html'), Decimal('1000.725'))
    """
    scope = make_scope(
        start,
        end,
        exchange,
        symbol=symbol,
        side=side,
        starting_balance=starting_balance,
        fees=fees,
        tz=tz,
        currency=currency,
        account=account,
        strategy=strategy,
        exit_reason=exit_reason,
        tag=tag,
    )
    chosen = checks.optional(check_timeframe, timeframe, "timeframe")
    heading, replace = checks.text(title, "title"), checks.boolean(overwrite, "overwrite")
    check_store(db, "db")
    target = _check_path(path)
    if target is not None:
        await asyncio.to_thread(check_target, target, folder=False, overwrite=replace)
    data = await read_report(db, scope, chosen)
    return await asyncio.to_thread(_write, data, heading, target, replace)


def _check_path(path: object) -> Path | None:
    if path is None:
        return None
    target = Path(checks.file_path(path, "path"))
    if target.suffix.lower() not in _SUFFIXES:
        raise InvalidValueError(f"path {show(str(target), 200)} does not end in .html; write it as report.html")
    return target


def _write(data: ReportData, title: str, path: Path | None, overwrite: bool) -> HtmlReport:
    page = write_page(data, title, datetime.now(UTC))
    if path is not None:
        with new_file(path, overwrite=overwrite) as stream:
            stream.write(page.encode(errors="backslashreplace"))
    return HtmlReport(page, data.performance, path)
