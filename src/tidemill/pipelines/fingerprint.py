"""Fingerprints: what the code of a step is, together with all code of the project that it reaches.

Comments, docstrings and layout do not count; a helper's body, a constant and the version of an imported library do.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tidemill.core.digest import digest_value
from tidemill.core.ids import Digest


def code_digest(function: Any, *, root: Path) -> Digest:
    """Return the digest of a function and of every function, class and constant of the project under root that it reaches."""
    parts: dict[str, str] = {}
    _visit(_unwrapped(function), root.resolve(), parts)
    return digest_value(parts)


def _visit(thing: Any, root: Path, parts: dict[str, str]) -> None:
    name = f"{thing.__module__}:{thing.__qualname__}"
    if name in parts:
        return
    parts[name] = _source(thing)
    functions = [thing] if isinstance(thing, FunctionType) else [m for m in vars(thing).values() if isinstance(m, FunctionType)]
    for function in functions:
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            parts[f"{name} default {default!r}"] = ""
        for cell in function.__closure__ or ():
            _reach(name, "closure", cell.cell_contents, root, parts, set())
        words = set(_words(function.__code__))
        for word in sorted(words):
            if word in function.__globals__:
                _reach(name, word, function.__globals__[word], root, parts, words)


def _reach(user: str, word: str, value: Any, root: Path, parts: dict[str, str], words: set[str]) -> None:
    value = _unwrapped(value)
    if isinstance(value, ModuleType):
        if _inside(getattr(value, "__file__", None), root):
            for attribute in sorted(words & set(vars(value))):
                _reach(user, attribute, getattr(value, attribute), root, parts, words)
        else:
            _library(value.__name__, parts)
    elif isinstance(value, (FunctionType, type)):
        module = inspect.getmodule(value)
        if module is not None and _inside(getattr(module, "__file__", None), root):
            _visit(value, root, parts)
        elif module is not None:
            _library(module.__name__, parts)
    else:
        parts[f"{user} constant {word}"] = repr(value)


def _library(module: str, parts: dict[str, str]) -> None:
    top = module.partition(".")[0]
    loaded = inspect.sys.modules.get(top)  # type: ignore[attr-defined]
    parts[f"library {top}"] = str(getattr(loaded, "__version__", ""))


def _source(thing: Any) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            node.decorator_list = [] if node is tree.body[0] else node.decorator_list
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _words(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)


def _unwrapped(thing: Any) -> Any:
    while hasattr(thing, "__wrapped__") and not isinstance(thing, type):
        thing = thing.__wrapped__
    return thing


def _inside(file: str | None, root: Path) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(root)
