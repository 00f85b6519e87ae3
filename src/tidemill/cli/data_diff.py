"""`tidemill data diff`: how two versions differ."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.datasets.diff import DatasetDiff, RowExample, diff_versions

_SHOWN = 10


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--key", multiple=True, help="Column that tells rows apart; several as A,B. Without it a row is what all its columns say.")
@click.option("--check", is_flag=True, help="Exit with 1 when they differ.")
@workspace_options
@json_option
def diff(before: str, after: str, key: tuple[str, ...], check: bool, home: Path | None, project: str | None, as_json: bool) -> int:
    """Tell how version AFTER differs from BEFORE, each NAME@VERSION: files, columns, rows with examples, and distributions."""
    columns = tuple(column for given in key for column in given.split(","))
    found = diff_versions(opened(home, project), before, after, key=columns)
    emit(found, as_json=as_json, text=lambda: _text(found))
    return int(check and not found.same)


def _text(found: DatasetDiff) -> str:
    if found.same:
        return f"{found.before} and {found.after} are the same {found.files_same} files"
    files = [("added", found.files_added), ("removed", found.files_removed), ("changed", found.files_changed)]
    lines = [
        f"{found.before} -> {found.after}: {found.rows_before} rows -> {found.rows_after}",
        "files: " + ", ".join([*(f"{len(paths)} {what}" for what, paths in files if paths), f"{found.files_same} the same"]),
    ]
    lines += [f"column {each.column}: {each.before or 'not there'} -> {each.after or 'not there'}" for each in found.columns]
    if found.rows is None:
        lines += [f"  {what:<8} {path}" for what, paths in files for path in paths[:_SHOWN]]
        return "\n".join(lines)
    rows = found.rows
    changed = f", {rows.changed} changed" if rows.changed is not None else ""
    lines.append(f"rows: {rows.added} added, {rows.removed} removed{changed}")
    lines += [f"  {each.change:<8} {_example(each)}" for each in rows.examples]
    counts = (
        ("column", "changed", "PSI", "missing before", "missing after")
        if rows.key
        else ("column", "PSI", "missing before", "missing after")
    )
    told = []
    for move in sorted(found.moves, key=lambda move: -(move.psi or 0)):
        counted = [move.changed] if rows.key else []
        told.append((move.column, *counted, move.psi, f"{move.missing_before:.1%}", f"{move.missing_after:.1%}"))
    return "\n".join([*lines, "", table(counts, told)])


def _example(example: RowExample) -> str:
    if example.before is not None and example.after is not None:
        both = ((name, value, example.after[name]) for name, value in example.before.items())
        return ", ".join(f"{name} {was}" if was == now else f"{name} {was or 'missing'} -> {now or 'missing'}" for name, was, now in both)
    return ", ".join(f"{name} {value}" for name, value in (example.after or example.before or {}).items() if value)
