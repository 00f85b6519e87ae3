"""What a monitor sees of a feature view in a window: values as rows would get them, how old the newest are, who reads them."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.catalog.events import read_events
from tidemill.core.clock import utc
from tidemill.core.errors import Invalid
from tidemill.core.window import Window
from tidemill.datasets.versions import open_table
from tidemill.features.definitions import ViewVersion, read_view
from tidemill.features.keys import AskingRows
from tidemill.features.timeline import look_up
from tidemill.features.views import FeatureView
from tidemill.govern.workspace import Workspace
from tidemill.monitor.evaluate import REFERENCE_ROWS, Sample
from tidemill.monitor.monitors import MonitorSpec
from tidemill.monitor.report import Finding
from tidemill.serving.config import load

_MOMENT = pa.timestamp("us", tz="UTC")
_ASKED = "tidemill.asked"


class WatchedView:
    """A feature view and its source, read once for a look at it."""

    def __init__(self, ws: Workspace, spec: MonitorSpec) -> None:
        """Raises DefinitionNotFound, Invalid for columns that the view does not have."""
        self.version: ViewVersion = read_view(ws, spec.view)
        self.view: FeatureView = self.version.definition
        strange = sorted(set(spec.columns) - {feature.name for feature in self.view.features})
        if strange:
            known = ", ".join(feature.name for feature in self.view.features)
            raise Invalid(f"monitor {spec.name!r} watches {', '.join(strange)}; feature view {spec.view!r} has {known}")
        self._ws, self._spec = ws, spec
        self._events = open_table(ws, self.view.source, columns=self.view.needs)
        self._moments: Any = self._events.column(self.view.event_timestamp).cast(_MOMENT, safe=False)

    @property
    def reference(self) -> str:
        """The view and its version, such as `delays@2`."""
        return f"{self.version.name}@{self.version.version}"

    def sample(self, window: Window) -> Sample:
        """Return the features of the entities of a window's events, at the moments of these events; evenly thinned where there are many."""
        inside = pc.and_(
            pc.greater_equal(self._moments, pa.scalar(window.start, _MOMENT)), pc.less(self._moments, pa.scalar(window.end, _MOMENT))
        )
        rows = self._events.select(self.view.entity).append_column(_ASKED, self._moments).filter(inside)
        rows = rows.take(pc.sort_indices(rows, sort_keys=[(_ASKED, "ascending")]))
        step = max(1, -(-rows.num_rows // REFERENCE_ROWS))
        rows = rows.take(np.arange(0, rows.num_rows, step))
        found = look_up(self.view.undefaulted, self._events, AskingRows(rows, self.view.entity, _ASKED))
        times: Any = rows.column(_ASKED).cast(pa.int64()).to_numpy()
        nothing = np.full(rows.num_rows, np.nan)
        return Sample(pa.table(dict(found)), nothing, nothing, times)

    def freshness(self, end: datetime) -> list[Finding]:
        """Return how old the newest event was at the end of a window, and what was materialised, if anything ever was."""
        past = self._moments.filter(pc.less_equal(self._moments, pa.scalar(end, _MOMENT)))
        newest = pc.max(past).as_py()
        found = [self._age("newest event", newest, end)]
        with self._ws.catalog.reading() as tx:
            events = read_events(tx, self._ws.project, subject=f"view:{self.version.name}", kinds=["view.materialized"], until=end, limit=1)
        if events:
            found.append(self._age("materialized", utc(datetime.fromisoformat(events[-1].body["until"])), end))
        return found

    def readers(self) -> list[str]:
        """Return who reads the view to answer now: each model version with its endpoint."""
        config = load(self._ws.state)
        endpoints = config.endpoints if config is not None else ()
        return sorted(
            {
                f"{variant.model}@{variant.version} at {endpoint.name}"
                for endpoint in endpoints
                if endpoint.features is not None and endpoint.project == self._ws.project
                if any(plan.view.name == self.view.name for plan in endpoint.features.views)
                for variant in endpoint.variants
            }
        )

    def _age(self, measure: str, moment: datetime | None, end: datetime) -> Finding:
        limit = self._spec.stale
        age = end - moment if moment is not None else None
        what = f"{measure} {_told(age)} before the window's end" if age is not None else f"{measure}: none"
        return Finding(
            aspect="freshness", subject=self.view.name, measure=measure, value=age / timedelta(hours=1) if age is not None else 1e9,
            threshold=limit / timedelta(hours=1), p_value=None, moved=age is None or age > limit, before=None,
            after=age / timedelta(hours=1) if age is not None else None, text=f"{self.view.name}: {what} ({_told(limit)} allowed)",
        )  # fmt: skip


def _told(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
