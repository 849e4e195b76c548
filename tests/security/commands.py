"""A child that runs every command that reads a database on one file, and reports what each said and what it took."""

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

#: Seconds of a processor that a command may take, however busy the machine is, and KiB that its process may hold.
LONGEST, LARGEST = 20.0, 600 << 10


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    command: str
    code: int
    out: str
    err: str
    seconds: float

    @property
    def clear(self) -> bool:
        """Whether it is a success, or a refusal in one line of ours."""
        unclear = ("Traceback" in self.err, "--debug" in self.err, "\x1b" in self.out + self.err)
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        # these two name all that they find, and end with 1 then
        return not any(unclear) and (self.code == 0 or len(lines) == 1 or self.command in ("doctor", "verify"))


def commands(url: str, whole: str) -> list[tuple[str, ...]]:
    """Return the commands; ``whole`` is the URL of a store that nobody has touched."""
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


def work(url: str, whole: str, folder: str, told: Connection) -> None:
    """Run the commands in a folder; report each, then the most memory that this process held."""
    os.chdir(folder)
    for words in commands(url, whole):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            before = _spent()
            code = main(list(words))
        told.send(Said(words[0], code, out.getvalue(), err.getvalue(), _spent() - before))
    told.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run_all(url: str, whole: str, folder: Path) -> tuple[list[Said], list[str]]:
    """Run the commands in a child; return what each said, and what was wrong with them."""
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=work, args=(url, whole, str(folder), theirs), daemon=True)
    child.start()
    theirs.close()
    said: list[Said] = []
    wrong: list[str] = []
    expected = commands(url, whole)
    try:
        for words in expected:
            if not ours.poll(PATIENCE):
                wrong.append(f"{words[0]} did not end")
                return said, wrong
            said.append(ours.recv())
        most = ours.recv()
        if most > LARGEST:
            wrong.append(f"the process held {most >> 10} MiB")
    except EOFError:
        child.join()
        wrong.append(f"{expected[len(said)][0]} died with {child.exitcode}")
    finally:
        child.kill()
        child.join()
    wrong += [f"{one.command} took {one.seconds:.0f} s" for one in said if one.seconds > LONGEST]
    wrong += [f"{one.command} ended with {one.code}: {one.out[-300:]!r} {one.err[-900:]!r}" for one in said if not one.clear]
    return said, wrong
