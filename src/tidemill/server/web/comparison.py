"""Runs side by side: one metric of all of them as a chart, and what they differ in."""

from collections.abc import Mapping, Sequence
from itertools import islice

from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.web.charts import Chart, Series
from tidemill.server.web.page import Page
from tidemill.tracking.charts import Drawn, sample_history
from tidemill.tracking.compare import Compared, Comparison, Row, compare_runs
from tidemill.tracking.keys import Chosen, choose_keys

ROWS = 30
DRAWN_POINTS = 30_000  # of all lines of the chart together
DIFF_LINES = 300


class Section(Value, frozen=True, kw_only=True):
    """Rows of one kind, a page of them. name: the word of the query that says behind which key the page begins."""

    title: str
    name: str
    rows: tuple[Row, ...]
    chosen: Chosen


class ComparisonPage(Value, frozen=True, kw_only=True):
    """Context of the comparison of runs. asked: the query as it came. metric: the one that the chart shows, "" when there is none."""

    asked: dict[str, str]
    runs: tuple[Compared, ...]
    everything: bool
    find: str
    metric: str
    chart: Chart | None
    sections: tuple[Section, ...]
    code_diff: str
    more_diff: bool


def build(ws: Workspace, _path: Mapping[str, str], query: Mapping[str, str]) -> ComparisonPage:
    """Build the comparison's context. Raises RunNotFound, Invalid for fewer than two runs or too many."""
    everything = bool(query.get("everything"))
    found = compare_runs(ws, [run for run in query.get("run", "").split(",") if run], everything=everything)
    metric = query.get("metric") or (found.metrics[0].key if found.metrics else "")
    lines = found.code_diff.splitlines(keepends=True)
    return ComparisonPage(
        asked=dict(query),
        runs=found.runs,
        everything=everything,
        find=query.get("find", ""),
        metric=metric,
        chart=_chart(ws, found, metric) if metric else None,
        sections=tuple(
            section(title, getattr(found, name), name=name, find=query.get("find", ""), after=query.get(name, ""))
            for name, title in (
                ("metrics", "Metrics"), ("params", "Params"), ("data", "Data"), ("code", "Code"), ("packages", "Packages"), ("tags", "Tags")
            )
        ),
        code_diff="".join(islice(lines, DIFF_LINES)),
        more_diff=len(lines) > DIFF_LINES,
    )  # fmt: skip


def section(title: str, rows: Sequence[Row], *, name: str, find: str, after: str) -> Section:
    """Return the page of rows whose keys have the words of find, behind a key."""
    by_key = {row.key: row for row in rows}
    chosen = choose_keys(by_key, find=find, after=after, limit=ROWS)
    return Section(title=title, name=name, rows=tuple(by_key[key] for key in chosen.keys), chosen=chosen)


def _chart(ws: Workspace, found: Comparison, metric: str) -> Chart:
    runs = [run.id for run in found.runs]
    drawn = sample_history(ws, runs, metric, points=min(1000, DRAWN_POINTS // len(runs)))
    return merged(metric, [run.name for run in found.runs], drawn)


def merged(metric: str, names: Sequence[str], drawn: Sequence[Drawn]) -> Chart:
    """Return a metric of several runs as one chart: a line for each run, or a bar where no run has more than one point."""
    labels = [f"{number} {name}" for number, name in enumerate(names, 1)]
    if all(each.logged <= 1 for each in drawn):
        values = tuple(each.values[0] if each.values else None for each in drawn)
        return Chart(title=metric, kind="stack", x=tuple(labels), series=(Series(name=metric, values=values),))
    series = tuple(Series(name=label, values=each.values, x=each.steps) for label, each in zip(labels, drawn, strict=True) if each.values)
    return Chart(title=metric, kind="line", x=(), series=series)


PAGE = Page(
    path="/compare",
    template="comparison.html",
    section="runs",
    build=build,
    title=lambda page: f"{len(page.runs)} runs compared",
    context=ComparisonPage,
)
