"""Shell completion of argument values, and a fix for how bash splits a URL at its colons."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import typer

from iftb_store.cli.target import is_url
from iftb_store.values.timeframes import TIMEFRAMES

_COMPLETE = "_IFTB_STORE_COMPLETE"


def one_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function for shell completion: given an incomplete word, it returns the ``values`` that begin with the word."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


timeframes = one_of(TIMEFRAMES)


def timeframes_without_url(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the second argument: suggest timeframes if the first is a symbol; nothing if the first is a URL."""
    first = ctx.params.get("url")
    return timeframes(incomplete) if isinstance(first, str) and not is_url(first) else []


def join_words_of_bash() -> None:
    """Join the words that bash splits at each colon, so that a URL is not read as three arguments."""
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
