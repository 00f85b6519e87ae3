"""What callers pushed to workers becomes rows of datasets, each push once: out of the workers' journals, as far as they are written."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from tidemill.core.codec import decode, unpack
from tidemill.core.errors import Invalid, TidemillError
from tidemill.datasets.marks import AlreadyTaken, Mark, forget_marks, read_marks
from tidemill.datasets.versions import find_newest
from tidemill.deploy.arrivals import arrive
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import endpoint_key, project_of
from tidemill.serving.journal import MAGIC, PushRecord, complete, frames, pushes_folder, segments, sources_journaled
from tidemill.serving.wire import PushRequest

LOG = logging.getLogger("tidemill.arrivals")
SOURCE = "pushes"
ROWS = 50_000


class _Read(NamedTuple):
    """Rows of a segment behind a place, the place behind them, and whether there is more."""

    rows: list[dict[str, Any]]
    end: int
    more: bool


def collect_pushes(ws: Workspace) -> int:
    """Make rows of what workers took for this project's datasets since the last time; return how many were new.

    A segment goes once all of it is rows, and nobody writes to it. Trouble with one dataset keeps nothing else from being done.
    """
    new = 0
    for source in sources_journaled(ws.state):
        if project_of(source) == ws.project:
            name = source.rpartition("/")[2]
            try:
                new += _collect(ws, name)
            except AlreadyTaken:
                LOG.info("pushes of %s are collected by another process, too", source)
            except (TidemillError, OSError) as error:
                LOG.error("pushes of %s are not rows of the dataset yet: %s", source, error)
    return new


def _collect(ws: Workspace, name: str) -> int:
    folder = pushes_folder(ws.state, endpoint_key(ws.project, name))
    version = find_newest(ws, name)
    if version is None:
        return 0
    new, more = 0, True
    while more:
        rows: list[dict[str, Any]] = []
        marks: list[Mark] = []
        taken = read_marks(ws, name, SOURCE)
        more = False
        for path in segments(folder):
            before = taken.get(path.name)
            found = _read(path, int(before or len(MAGIC)), ROWS - len(rows))
            if found.rows:
                rows += found.rows
                marks.append(Mark(source=SOURCE, mark=path.name, before=before, told=str(found.end)))
            more |= found.more
        if rows:
            fitted = [{column: row.get(column) for column in version.columns} for row in rows]
            new += arrive(ws, name, fitted, on_bad="aside", marks=marks, reason="pushed")[0].new
    _clear(ws, name, folder)
    return new


def _read(path: Path, begin: int, most: int) -> _Read:
    """Read whole pushes, at least one where there is room for any."""
    with path.open("rb") as file:
        file.seek(begin)
        data = MAGIC + file.read()
    rows: list[dict[str, Any]] = []
    end = begin
    for frame in frames(data):
        if len(rows) >= most:
            return _Read(rows, end, more=True)
        end += frame.size_bytes
        payload = frame.payload()
        if payload is None:
            LOG.error("a push in %s is damaged and left out", path)
            continue
        try:
            rows += decode(unpack(payload, PushRecord).body, PushRequest, what="push").rows
        except Invalid as error:
            LOG.error("a push in %s is left out: %s", path, error)
    return _Read(rows, end, more=False)


def _clear(ws: Workspace, name: str, folder: Path) -> None:
    """Remove the segments of which all is taken, then what is told of those that are gone."""
    taken = read_marks(ws, name, SOURCE)
    for path in segments(folder):
        if complete(path) and not _read(path, int(taken.get(path.name) or len(MAGIC)), ROWS).rows:
            path.unlink()
    there = {path.name for path in segments(folder)}
    forget_marks(ws, name, SOURCE, sorted(set(taken) - there))
