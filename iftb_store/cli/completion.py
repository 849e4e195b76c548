"""What a shell completes beside commands and options: what one of a few may stand; and bash's words, put together again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import typer

from iftb_store.cli.target import is_url
from iftb_store.values.timeframes import TIMEFRAMES

_COMPLETE = "_IFTB_STORE_COMPLETE"


def one_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes the beginning of one of these."""

    def completed(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return completed


timeframes = one_of(TIMEFRAMES)


def timeframes_without_url(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return them where a symbol would stand if a URL had been given, which may be left out."""
    first = ctx.params.get("url")
    return timeframes(incomplete) if isinstance(first, str) and not is_url(first) else []


def join_words_of_bash() -> None:
    """Undo that bash takes a word apart at each colon, so that a URL in front does not look like three arguments."""
    if os.environ.get(_COMPLETE) != "complete_bash":
        return
    words, here = os.environ.get("COMP_WORDS", "").split("\n"), int(os.environ.get("COMP_CWORD", "0"))
    joined: list[str] = []
    gone = 0
    for index, word in enumerate(words):
        if joined and (word == ":" or (index and words[index - 1] == ":")):
            joined[-1] += word
            gone += index <= here
        else:
            joined.append(word)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(here - gone)
