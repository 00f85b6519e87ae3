"""What monitors saw of an endpoint, as charts: drift, performance and calibration by window."""

from collections.abc import Sequence
from datetime import datetime

from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.monitor.monitors import list_monitors, list_windows, read_report
from tidemill.monitor.report import Finding, WindowReport
from tidemill.server.web.charts import Chart, Mark, Series, when

WINDOWS = 60
FEATURES = 6
OUTCOME = ("in the window", "reference")


class Watched(Value, frozen=True, kw_only=True):
    """A monitor's newest window: what it found, the furthest beyond its threshold first, and its charts."""

    monitor: str
    every_days: float
    report: WindowReport
    charts: tuple[Chart, ...]


def read_watched(ws: Workspace, endpoint: str, *, marks: Sequence[Mark] = ()) -> tuple[Watched, ...]:
    """Return what each monitor of an endpoint saw in its last windows."""
    found = []
    for monitor in list_monitors(ws):
        if monitor.spec.endpoint != endpoint:
            continue
        reports = [read_report(ws, seen) for seen in reversed(list_windows(ws, monitor.name, limit=WINDOWS))]
        if reports:
            days = monitor.spec.every.total_seconds() / 86400
            found.append(Watched(monitor=monitor.name, every_days=days, report=reports[-1], charts=watch_charts(reports, marks=marks)))
    return tuple(found)


def watch_charts(reports: Sequence[WindowReport], *, marks: Sequence[Mark] = ()) -> tuple[Chart, ...]:
    """Return the charts of windows, oldest first; pure. Those that have nothing to show are left out."""
    ends = [report.window.end for report in reports]
    charts = (
        _drift(reports, ends, marks),
        _before_and_after(reports, ends, marks, title="AUC", aspect="performance", measure="auc", names=OUTCOME),
        _before_and_after(
            reports, ends, marks, title="Brier score", aspect="performance", measure="brier", names=("in the window", "reference")
        ),
        _before_and_after(
            reports, ends, marks, title="Calibration", aspect="calibration", measure="ece", names=("came true", "said, on average")
        ),
    )
    return tuple(chart for chart in charts if not chart.empty)


def _drift(reports: Sequence[WindowReport], ends: Sequence[datetime], marks: Sequence[Mark]) -> Chart:
    excess = [
        {finding.subject: abs(finding.value) / abs(finding.threshold) for finding in report.findings if _drifts(finding)}
        for report in reports
    ]
    furthest: dict[str, float] = {}
    for window in excess:
        for name, value in window.items():
            furthest[name] = max(value, furthest.get(name, 0.0))
    names = sorted(furthest, key=lambda name: (-furthest[name], name))[:FEATURES]
    series = [Series(name=name, values=tuple(window.get(name) for window in excess)) for name in names]
    if series:
        series.append(Series(name="threshold", values=(1.0,) * len(reports), dashed=True))
    return Chart(
        title="Drift, as a multiple of its threshold",
        kind="line",
        x=when(ends),
        series=tuple(series),
        marks=tuple(marks),
        from_zero=True,
    )


def _drifts(finding: Finding) -> bool:
    return finding.aspect in ("data", "prediction") and finding.measure != "missing" and finding.threshold != 0


def _before_and_after(
    reports: Sequence[WindowReport], ends: Sequence[datetime], marks: Sequence[Mark], *, title: str, aspect: str, measure: str,
    names: tuple[str, str],
) -> Chart:  # fmt: skip
    found = [
        next((finding for finding in report.findings if (finding.aspect, finding.measure) == (aspect, measure)), None) for report in reports
    ]
    after = tuple(finding.after if finding else None for finding in found)
    before = tuple(finding.before if finding else None for finding in found)
    series = (Series(name=names[0], values=after), Series(name=names[1], values=before, dashed=True))
    return Chart(title=title, kind="line", x=when(ends), series=series, marks=tuple(marks))
