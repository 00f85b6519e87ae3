"""The list of runs: those that a filter picks, page by page, with the metrics that one wants to see."""

from collections import Counter
from collections.abc import Iterable, Mapping

from tidemill.core.filters import FilterRefused
from tidemill.core.pages import Page as Pages
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.web.page import Page
from tidemill.tracking.experiments import search_experiments
from tidemill.tracking.keys import natural, read_latest_of
from tidemill.tracking.runs import Run, RunKind
from tidemill.tracking.search import search_runs
from tidemill.tracking.selection import experiment_ids

AT_ONCE = 100  # as many as can be compared
EXPERIMENTS_SHOWN = 200
COLUMNS, COLUMNS_MAX = 4, 12
LOOKED_AT = 12  # metrics of each run from which the columns are chosen when nobody says which
WHOLE: tuple[RunKind, ...] = ("run", "pipeline", "batch")  # what is no part of another


class Column(Value, frozen=True, kw_only=True):
    """A metric that the list shows. order: what to order by when its head is clicked; way: how it orders now, if it does."""

    key: str
    order: str
    way: str


class RunsPage(Value, frozen=True, kw_only=True):
    """Context of the list of runs. Steps and trials stand on the page of the run that they are part of, unless `parts` asks for them.

    asked: the query as it came. refused: why its filter or order was not understood. values: run -> metric -> latest value.
    """

    asked: dict[str, str]
    refused: str
    experiments: tuple[str, ...]
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    values: dict[str, dict[str, float]]
    next: str | None


def build(ws: Workspace, _path: Mapping[str, str], query: Mapping[str, str]) -> RunsPage:
    """Build the list's context. Raises ExperimentNotFound, TokenRefused."""
    refused = ""
    try:
        found = _search(ws, query)
    except FilterRefused as error:
        found, refused = Pages(items=(), next=None), str(error)
    shown = _listed(query.get("show", "")) or common(run.metrics for run in found.items)
    return RunsPage(
        asked=dict(query),
        refused=refused,
        experiments=tuple(experiment.name for experiment in search_experiments(ws, limit=EXPERIMENTS_SHOWN).items),
        runs=found.items,
        columns=tuple(_column(key, query.get("order", "")) for key in shown[:COLUMNS_MAX]),
        values=read_latest_of(ws, [run.id for run in found.items], shown[:COLUMNS_MAX]),
        next=found.next,
    )


def common(runs: Iterable[Iterable[str]]) -> list[str]:
    """Return the metrics that most runs have, so many as a table holds, by name."""
    counts = Counter(key for metrics in runs for key in metrics)
    return sorted(sorted(counts, key=lambda key: (-counts[key], natural(key)))[:COLUMNS], key=natural)


def _search(ws: Workspace, query: Mapping[str, str]) -> Pages[Run]:
    named = query.get("experiment", "")
    return search_runs(
        ws,
        experiment_ids(ws, [named] if named else []),
        filter=query.get("filter", ""),
        order_by=[query["order"]] if query.get("order") else [],
        kinds=() if query.get("parts") else WHOLE,
        limit=AT_ONCE,
        page_token=query.get("page") or None,
        details="metrics",
        metrics=LOOKED_AT,
    )


def _listed(text: str) -> list[str]:
    return list(dict.fromkeys(key.strip() for key in text.split(",") if key.strip()))


def _column(key: str, order: str) -> Column:
    """Decide what a click orders by: the highest first, then the lowest first."""
    down, up = f"metrics.`{key}` DESC", f"metrics.`{key}` ASC"
    return Column(key=key, order=up if order == down else down, way={down: "descending", up: "ascending"}.get(order, ""))


PAGE = Page(path="/runs", template="runs.html", section="runs", build=build, title=lambda _: "Runs", context=RunsPage)
