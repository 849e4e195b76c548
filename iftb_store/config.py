"""Reads the settings of the bot's database from environment variables, with pydantic-settings."""

from __future__ import annotations

import logging
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, SecretStr, ValidationError, model_validator
from pydantic_core import InitErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from iftb_store.errors import ConfigurationError
from iftb_store.values.display import is_text, show, to_one_line
from iftb_store.values.suggestions import suggest

#: The name of the SQLite file, in the working directory, that the bot uses if no variable is set.
DEFAULT_FILE = "iftb.db"

_URL_VARIABLE = "IFTB_STORE_URL"
_READ_URL_VARIABLE = "IFTB_STORE_READ_URL"
_PREFIX = "DB_"
_OPTIONS = ("connect_timeout", "pool_timeout", "statement_timeout", "sslmode", "sslrootcert")
# the fields whose values an error message may show, because they are no secrets
_SHOWN = ("port", "pool_size", "max_overflow")
_HIDDEN = "***"
#: The prefix that marks the name of an environment variable where a URL is expected, e.g. env:BOT_URL.
ENVIRONMENT = "env:"
_REQUIRED = ("host", "database", "username", "password")

_log = logging.getLogger(__name__)


def _without_input(error: ValidationError) -> ValidationError:
    """Return a copy of a validation error without the input values, except those of port, pool_size and max_overflow."""
    problems = [
        InitErrorDetails(
            # pydantic builds the message of its error from the type
            type=problem["type"],
            loc=problem["loc"],
            input=problem["input"] if problem["loc"][:1] and problem["loc"][0] in _SHOWN else _HIDDEN,
            ctx=problem.get("ctx", {}),
        )
        for problem in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, problems, hide_input=True)


def _is_host(host: str | None) -> bool:
    # SQLAlchemy would write a host with such a character in brackets, like an IPv6 address
    if host is None or not {":", "@", "[", "]"} & set(host):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _reads_back(rendered: str, url: URL) -> bool:
    try:
        return make_url(rendered) == url
    except (ValueError, ArgumentError):
        # e.g. the port is not a number
        return False


class _HidesInput(BaseModel):
    """A model whose errors never show the values of secret fields."""

    model_config = ConfigDict(hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _hide_input(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            hidden = _without_input(error)
        # raised outside the except block, otherwise the first error, with the secret values, would be its context
        raise hidden


class DatabaseSettings(_HidesInput, BaseSettings):
    """The database settings: a URL from IFTB_STORE_URL, or the parts of a PostgreSQL URL from the DB_ variables.

    The parts are DB_HOST, DB_PORT, DB_DATABASE, DB_USERNAME and DB_PASSWORD. IFTB_STORE_URL takes precedence if both are
    set; an empty variable counts as not set. ``pool_size`` (DB_POOL_SIZE) and ``max_overflow`` (DB_MAX_OVERFLOW) are
    arguments for `DatabaseManager` in both cases. If the URL is built from the parts, DB_CONNECT_TIMEOUT, DB_POOL_TIMEOUT,
    DB_STATEMENT_TIMEOUT, DB_SSLMODE and DB_SSLROOTCERT set the URL options connect_timeout, pool_timeout,
    statement_timeout, sslmode and sslrootcert. IFTB_STORE_READ_URL is the URL of a standby, for the argument ``read_url``; it
    does not say which database is used. str() and repr() of the settings never show the password or the URLs.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    url: SecretStr | None = Field(default=None, validation_alias=_URL_VARIABLE)
    read_url: SecretStr | None = Field(default=None, validation_alias=_READ_URL_VARIABLE)
    host: str | None = None
    port: int = Field(default=5432, ge=1, le=65_535)
    database: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    pool_size: int = Field(default=5, ge=1)
    max_overflow: int = Field(default=10, ge=0)
    connect_timeout: str | None = None
    pool_timeout: str | None = None
    statement_timeout: str | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # the frames of the traceback, from pydantic and from this call, would contain the password
            values.clear()
            raise error.with_traceback(None)  # noqa: B904 - it is the same error

    def __setattr__(self, name: str, value: object) -> None:
        # pydantic's own message would show the value
        raise AttributeError(
            f"{name} cannot be set: settings are read-only; set the environment variable, or pass a value to the constructor"
        )

    def get_async_url(self) -> str:
        """Return the URL for `DatabaseManager`, with its password; do not print or log it.

        Returns:
            If IFTB_STORE_URL is set, its value without surrounding white space. If only DB_ variables are set, a PostgreSQL URL.
            Otherwise the URL of the SQLite file ``iftb.db`` in the working directory, and a warning is logged.

        Raises:
            ConfigurationError: a DB_ variable is set, but another variable that PostgreSQL needs is not; the message names
                the missing variables. Or a variable has a value that a URL cannot contain.

        Example:
            # IFTB_STORE_URL is sqlite:///bot.db
            async with DatabaseManager(get_settings().database.get_async_url()) as db:
                db.url  # -> 'sqlite:///bot.db'
        """
        if self.url is not None:
            return self.url.get_secret_value().strip()
        given = self.model_fields_set - {"read_url"}
        if not given:
            said = "neither %s nor any %s variable is set: using the SQLite file %s"
            _log.warning(said, _URL_VARIABLE, _PREFIX, Path(DEFAULT_FILE).absolute())
            if mistyped := _find_mistyped():
                _log.warning(mistyped.rstrip())
            return f"sqlite+aiosqlite:///{DEFAULT_FILE}"
        missing = [_variable(name) for name in _REQUIRED if getattr(self, name) is None]
        if missing:
            present = ", ".join(sorted(map(_variable, given)))
            raise ConfigurationError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, but {present} "
                f"{'is' if len(given) == 1 else 'are'}, which selects PostgreSQL; {_find_mistyped()}set all of them, or only "
                f"{_URL_VARIABLE}"
            )
        self._check_text()
        url = self._postgresql_url()
        rendered = url.render_as_string(hide_password=False)
        if not _is_host(url.host) or not _reads_back(rendered, url):
            # the message does not show the value, which may be a complete URL with a password
            raise ConfigurationError(
                f"{_variable('host')} is neither a host name nor the directory of a socket; set it to the host name only, "
                f"or set {_URL_VARIABLE} to the complete URL"
            )
        return rendered

    def get_read_url(self) -> str | None:
        """Return the URL of the standby for the argument ``read_url`` of `DatabaseManager`, with its password; do not log it.

        Returns:
            The value of IFTB_STORE_READ_URL without surrounding white space; None if it is not set.

        Example:
            # IFTB_STORE_READ_URL is not set
            database = get_settings().database
            DatabaseManager(database.get_async_url(), read_url=database.get_read_url()).url  # -> 'sqlite:///bot.db'
        """
        return None if self.read_url is None else self.read_url.get_secret_value().strip()

    def _check_text(self) -> None:
        secret = "" if self.password is None else self.password.get_secret_value()
        parts = {name: getattr(self, name) for name in ("host", "database", "username", *_OPTIONS)}
        for name, value in {**parts, "password": secret}.items():
            if not is_text(value or ""):
                raise ConfigurationError(f"{_variable(name)} contains bytes that are not UTF-8 text; encode it as UTF-8")

    def _postgresql_url(self) -> URL:
        password = None if self.password is None else self.password.get_secret_value()
        options = {name: str(getattr(self, name)) for name in _OPTIONS if getattr(self, name) is not None}
        url = URL.create("postgresql+asyncpg", self.username, password, database=self.database, query=options)
        if self.host is not None and self.host.startswith("/"):
            # the directory of a Unix socket cannot be the host part of a URL
            return url.update_query_dict({"host": self.host, "port": str(self.port)})
        return url.set(host=self.host, port=self.port)


class Settings(_HidesInput):
    """All settings that iftb-store reads from the environment."""

    database: DatabaseSettings


def get_settings() -> Settings:
    """Read the settings from the current environment variables; each call reads them again.

    Returns:
        The settings; `DatabaseSettings` names the variables.

    Raises:
        ConfigurationError: a variable has an invalid value, e.g. letters in DB_PORT; the message names the variable.

    Example:
        # IFTB_STORE_URL is sqlite:///bot.db
        settings = get_settings()
        (settings.database.get_async_url(), settings.database.pool_size)  # -> ('sqlite:///bot.db', 5)
    """
    try:
        return Settings(database=DatabaseSettings())
    except ValidationError as error:
        problems = [
            f"{_variable(str(problem['loc'][0]))} is {show(problem['input'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False)
        ]
    raise ConfigurationError("; ".join(problems))


def _variable(field: str) -> str:
    return field if field in (_URL_VARIABLE, _READ_URL_VARIABLE) else f"{_PREFIX}{field.upper()}"


def _find_mistyped() -> str:
    """Return a hint that names a set variable that is probably mistyped, and the right name; an empty text without one."""
    known = [_variable(str(field.validation_alias or name)) for name, field in DatabaseSettings.model_fields.items()]
    for name in sorted(os.environ):
        is_unknown = name.upper() not in known and name.upper().startswith((_PREFIX, _URL_VARIABLE[:5]))
        if is_unknown and (near := suggest(name, [word for word in known if word not in os.environ])):
            return f"{to_one_line(name)} is set: {near}"
    return ""


def resolve_url(url: str | None) -> str:
    """Return a database URL, including its password.

    Args:
        url: a URL, which is returned unchanged; env:NAME for the URL in the environment variable NAME; or None for the URL
            from the settings.

    Raises:
        ConfigurationError: the variable of env:NAME is not set, or the settings are incomplete.
    """
    if url is None:
        return get_settings().database.get_async_url()
    if not url.startswith(ENVIRONMENT):
        return url
    name = url.removeprefix(ENVIRONMENT)
    if not name.isidentifier():
        # the message does not show the name, which may be a URL with a password
        raise ConfigurationError(f"{ENVIRONMENT} must be followed by the name of an environment variable, e.g. env:BOT_URL")
    try:
        value = os.environ.get(name, "").strip()
    except UnicodeEncodeError:
        value = ""
    if not value:
        raise ConfigurationError(f"{ENVIRONMENT}{name} was given, but the environment variable {name} is not set")
    return value
