"""Column types that accept and return the same values on every engine, and store them in the way that suits the engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, BindParameter, ColumnElement, DateTime, Dialect, Numeric, Text, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from iftb_store.values.checks import exact_decimal, json_object, json_text, utc
from iftb_store.values.decimals import PRECISION, SCALE, from_sortable, to_sortable
from iftb_store.values.tags import check_texts, decode_texts, encode_texts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The first and last microsecond of the years 1 to 9999, as whole microseconds since 1970-01-01 UTC.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


def to_epoch_us(moment: datetime) -> int:
    """Return an aware time as whole microseconds since 1970-01-01 UTC."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_epoch_us(microseconds: int) -> datetime:
    """Return the aware UTC time that is ``microseconds`` after 1970-01-01 UTC; the inverse of `to_epoch_us`."""
    return EPOCH + timedelta(microseconds=microseconds)


class ExactDecimal(TypeDecorator[Decimal]):
    """DECIMAL(38,18); on SQLite stored as the sortable text of `iftb_store.values.decimals.to_sortable`."""

    impl = Numeric(PRECISION, SCALE)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type in which the engine stores the value: text on SQLite, otherwise DECIMAL(38,18)."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric(PRECISION, SCALE))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Raise an error if the column cannot hold the value exactly, otherwise encode it for the engine."""
        if value is None:
            return None
        exact = exact_decimal(value, "value")
        return to_sortable(format(exact, "f")) if dialect.name == "sqlite" else exact

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Convert a stored value to a Decimal."""
        return from_sortable(value) if dialect.name == "sqlite" and value is not None else value


class UTCDateTime(TypeDecorator[datetime]):
    """TIMESTAMP WITH TIME ZONE; on SQLite stored as whole microseconds since 1970-01-01 UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type in which the engine stores the value: a whole number on SQLite, otherwise a timestamp."""
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Convert the time to UTC (naive times are UTC), then encode it for the engine."""
        if value is None:
            return None
        moment = utc(value, "value")
        return to_epoch_us(moment) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Convert a stored value to a datetime."""
        return from_epoch_us(value) if dialect.name == "sqlite" and value is not None else value


class CastText(FunctionElement[str]):
    """Casts an SQL expression to the type text on PostgreSQL, and leaves it unchanged on other engines.

    Without the cast, a comparison could call an operator for another type, e.g. varchar, that another role has put into the
    search_path.
    """

    inherit_cache = True

    def __init__(self, expression: ColumnElement[Any]) -> None:
        super().__init__(expression)
        self.type = ComparedText()


class ComparedText(TypeDecorator[str]):
    """The type of a `CastText` expression; parameters that are compared with the expression are cast too."""

    impl = Text
    cache_ok = True

    def bind_expression(self, bindparam: BindParameter[str]) -> ColumnElement[str]:
        """Cast the parameter to PostgreSQL's type text."""
        return CastText(bindparam)


@compiles(CastText)
def _plain(element: CastText, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses.clauses[0], **options))


@compiles(CastText, "postgresql")
def _cast(element: CastText, compiler: Any, **options: Any) -> str:
    return f"CAST({_plain(element, compiler, **options)} AS text)"


class JSONObject(TypeDecorator[dict[str, Any]]):
    """A JSON object, stored as text: JSON on PostgreSQL and DuckDB (not JSONB, which rewrites numbers), TEXT on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type in which the engine stores the value: text on SQLite, otherwise JSON."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else JSON(none_as_null=True))

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> Any:
        """Raise an error if JSON cannot hold the value, otherwise encode it for the engine."""
        if value is None:
            return None
        text = json_text(value, "value")
        return text if dialect.name == "sqlite" else json_object(text)

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """Convert a stored value to a dict."""
        return json_object(value) if isinstance(value, str) else value


class TextList(TypeDecorator[list[str]]):
    """A list of texts, stored as text on every engine, in the form of `iftb_store.values.tags`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> Any:
        """Raise an error if a text cannot be stored, otherwise encode the list."""
        return None if value is None else encode_texts(check_texts(value, "value"))

    def process_result_value(self, value: Any, dialect: Dialect) -> list[str] | None:
        """Convert a stored value to a list."""
        return None if value is None else decode_texts(value)
