"""Finds the public methods and functions, reads the sections of their docstrings, and runs the examples."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import iftb_store
from iftb_store import sync
from iftb_store.abilities import SupportsCompaction
from iftb_store.analytics.statistics import trade_statistics
from iftb_store.config import DatabaseSettings

#: What users call beside the names of `iftb_store.__all__`.
_BESIDE = (DatabaseSettings, SupportsCompaction, trade_statistics)
#: A line of an example whose value is shown.
_SHOWN = re.compile(r"  # -> (.+)$")


def find_documented() -> dict[str, Any]:
    """Return the public functions, and the public methods and constructors of the public classes, by their names."""
    return _find([*(getattr(iftb_store, name) for name in iftb_store.__all__), *_BESIDE])


def find_blocking() -> dict[str, Any]:
    """Return the public functions and methods of the blocking façade, by their names."""
    classes = [value for name, value in vars(sync).items() if name.startswith("Sync")]
    return _find([*classes, sync.open_store, *(getattr(sync, name) for name in vars(sync)["_FUNCTIONS"])])


def _find(things: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for thing in things:
        if inspect.isfunction(thing):
            found[thing.__name__] = thing
        elif inspect.isclass(thing):
            found |= {f"{thing.__name__}.{name}": method for name, method in _methods(thing)}
            if thing.__doc__ and find_section(thing, "Args"):
                found[thing.__name__] = thing
    return found


def _methods(owner: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the methods of a class that iftb_store defines: the public ones, and the constructor if it has a docstring."""
    for base in owner.__mro__:
        for name, member in vars(base).items() if base.__module__.startswith("iftb_store") else ():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            is_constructor = name == "__init__" and bool(member.__doc__) and member.__module__.startswith("iftb_store")
            if inspect.isfunction(function) and (is_constructor or not name.startswith("_")):
                yield name, function


def find_section(documented: Any, title: str) -> str:
    """Return the text of a section of a docstring, without its indent; empty if the docstring has no such section."""
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", f"{inspect.getdoc(documented)}\n", re.MULTILINE)
    return textwrap.dedent(found[1]).strip() if found else ""


def list_names(section: str) -> list[str]:
    """Return the names that the items of a section explain."""
    return re.findall(r"^([*\w]+): \S", section, re.MULTILINE)


def _list_parameters(documented: Any) -> list[str]:
    """Return the parameters of a function or a constructor, as docstrings name them."""
    parameters = inspect.signature(documented).parameters.values()
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(each.kind, "") + each.name for each in parameters if each.name not in ("self", "cls")]


def find_lacks(documented: Any) -> list[str]:
    """Return what the docstring of a function or a constructor lacks."""
    lacks: list[str] = []
    explained, parameters = list_names(find_section(documented, "Args")), _list_parameters(documented)
    if explained != parameters:
        lacks.append(f"Args explains {explained}, and the parameters are {parameters}")
    returns = "None" if inspect.isclass(documented) else inspect.signature(documented).return_annotation
    if (returns not in ("None", None)) != bool(find_section(documented, "Returns")):
        lacks.append(f"Returns does not match the annotation {returns}")
    if not any(map(_SHOWN.search, find_section(documented, "Example").splitlines())):
        lacks.append("no Example shows a value")
    return lacks


class _Check(ast.NodeTransformer):
    """Replaces each expression whose value a line shows by a call that compares both."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        """Return the statement, or the call of ``check`` with its value and the line's number."""
        if node.end_lineno is None or _SHOWN.search(self.lines[node.end_lineno - 1]) is None:
            return node
        call = ast.Call(ast.Name("check", ast.Load()), [node.value, ast.Constant(node.end_lineno)], [])
        return ast.copy_location(ast.Expr(call), node)


def prepare_example(example: str, names: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], list[str]]]:
    """Return a function that runs an example with these names, or begins it, if it awaits; and one that says what was wrong.

    The second returns, after the run, each shown value that differs from the computed one or was not computed.
    """
    lines = example.splitlines()
    shown = {number: value[1] for number, line in enumerate(lines, 1) if (value := _SHOWN.search(line))}
    wrong = dict.fromkeys(shown, "was not reached")

    def check(value: object, number: int) -> None:
        if repr(value) != shown[number]:
            wrong[number] = f"is {value!r}"
        elif wrong.get(number) == "was not reached":
            del wrong[number]

    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = ast.fix_missing_locations(_Check(lines).visit(compile(example, "example", "exec", flags | ast.PyCF_ONLY_AST)))
    code = compile(tree, "example", "exec", flags)
    return (
        lambda: eval(code, {**names, "check": check}),
        lambda: [f"{lines[number - 1].strip()}: {what}" for number, what in wrong.items()],
    )
