"""The lock files name one version and its hashes for every requirement of pyproject.toml, and no registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parent.parent
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_ENTRY = re.compile(r"^([\w.-]+)==(\S+)(?: ; .*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def list_required(held: dict[str, list[str]]) -> list[Requirement]:
    """Return the requirements that a lock file must contain, without their own dependencies."""
    extras, groups = held["extras"], held["groups"]
    own = _PROJECT["project"]
    words = [
        *(own["dependencies"] if extras else ()),
        *(word for group in groups for word in _PROJECT["dependency-groups"][group]),
    ]
    waiting = list(extras)
    while waiting:
        for word in own["optional-dependencies"][waiting.pop()]:
            one = Requirement(word)
            if one.name == own["name"]:
                waiting += one.extras
            else:
                words.append(word)
    return [Requirement(word) for word in words]


@pytest.mark.parametrize(("name", "held"), _PROJECT["tool"]["iftb-store"]["locks"].items())
def test_a_lock_file_holds_what_is_required(name: str, held: dict[str, list[str]]) -> None:
    text = (_ROOT / "locks" / f"{name}.txt").read_text()
    entries: dict[str, str] = {canonicalize_name(package): version for package, version, _ in _ENTRY.findall(text)}

    # it contains nothing else
    assert _ENTRY.sub("", text) == ""
    wrong = [str(one) for one in list_required(held) if entries.get(canonicalize_name(one.name), "0") not in one.specifier]
    assert wrong == [], "`nox -s lock` writes the lock files anew"


def test_no_lock_file_names_a_registry() -> None:
    assert [path.name for path in (_ROOT / "locks").iterdir() if "://" in path.read_text()] == []
