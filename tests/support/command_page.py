"""Writes the sections of docs/command.md from the commands, and its picture: ``python -m tests.support.command_page``."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.main import get_command

from iftb_store.cli import app
from tests.support.documents import DOCS, read_blocks

PAGE = DOCS / "command.md"
PICTURE = DOCS / "pictures" / "terminal.svg"
BEGIN, END = "<!-- commands: begin -->\n", "<!-- commands: end -->\n"

# the fonts of Rich's own form are loaded from another host
_SVG = """\
<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>A terminal with the output of iftb-store</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
{styles}
</style>
<rect width="{terminal_width}" height="{terminal_height}" rx="8" fill="#1f2530"/>
<g transform="translate(16, 12)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
_WIDTH = 92


def write_commands() -> str:
    """Return a section for each command: its help, and its arguments and options."""
    # typer has no types for its parameters
    commands: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009
    return "\n".join(_section(name, command) for name, command in commands.items())


def _section(name: str, command: Any) -> str:
    arguments = [_show_argument(one) for one in command.params if one.param_type_name == "argument"]
    lines = [f"### {name}", "", f"`{' '.join(['iftb-store', name, *arguments])}`", "", _escape(command.help), ""]
    lines += ["| argument, option | meaning |", "|---|---|", *map(_row, command.params)]
    return "\n".join(lines) + "\n"


def _show_argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    dots = "…" if parameter.nargs == -1 else ""
    return f"{name}{dots}" if parameter.required else f"[{name}{dots}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = _show_argument(parameter)
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or 'TEXT'}"
        name = ", ".join(parameter.opts) + value
    text = _escape(parameter.help)
    given = parameter.default
    if given not in (None, False, (), []) and parameter.show_default and "default" not in text:
        text += f" Default: `{given}`."
    return f"| `{name}` | {text} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def draw_terminal() -> str:
    """Return the picture: what the commands of the page print on the bars of the quickstart."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    bars = read_blocks(DOCS / "quickstart.md")[0]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", bars.text], cwd=folder, check=True, capture_output=True)
        for words in _read_commands():
            console.print(Text(f"$ {words}", style="bold #7fd1c7"))
            environment = {**os.environ, "COLUMNS": str(_WIDTH), "FORCE_COLOR": "1"}
            command = [sys.executable, "-m", *words.replace("iftb-store", "iftb_store", 1).split()]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            console.print(Text.from_ansi(done.stdout.rstrip()))
            console.print()
    return console.export_svg(title="", code_format=_SVG, unique_id="terminal")


def _read_commands() -> Iterator[str]:
    """Return the commands of the page's first block that only read."""
    for line in read_blocks(PAGE)[0].text.splitlines():
        if line.startswith(("iftb-store gaps", "iftb-store latest")):
            yield line


def main() -> None:
    """Write the page and the picture."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + write_commands() + END + rest.partition(END)[2])
    PICTURE.write_text(draw_terminal())


if __name__ == "__main__":
    main()
