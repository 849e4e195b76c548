"""The table that a soak ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.tally import Tally


def entry(**changes: object) -> str:
    plain = {"fault": "writer killed", "engine": "sqlite", "rounds": 20, "lost": 0, "duplicated": 0, "hung": 0}
    return json.dumps({**plain, **changes})


def written(folder: Path, *lines: str) -> str:
    path = folder / "report.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_the_figures_of_one_fault_on_one_engine_are_summed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(written(tmp_path, entry(), entry(rounds=1_480))) == 0
    assert [word.strip() for word in capsys.readouterr().out.splitlines()[3].split("│")[1:-1]] == [
        "writer killed", "sqlite", "1,500", "0", "0", "0"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["lost", "duplicated", "hung"])
def test_one_figure_that_is_not_zero_is_a_failure(tmp_path: Path, kind: str) -> None:
    assert table.main(written(tmp_path, entry(), entry(**{kind: 1}))) == 1


def test_a_soak_that_did_nothing_is_a_failure(tmp_path: Path) -> None:
    assert table.main(written(tmp_path)) == 1


def test_a_page_keeps_the_text_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.main(written(tmp_path, entry()), str(page))
    assert page.read_text() == (
        f"before\n{table.BEGIN}\n| fault | engine | rounds | lost | duplicated | hung |\n|---|---|--:|--:|--:|--:|\n"
        f"| writer killed | sqlite | 20 | 0 | 0 | 0 |\n{table.END}\nafter\n"
    )


def test_a_tally_with_a_loss_is_reported_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFTB_STORE_SOAK_REPORT", str(tmp_path / "report.jsonl"))
    tally = Tally("writer killed", "sqlite")
    with tally.round():
        tally.note("lost", "bar 7")
    with tally.round():
        raise TimeoutError("it waits still")
    with pytest.raises(LookupError), tally.round():
        raise LookupError
    with pytest.raises(AssertionError, match="bar 7"):
        tally.close()
    assert json.loads((tmp_path / "report.jsonl").read_text()) == json.loads(entry(rounds=3, lost=2, hung=1))
