"""The command ``iftb-store``: the list of its commands, and the conversion of errors to messages and exit codes."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from typer.exceptions import TyperException

from iftb_store._io.atomic_files import private_files
from iftb_store._version import __version__
from iftb_store.cli import backups, data, demo, files, schema, transfer
from iftb_store.cli.compact import compact
from iftb_store.cli.completion import join_words_of_bash
from iftb_store.cli.doctor import doctor
from iftb_store.cli.output import GIVEN, print_error, say
from iftb_store.cli.partitions import partitions
from iftb_store.cli.performance import performance
from iftb_store.cli.prune import prune, rollup
from iftb_store.cli.report import report
from iftb_store.cli.target import Terminated, is_url
from iftb_store.config import ENVIRONMENT, resolve_url
from iftb_store.errors import InvalidValueError, StoreError
from iftb_store.url import bound_memory, parse_url, quote_url
from iftb_store.values.display import hide_password, to_one_line

FAILURE = 1
WRONG_USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

_DEBUG = "--debug"

app = typer.Typer(
    name="iftb-store",
    help="Candles, trades, positions and events of a trading bot, on PostgreSQL, SQLite or DuckDB.",
    epilog=(
        "URL is a database URL (sqlite:///bot.db, duckdb:///research.duckdb, postgresql://user@host/name), or env:NAME to "
        "read the URL from the environment variable NAME. Without a URL, a command uses IFTB_STORE_URL; if that is not set, "
        "DB_HOST, DB_DATABASE, DB_USERNAME and DB_PASSWORD; if none of these is set, the file iftb.db in the current "
        "directory. The first argument is read as a URL if it contains :// or starts with env:, otherwise as the argument "
        "that follows the URL. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."
    ),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iftb-store {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error; also allowed after the command.")] = False,
) -> None:
    pass


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "migrate": schema.migrate,
    "status": schema.status,
    "doctor": doctor,
    "export": files.export,
    "import": files.import_,
    "copy": transfer.copy,
    "verify": transfer.verify,
    "gaps": data.gaps,
    "latest": data.latest,
    "stats": data.stats,
    "performance": performance,
    "report": report,
    "positions": data.positions,
    "events": data.events,
    "backup": backups.backup,
    "restore": backups.restore,
    "compact": compact,
    "partitions": partitions,
    "prune": prune,
    "rollup": rollup,
}

for _name, _command in _COMMANDS.items():
    # the terminal wraps the text at its own width, so the docstring's line breaks are removed
    _paragraphs = (inspect.getdoc(_command) or "").split("\n\n")
    app.command(_name, help="\n\n".join(" ".join(paragraph.split()) for paragraph in _paragraphs))(_command)


@private_files()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    debug = _DEBUG in options
    rest = [word for word in options if word != _DEBUG] + words[len(options) :]
    GIVEN.set(_find_given_urls(options))
    if isinstance(sys.stdout, TextIOWrapper):
        # a character that the terminal cannot show must not stop a command
        sys.stdout.reconfigure(errors="backslashreplace")
    join_words_of_bash()
    try:
        # for shell completion Typer raises SystemExit, which is not caught here
        code = app(rest, prog_name="iftb-store", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # discard the rest of the buffer, or Python reports the broken pipe again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except Exception as error:
        if debug:
            for line in hide_password(traceback.format_exc()).splitlines():
                say(line, stderr=True)
        message, code = _explain(error, debug)
        if message:
            print_error(message)
        return code
    return code if isinstance(code, int) else 0


def _find_given_urls(words: Sequence[str]) -> dict[str, str]:
    """Return the argument (a URL or env:NAME) for each URL that the command opens; a copy adds memory limits to its URLs."""
    found: dict[str, str] = {}
    for word in filter(is_url, words):
        # the command itself reports a wrong word
        with suppress(StoreError):
            url = parse_url(resolve_url(word))
            given = word if word.startswith(ENVIRONMENT) else quote_url(url)
            found |= {quote_url(url): given, quote_url(bound_memory(url)): given}
    return found


def _explain(error: Exception, debug: bool) -> tuple[str, int]:
    """Return an error's message in one line, and the exit code."""
    if isinstance(error, TyperException):
        # without arguments Typer has printed the help already, and the message is empty
        message = to_one_line(error.format_message()).rstrip(".")
        return message and f"{message} (see iftb-store --help)", error.exit_code
    if isinstance(error, InvalidValueError):
        return str(error), WRONG_USAGE
    if isinstance(error, StoreError):
        return str(error), FAILURE
    if isinstance(error, DBAPIError):
        return str(error.orig), FAILURE
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", FAILURE
    kind = "" if isinstance(error, SQLAlchemyError | OSError) else f"{type(error).__name__}: "
    hint = "" if debug else f"; {_DEBUG} shows the traceback"
    return f"{kind}{to_one_line(str(error))}{hint}", FAILURE
