"""Runs side by side: what differs in params, metrics, tags, data, packages and code."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import unified_diff
from itertools import islice
from typing import Any

from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking.inputs import CONTEXT, RunLinks, read_links
from tidemill.tracking.runs import Run, read_run

RUNS_MAX = 100
ENVIRONMENT_FILE, DIFF_FILE = "environment.json", "code/diff.patch"
READ_BYTES_MAX = 8 << 20
DIFF_LINES_MAX = 2000
# Tags that say the same as other sections do, or nothing about what differs.
_TOLD_ELSEWHERE = ("git.", "python")


class Compared(Value, frozen=True, kw_only=True):
    """One of the runs that are compared."""

    id: str
    name: str
    experiment: str
    status: str
    started_at: datetime
    seconds: float | None


class Row(Value, frozen=True, kw_only=True):
    """What the runs have under a key, in their order; None where there is nothing. Numbers that are not finite are text."""

    key: str
    values: tuple[str | float | None, ...]


class Comparison(Value, frozen=True, kw_only=True):
    """Runs side by side. code_diff: how what was not committed differs between the first run and each other one, as a unified diff."""

    runs: tuple[Compared, ...]
    params: tuple[Row, ...]
    metrics: tuple[Row, ...]
    tags: tuple[Row, ...]
    data: tuple[Row, ...]
    packages: tuple[Row, ...]
    code: tuple[Row, ...]
    code_diff: str


def compare_runs(ws: Workspace, runs: Sequence[str], *, everything: bool = False) -> Comparison:
    """Return runs side by side: what differs, or everything. Raises RunNotFound, Invalid for fewer than two or too many."""
    ws.require("tracking.read")
    wanted = list(dict.fromkeys(runs))
    if not 2 <= len(wanted) <= RUNS_MAX:
        raise Invalid(f"{len(wanted)} runs cannot be compared; name 2 to {RUNS_MAX} different ones")
    found = [read_run(ws, run) for run in wanted]
    links = read_links(ws, wanted)
    environments = [_environment(ws, run) for run in found]
    patches = [(_read(ws, run, DIFF_FILE) or b"").decode("utf-8", "replace") for run in found]
    tags = [{key: value for key, value in run.tags.items() if not key.startswith(_TOLD_ELSEWHERE)} for run in found]
    code = [{key.removeprefix("git."): value for key, value in run.tags.items() if key.startswith("git.")} for run in found]

    def rows(columns: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
        return side_by_side(columns, everything=everything)

    return Comparison(
        runs=tuple(_compared(run) for run in found),
        params=rows([run.params for run in found]),
        metrics=rows([run.metrics for run in found]),
        tags=rows(tags),
        data=rows([_data(links[run.id]) for run in found]),
        packages=rows(environments),
        code=rows(code),
        code_diff="".join(
            _difference(found[0].name, patches[0], run.name, patch) for run, patch in zip(found[1:], patches[1:], strict=True)
        ),
    )


def side_by_side(columns: Sequence[Mapping[str, Any]], *, everything: bool) -> tuple[Row, ...]:
    """Return a row for each key of any column, by key: all of them, or those in which the columns differ."""
    keys = sorted({key for column in columns for key in column})
    rows = [Row(key=key, values=tuple(_shown(column.get(key)) for column in columns)) for key in keys]
    return tuple(row for row in rows if everything or len(set(row.values)) > 1)


def _shown(value: Any) -> str | float | None:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)  # NaN is unlike itself, and JSON has none of them
    return value if value is None or isinstance(value, float) else str(value)


def _compared(run: Run) -> Compared:
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at is not None else None
    return Compared(id=run.id, name=run.name, experiment=run.experiment, status=run.status, started_at=run.started_at, seconds=seconds)


def _data(links: RunLinks) -> dict[str, str]:
    """Return role and name of what a run read -> its digest, or version."""
    found: dict[str, str] = {}
    for item in links.datasets:
        key = " ".join(part for part in (item.tags.get(CONTEXT, ""), item.dataset.name) if part)
        found[key] = f"{found[key]}, {item.dataset.digest}" if key in found else item.dataset.digest
    return found


def _environment(ws: Workspace, run: Run) -> dict[str, str]:
    """Return what a run's environment holds: package -> version, with the interpreter as one of them."""
    try:
        told = decode_any(_read(ws, run, ENVIRONMENT_FILE) or b"{}", what=ENVIRONMENT_FILE)
    except Invalid:  # a file of that name which is somebody else's
        return {}
    if not isinstance(told, dict) or not isinstance(told.get("packages"), dict):
        return {}
    python = told.get("python")
    version = {"python": str(python.get("version"))} if isinstance(python, dict) else {}
    return {**version, **{str(name): str(number) for name, number in told["packages"].items()}}


def _read(ws: Workspace, run: Run, path: str) -> bytes | None:
    for artifact in run.artifacts:
        if artifact.path == path and artifact.size_bytes <= READ_BYTES_MAX:
            return ws.objects.get(artifact.digest)
    return None


def _difference(one: str, before: str, other: str, after: str) -> str:
    lines = unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), f"{one}: {DIFF_FILE}", f"{other}: {DIFF_FILE}")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in islice(lines, DIFF_LINES_MAX))
