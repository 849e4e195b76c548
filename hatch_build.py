"""The description of the package on an index: README.md, without the links that lead into the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def write_description(readme: str) -> str:
    """Return the README with links to other hosts only: a link into the repository becomes text and path."""
    text = re.sub(r"^!\[[^\]]*\]\((?!https?://)[^)]*\)\n\n", "", readme, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\(\1\)", r"\1", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?://|#)([^)]*)\)", r"\1 (`\2`)", text)


class Description(MetadataHookInterface):
    """Sets the readme."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the field that pyproject.toml declares as dynamic."""
        text = write_description(Path(self.root, "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
