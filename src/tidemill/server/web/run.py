"""One run: what it is, and its metrics, params, tags and files, each a page at a time, whatever their number."""

from collections.abc import Mapping
from datetime import timedelta

from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.web.page import Page
from tidemill.tracking.files import StoredFile, files_below, run_folder
from tidemill.tracking.keys import Chosen, KeyPage, Kind, choose_keys, read_keys
from tidemill.tracking.runs import Run, list_runs, read_head

METRICS_AT_ONCE = 24
KEYS_AT_ONCE = 30
PARTS_SHOWN = 50
PART_METRICS = 4


class RunPage(Value, frozen=True, kw_only=True):
    """Context of one run's page. parts: the first runs that are part of it, in the order in which they began, of them all.

    asked: the query as it came. find: words that the keys shown have; under: the group that the metrics shown belong to, step by step.
    """

    asked: dict[str, str]
    run: Run
    seconds: timedelta | None
    parent: Run | None
    parts: tuple[Run, ...]
    more_parts: bool
    find: str
    under: tuple[str, ...]
    metrics: KeyPage
    params: KeyPage
    tags: KeyPage
    files: tuple[StoredFile, ...]
    paths: Chosen


def build(ws: Workspace, path: Mapping[str, str], query: Mapping[str, str]) -> RunPage:
    """Build one run's context. Raises RunNotFound."""
    run = read_head(ws, path["run"])
    find, under = query.get("find", ""), query.get("under", "")
    parts = list_runs(ws, parent=run.id, limit=PARTS_SHOWN + 1, details="metrics", metrics=PART_METRICS)
    folder = run_folder(run.experiment_id, run.id)
    left = {file.path[len(folder) + 1 :]: file for file in files_below(ws, folder)}
    paths = choose_keys(left, find=find, after=query.get("files", ""), limit=KEYS_AT_ONCE)

    def texts(kind: Kind, name: str) -> KeyPage:
        return read_keys(ws, run.id, kind, find=find, after=query.get(name, ""), limit=KEYS_AT_ONCE)

    return RunPage(
        asked=dict(query),
        run=run,
        seconds=run.ended_at - run.started_at if run.ended_at is not None else None,
        parent=read_head(ws, run.parent) if run.parent is not None else None,
        parts=tuple(reversed(parts[:PARTS_SHOWN])),
        more_parts=len(parts) > PARTS_SHOWN,
        find=find,
        under=tuple(under.split("/")) if under else (),
        metrics=read_keys(ws, run.id, "metric", find=find, under=under, after=query.get("metrics", ""), limit=METRICS_AT_ONCE),
        params=texts("param", "params"),
        tags=texts("tag", "tags"),
        files=tuple(left[name] for name in paths.keys),
        paths=paths,
    )


PAGE = Page(
    path="/runs/{run}", template="run.html", section="runs", build=build, title=lambda page: f"Run {page.run.name}", context=RunPage
)
