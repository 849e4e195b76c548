"""Child processes that run every command that reads a database on one file, and report its output, time and memory."""

from __future__ import annotations

import contextlib
import io
import os
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from iftb_store.cli import main
from tests.faults.children import forkserver
from tests.faults.tally import PATIENCE

#: Seconds of CPU time that a command may take, and KiB of memory that its process may use.
LONGEST, LARGEST = 20.0, 600 << 10


@dataclass(frozen=True)
class Said:
    """The result of a command."""

    command: str
    code: int
    out: str
    err: str
    seconds: float
    memory: int

    @property
    def clear(self) -> bool:
        """Whether it is a success, or a refusal in one line of iftb-store."""
        unclear = ("Traceback" in self.err, "--debug" in self.err, "\x1b" in self.out + self.err)
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        # these two print all findings, then exit with 1
        return not any(unclear) and (self.code == 0 or len(lines) == 1 or self.command in ("doctor", "verify"))


def commands(url: str, whole: str) -> list[tuple[str, ...]]:
    """Return the commands; ``whole`` is the URL of an undamaged store."""
    path = url.partition(":///")[2]
    return [
        ("status", url),
        ("events", url),
        ("doctor", url),
        ("verify", url, whole),
        ("copy", url, "sqlite:///copied.db"),
        ("restore", path, "sqlite:///restored.db"),
        ("export", url, "--table", "system_events", "-o", "events.csv"),
        ("backup", url, "saved"),
        ("copy", whole, url),
    ]


def work(words: tuple[str, ...], folder: str, answer: Connection) -> None:
    """Run a command in a folder; send its output and the peak memory of this process."""
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer.send(Said(words[0], code, out.getvalue(), err.getvalue(), used.ru_utime + used.ru_stime, used.ru_maxrss))


def run(words: tuple[str, ...], folder: Path) -> Said | str:
    """Run a command in a separate process; return its result, or why there is none."""
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=work, args=(words, str(folder), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            return f"{words[0]} did not end"
        said: Said = ours.recv()
    except EOFError:
        child.join()
        return f"{words[0]} died with {child.exitcode}"
    finally:
        child.kill()
        child.join()
    return said


def run_all(url: str, whole: str, folder: Path) -> tuple[list[Said], list[str]]:
    """Run every command; return the results, and the problems with them."""
    ended = [run(words, folder) for words in commands(url, whole)]
    said = [one for one in ended if isinstance(one, Said)]
    wrong = [one for one in ended if isinstance(one, str)]
    wrong += [f"{one.command} took {one.seconds:.0f} s" for one in said if one.seconds > LONGEST]
    wrong += [f"{one.command} held {one.memory >> 10} MiB" for one in said if one.memory > LARGEST]
    wrong += [f"{one.command} ended with {one.code}: {one.out[-300:]!r} {one.err[-900:]!r}" for one in said if not one.clear]
    return said, wrong
