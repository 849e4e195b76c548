"""The code blocks of README.md and docs/: found in a page, and run in turn as a reader would, on the page's engines."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import make_url

from iftb_store.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
#: The languages of blocks that are run, and of what the block before prints.
RUN, PRINTED = ("python", "bash"), "text"
_TIME_LIMIT = 250
#: How the commands of the set-up begin, which CI runs.
SET_UP = "python3 -m venv "

_BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"\b(sqlite|duckdb):///(\w+)\.(?:db|duckdb)\b")
# a block with a word of the shell, or with another program, needs one
_SHELL = re.compile(r"[|<>$;]|^(?!iftb-store |export | |$)", re.MULTILINE)
_SERVER = re.compile(r"postgresql://[^\s\"'`]+")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: the language of the text.
        text: what stands in it.
        printed: what it prints; None if the page does not show that.
        title: the name of the file that it is.
    """

    language: str
    text: str
    printed: str | None = None
    title: str = ""


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page; what a block prints belongs to it."""
    blocks: list[Block] = []
    for indent, words, body in _BLOCK.findall(page.read_text()):
        text = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        language, _, title = words.partition(" ")
        if language == PRINTED and blocks and blocks[-1].printed is None and blocks[-1].language in RUN:
            blocks[-1] = replace(blocks[-1], printed=text)
        else:
            blocks.append(Block(language, text, title=title.removeprefix('title="').removesuffix('"')))
    return blocks


def read_engines(page: Path) -> list[str]:
    """Return the engines of a page's front matter; none if it runs on the URLs as they are written."""
    return _read_matter(page, "engines")


def read_steps(page: Path) -> list[Block]:
    """Return the blocks to run of a page, after those of the pages on which it builds."""
    before = [block for name in _read_matter(page, "after") for block in read_steps(DOCS / name)]
    return [*before, *(block for block in read_blocks(page) if block.language in RUN and not block.text.startswith(SET_UP))]


def _read_matter(page: Path, key: str) -> list[str]:
    found = re.search(rf"\A---\n(?:.+\n)*?{key}: \[(.*)\]\n", page.read_text())
    return found[1].split(", ") if found else []


class Reader:
    """Runs the blocks of one page in a folder: on one engine, or on the URLs as they are written.

    A server that is named in a URL is replaced by a new database of the tests' server: one for each URL.
    """

    def __init__(self, folder: Path, engine: str | None, create_database: Callable[[], AbstractContextManager[str]]) -> None:
        self._folder, self._engine, self._create_database = folder, engine, create_database
        self._servers: dict[str, str] = {}
        self._opened = ExitStack()
        self._variables = self._opened.enter_context(pytest.MonkeyPatch.context())

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def run(self, block: Block) -> str:
        """Run a block and return what it prints.

        Raises:
            subprocess.CalledProcessError: a command has failed.
        """
        text = _SERVER.sub(lambda match: self._find_database(match.group()), self._move(block.text))
        if block.title:
            (self._folder / block.title).write_text(text)
            return ""
        if block.language == "python":
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(text, "block", "exec", dont_inherit=True), {"__name__": "__main__"})
            return printed.getvalue()
        if _SHELL.search(text) is None:
            return self._run_commands(text)
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        command = ["bash", "-euo", "pipefail", "-c", text]
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=_TIME_LIMIT)
        if done.returncode:
            pytest.fail(f"exit code {done.returncode}: {block.text}{done.stdout}{done.stderr}")
        return done.stdout

    def _run_commands(self, text: str) -> str:
        """Run the lines of a block in this process, each of which is a command of iftb-store or sets a variable."""
        printed = io.StringIO()
        for line in text.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line)
            if program == "export":
                name, _, value = words[0].partition("=")
                self._variables.setenv(name, value)
                continue
            with redirect_stdout(printed):
                code = main(words)
            if code:
                pytest.fail(f"exit code {code}: {line}\n{printed.getvalue()}")
        return printed.getvalue()

    def _move(self, text: str) -> str:
        if self._engine is None:
            return text
        if self._engine == "postgresql":
            return _FILE.sub(r"postgresql://bot@server/\2", text)
        return _FILE.sub(rf"{self._engine}:///\2.db", text)

    def _find_database(self, url: str) -> str:
        if url not in self._servers:
            created = make_url(self._opened.enter_context(self._create_database()))
            self._servers[url] = created.update_query_dict(make_url(url).query).render_as_string(hide_password=False)
        return self._servers[url]


def matches(printed: str, shown: str) -> bool:
    """Return whether a text is what a page shows, in which … stands for any text within a line, and a line of … for lines."""
    pattern = re.escape(shown.rstrip()).replace("…\\\n", "(?:.*\\\n)*").replace("…", ".*")
    lines = "\n".join(line.rstrip() for line in printed.splitlines())
    return re.fullmatch(pattern, lines) is not None


def list_links(page: str) -> Iterator[str]:
    """Return the targets of a page's links and pictures."""
    return iter(re.findall(r"\]\(([^)\s]+)\)", re.sub(_BLOCK, "", page)))
