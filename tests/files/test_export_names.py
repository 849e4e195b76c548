"""The files under an export's name, beside databases, concurrent exports and the remains of a killed one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import InvalidValueError
from iftb_store.cli import main
from iftb_store.files.outputs import new_file, new_folder

Open = Callable[..., Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fill_file(stream: Any) -> None:
    stream.write(b"whole")


def fill_folder(folder: Path) -> None:
    (folder / "exchange=x").mkdir()
    (folder / "exchange=x" / "bars.parquet").write_bytes(b"whole")


KINDS = pytest.mark.parametrize(("begin", "fill"), [(new_file, fill_file), (new_folder, fill_folder)], ids=["file", "folder"])


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_no_database_is_overwritten(engine: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    url: str = request.getfixturevalue(f"{engine}_url")
    path = url.removeprefix(f"{engine}:///")
    assert main(["migrate", url]) == 0

    codes = [
        main(["export", url, "-o", name, "--format", "csv", "--overwrite"]) for name in (path, f"{path}-journal", f"{path}.wal")
    ]

    assert codes == [2, 2, 2]
    assert capsys.readouterr().err.count("give another name") == 3
    assert main(["status", url, "--json"]) == 0


@KINDS
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_of_two_exports_to_one_name_the_second_is_refused(begin: Open, fill: Callable[[Any], None]) -> None:
    with begin(Path("bars"), overwrite=False) as first:
        fill(first)
        with pytest.raises(OperationalError, match="another export to 'bars' is running"), begin(Path("bars"), overwrite=False):
            pass

    assert [path.read_bytes() for path in Path().rglob("*") if path.is_file()] == [b"whole"]
    assert [path.name for path in Path().iterdir()] == ["bars"]


@KINDS
def test_a_file_that_takes_the_name_meanwhile_stays(begin: Open, fill: Callable[[Any], None]) -> None:
    with pytest.raises(InvalidValueError, match="already exists"), begin(Path("bars"), overwrite=False) as made:  # noqa: PT012
        fill(made)
        Path("bars").write_text("dear")

    assert Path("bars").read_text() == "dear"
    assert [path.name for path in Path().iterdir()] == ["bars"]


def test_what_a_killed_export_left_is_written_over() -> None:
    Path("bars.partial").write_bytes(b"half of a file that was longer")

    with new_file(Path("bars"), overwrite=False) as made:
        fill_file(made)

    assert Path("bars").read_bytes() == b"whole"
    assert [path.name for path in Path().iterdir()] == ["bars"]


def test_a_folder_that_a_killed_export_put_aside_is_back_if_the_next_one_fails() -> None:
    Path("bars.old").mkdir()
    fill_folder(Path("bars.old"))

    with pytest.raises(OSError, match="full"), new_folder(Path("bars"), overwrite=False):
        raise OSError("full")

    assert Path("bars/exchange=x/bars.parquet").read_bytes() == b"whole"
    assert [path.name for path in Path().iterdir()] == ["bars"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.hardlink_to("dear"), lambda path: path.symlink_to("dear")])
def test_an_existing_file_that_no_export_made_stays(put: Callable[[Path], None]) -> None:
    Path("dear").write_text("dear")
    put(Path("bars.partial"))

    with pytest.raises((InvalidValueError, OSError)), new_file(Path("bars"), overwrite=False):
        pass

    assert Path("dear").read_text() == "dear"
    assert sorted(path.name for path in Path().iterdir()) == ["bars.partial", "dear"]
