"""`tidemill data describe`: what the columns of a version are like."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import cell, emit, json_option, table
from tidemill.datasets import profile
from tidemill.datasets.measures import ColumnProfile, Histogram
from tidemill.datasets.profile import Profile

_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDTH = 24
_PAIRS = 5


@click.command()
@click.argument("reference")
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@workspace_options
@json_option
def describe(reference: str, fresh: bool, home: Path | None, project: str | None, as_json: bool) -> None:
    """Tell what the columns of a version are like: missing and distinct values, spread, shape, the commonest value, correlations.

    Measured once and kept with the version. A ~ stands before what was estimated; --json tells all.
    """
    found = profile.describe(opened(home, project), reference, fresh=fresh)
    emit(found, as_json=as_json, text=lambda: _told(found))


def _told(found: Profile) -> str:
    measures = found.measures
    again = f"{'' if measures.duplicates_exact else '~'}{measures.duplicate_rows} of them repeat another"
    head = f"{found.name}@{found.version}  {measures.rows} rows, {again}; {len(measures.columns)} columns"
    columns = ("column", "type", "missing", "distinct", "least", "median", "greatest", "mean", "std", "shape", "commonest")
    lines = [head, table(columns, [_row(column, measures.rows) for column in measures.columns])]
    if constant := [column.name for column in measures.columns if column.constant]:
        lines.append(f"constant: {', '.join(constant)}")
    if pairs := measures.correlations[:_PAIRS]:
        lines.append("correlated: " + ", ".join(f"{pair.left} and {pair.right} {pair.r:+.2f}" for pair in pairs))
    return "\n".join(lines)


def _row(column: ColumnProfile, rows: int) -> tuple[object, ...]:
    numbers = column.numbers
    common = column.top[0] if column.top and column.top[0].count > 1 else None
    return (
        column.name,
        column.type,
        f"{column.missing / rows:.1%}" if column.missing else "0",
        f"{'' if column.distinct_exact else '~'}{column.distinct}",
        _cut(column.least),
        _cut(column.quantiles.get("0.5")),
        _cut(column.greatest),
        numbers.mean if numbers is not None else None,
        numbers.std if numbers is not None else None,
        blocks(column.histogram) if column.histogram is not None else None,
        f"{_cut(common.value)} ({common.count / rows:.0%})" if common is not None else None,
    )


def blocks(histogram: Histogram) -> str:
    """Return a histogram as one line: a bin is a block as high as its count, an empty one a space."""
    most = max(histogram.counts)
    return "".join(" " if count == 0 else _HEIGHTS[(count * len(_HEIGHTS) - 1) // most if most else 0] for count in histogram.counts)


def _cut(value: object) -> str:
    text = cell(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
