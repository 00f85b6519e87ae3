"""How commands print: the same value as a table for people or as JSON for programs."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import click

from tidemill.core.clock import elapsed
from tidemill.core.codec import encode_text

F = TypeVar("F", bound=Callable[..., Any])
Branch = tuple[str, Sequence["Branch"]]
_EVERY_S = 0.1
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
MOMENTS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M")
"""Forms in which a moment may be typed."""


def json_option(command: F) -> F:
    """Give a command its --json flag."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def emit(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a value as JSON, or as what text makes of it."""
    click.echo(encode_text(value, indent=2) if as_json else text())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "none") -> str:
    """Return rows as aligned text under a heading; numbers to the right."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        return empty
    widths = [max(len(line[number]) for line in [list(columns), *cells]) for number in range(len(columns))]
    numeric = [all(_is_number(line[number]) for line in cells) for number in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        parts = [value.rjust(width) if right else value.ljust(width) for value, width, right in zip(values, widths, numeric, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(columns)), line(["-" * width for width in widths]), *map(line, cells)])


def tree(branch: Branch) -> str:
    """Return a branch with all below it as lines, drawn as a tree."""
    head, below = branch
    lines = [head]
    for number, each in enumerate(below):
        last = number == len(below) - 1
        first, *rest = tree(each).splitlines() or [""]
        lines.append(f"{'└' if last else '├'}─ {first}")
        lines += [f"{' ' if last else '│'}  {line}" for line in rest]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """Return one value as a short text."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def size_text(size_bytes: float) -> str:
    """Return a number of bytes as people say it."""
    size = float(size_bytes)
    for unit in UNITS:
        if abs(size) < 1000 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable: the last unit takes everything")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what is told how many of how many are done and shows it, on a terminal; None where nobody watches."""
    if not on_terminal():
        yield None
        return
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        if (now := elapsed()) - shown > _EVERY_S:
            shown = now
            click.echo(f"\r\033[K{done:,} of {total:,} {what}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\033[K", nl=False, err=True)


def on_terminal() -> bool:
    """Whether somebody watches: progress is shown on a terminal and kept out of pipes."""
    return sys.stderr.isatty()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True
