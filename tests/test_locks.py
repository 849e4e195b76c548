"""The lock files name one version and its hashes of all that pyproject.toml asks for, and no registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from noxfile import LOCKS

_ROOT = Path(__file__).parent.parent
_ENTRY = re.compile(r"^([\w.-]+)==(\S+)(?: ; .*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def required(name: str, project: dict[str, Any]) -> list[Requirement]:
    """Return what a lock file is to hold, but for what that needs itself."""
    extras, groups = LOCKS[name]
    own = project["project"]
    words = [
        *(own["dependencies"] if extras else ()),
        *(word for group in groups for word in project["dependency-groups"][group]),
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


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_holds_what_is_required(name: str) -> None:
    text = (_ROOT / "locks" / f"{name}.txt").read_text()
    entries: dict[str, str] = {canonicalize_name(package): version for package, version, _ in _ENTRY.findall(text)}

    # nothing else stands in it
    assert _ENTRY.sub("", text) == ""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    wrong = [str(one) for one in required(name, project) if entries.get(canonicalize_name(one.name), "0") not in one.specifier]
    assert wrong == [], "`nox -s lock` writes the lock files anew"


def test_no_lock_file_names_a_registry() -> None:
    assert [path.name for path in (_ROOT / "locks").iterdir() if "://" in path.read_text()] == []
