"""Shows the examples of docstrings as code on the site: an extension of mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(Example:\n)((?: {4}.*\n?|\n)+)", re.MULTILINE)


class Examples(griffe.Extension):
    """Puts the text of each example into a block of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object when it is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_to_block, obj.docstring.value)


def _to_block(match: re.Match[str]) -> str:
    return f"{match[1]}    ```python\n{match[2].rstrip()}\n    ```\n"
