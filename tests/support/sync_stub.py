"""Writes the stub of the blocking façade from the async classes: ``python -m tests.support.sync_stub``, or `nox -s stub`."""

from __future__ import annotations

import ast
import builtins
import inspect
import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from iftb_store import sync
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Session

STUB = Path(sync.__file__).with_suffix(".pyi")

_REPOSITORIES = {
    "ohlcv": sync.SyncOHLCVRepository,
    "trades": sync.SyncTradeRepository,
    "positions": sync.SyncPositionRepository,
    "events": sync.SyncSystemEventRepository,
    "fills": sync.SyncFillRepository,
    "ledger": sync.SyncLedgerRepository,
    "balances": sync.SyncBalanceRepository,
}
#: The async names in annotations, and the blocking ones.
_RENAMED = {
    "AbstractAsyncContextManager": "AbstractContextManager",
    "ConnectedStore": "SyncStore",
    "DatabaseManager": "SyncStore",
    "Session": "SyncSession",
    "Stream": "SyncStream",
}
_OWN = {"AbstractContextManager", "Any", "SyncStore", "SyncSession", "SyncStream"}

_BEGIN = '''
"""The types of the blocking façade; written by `nox -s stub` from the async classes."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from iftb_store.repositories.base import Clock

_T = TypeVar("_T")

class SyncStream(Generic[_T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def close(self) -> None: ...
'''

_REPOSITORY = "def __init__(self, session: SyncStore | SyncSession, *, {}clock: Clock = ...) -> None: ..."

_STORE = """
def __enter__(self) -> Self: ...
def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
"""


class _Rename(ast.NodeTransformer):
    """Replaces the async types of an annotation by the blocking ones."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(_RENAMED.get(node.id, node.id))

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Awaitable":
            visited: ast.AST = self.visit(node.slice)
            return visited
        return self.generic_visit(node)


class _Module:
    """The source of a module: its functions and classes, and where its names come from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tree = ast.parse(inspect.getsource(import_module(name)))
        self.imports: dict[str, ast.stmt] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    one = ast.ImportFrom(node.module, [alias], 0) if isinstance(node, ast.ImportFrom) else ast.Import([alias])
                    self.imports[alias.asname or alias.name] = one

    def find_import(self, name: str) -> ast.stmt | None:
        """Return the statement that imports a name of this module elsewhere; None for a built-in or a name of the stub."""
        if name in _OWN or hasattr(builtins, name):
            return None
        return self.imports.get(name) or ast.ImportFrom(self.name, [ast.alias(name)], 0)


class Stub:
    """The stub, and the imports that its annotations need."""

    def __init__(self) -> None:
        self._imports: set[str] = set()
        self._body = ast.parse(_BEGIN).body
        for blocking in _REPOSITORIES.values():
            account = "" if blocking is sync.SyncOHLCVRepository else "account: str | None = None, "
            self._add_class(blocking, vars(blocking)["_source"], _REPOSITORY.format(account))
        properties = "".join(f"@property\ndef {name}(self) -> {kind.__name__}: ...\n" for name, kind in _REPOSITORIES.items())
        self._add_class(sync.SyncSession, Session, properties)
        self._add_class(sync.SyncStore, DatabaseManager, _STORE + properties)
        for name, module in vars(sync)["_FUNCTIONS"].items():
            self._body += self._convert(_Module(module), name, _Module(module).tree.body, getattr(sync, name))
        opened = self._convert(_Module(DatabaseManager.__module__), "__init__", _body_of(DatabaseManager), sync.open_store)
        for node in opened:
            assert isinstance(node, ast.FunctionDef)
            node.name, node.args.args = "open_store", node.args.args[1:]
            node.returns = ast.Name("SyncStore")
        self._body += opened

    def __str__(self) -> str:
        """Return the source of the stub."""
        doc, *rest = self._body
        imports = [node for text in sorted(self._imports) for node in ast.parse(text).body]
        return ast.unparse(ast.Module([doc, *imports, *rest], [])) + "\n"

    def _add_class(self, blocking: type[Any], source: type[Any], own: str) -> None:
        members = ast.parse(own).body
        if blocking is sync.SyncStore:
            members += self._convert(_Module(source.__module__), "__init__", _body_of(source), blocking.__init__)
        for name in _list_members(source):
            if hasattr(blocking, name):
                (owner,) = [base for base in source.__mro__ if name in vars(base)][:1]
                members += self._convert(_Module(owner.__module__), name, _body_of(owner), getattr(blocking, name))
        doc = _first_line(blocking)
        (written,) = ast.parse(f"class {blocking.__name__}: ...").body
        assert isinstance(written, ast.ClassDef)
        written.body = [doc, *members]
        self._body.append(written)

    def _convert(self, module: _Module, name: str, body: Sequence[ast.stmt], blocking: Any) -> list[ast.stmt]:
        """Return the blocking signatures of a function: one, or one per overload."""
        found = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name]
        converted: list[ast.stmt] = []
        for node in found[:-1] or found:
            arguments: ast.arguments = _Rename().visit(node.args)
            arguments.defaults = [_shorten(value) for value in arguments.defaults]
            arguments.kw_defaults = [value and _shorten(value) for value in arguments.kw_defaults]
            returns = None if node.returns is None else _Rename().visit(node.returns)
            if name == "ability":
                # the ability's methods block, which its Protocol cannot say
                returns = ast.Name("Any")
            used = [each.annotation for each in ast.walk(arguments) if isinstance(each, ast.arg)] + [
                returns,
                *node.decorator_list,
            ]
            for place in ast.walk(ast.Tuple([each for each in used if each is not None])):
                if isinstance(place, ast.Name) and (needed := module.find_import(place.id)) is not None:
                    self._imports.add(ast.unparse(needed))
            (written,) = ast.parse(f"def {name}(): ...").body
            assert isinstance(written, ast.FunctionDef)
            written.args, written.returns, written.decorator_list = arguments, returns, node.decorator_list
            written.body = [_first_line(blocking)]
            converted.append(written)
        return converted


def _shorten(default: ast.expr) -> ast.expr:
    """Return a default value if it is a literal, otherwise an ellipsis."""
    try:
        ast.literal_eval(default)
    except ValueError:
        return ast.Constant(...)
    return default


def _first_line(documented: Any) -> ast.Expr:
    """Return the first line of a docstring, or an ellipsis if there is none."""
    return ast.Expr(ast.Constant((documented.__doc__ or "").strip().partition("\n")[0] or ...))


def _body_of(source: type[Any]) -> list[ast.stmt]:
    """Return the statements of a class."""
    tree = _Module(source.__module__).tree
    return next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == source.__name__)


def _list_members(source: type[Any]) -> list[str]:
    """Return the public members of a class and its bases, in the order of their definition."""
    names = [name for base in source.__mro__ for name in vars(base) if base.__module__.startswith("iftb_store")]
    return [name for name in dict.fromkeys(names) if not name.startswith("_") and _is_method_or_property(source, name)]


def _is_method_or_property(source: type[Any], name: str) -> bool:
    """Return whether a member of a class is a method or a property."""
    member = inspect.getattr_static(source, name)
    return inspect.isfunction(member) or isinstance(member, property)


def normalise(text: str) -> tuple[list[str], str]:
    """Return the imports and the rest of a stub, regardless of the format."""
    body = ast.parse(text).body
    imports = [
        ast.unparse(ast.ImportFrom(node.module, [alias], 0) if isinstance(node, ast.ImportFrom) else ast.Import([alias]))
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    rest = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return sorted(set(imports)), ast.dump(ast.Module(rest, []))


def main() -> None:
    """Write the stub, formatted by ruff if it is installed."""
    STUB.write_text(str(Stub()))
    if ruff := shutil.which("ruff"):
        subprocess.run([ruff, "check", "--quiet", "--fix", "--select", "F,I", str(STUB)], check=True)
        subprocess.run([ruff, "format", "--quiet", str(STUB)], check=True)


if __name__ == "__main__":
    main()
