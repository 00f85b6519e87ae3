"""Charts as values: what a page draws, and shows as a table where nothing can be drawn."""

import importlib.util
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal

from tidemill.core.codec import encode_text
from tidemill.core.values import Value

# Plotly brings the styles of its maps in a <style> of this id, which the content security policy forbids; it skips that when an
# element of the id is there. The id is a digest that changes between releases, so it is read from the script.
_STYLE_ID = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')


class Series(Value, frozen=True, kw_only=True):
    """One line or one set of bars: a value for each x, None where there is none. dashed: a bound or a reference.

    x: its own, where the lines of a chart do not share one.
    """

    name: str
    values: tuple[float | None, ...]
    x: tuple[float, ...] = ()
    dashed: bool = False


class Mark(Value, frozen=True, kw_only=True):
    """Something that happened at one x."""

    at: str
    text: str


class Chart(Value, frozen=True, kw_only=True):
    """Series over one axis of times, ISO dates or numbers. y_max None: as high as needed."""

    title: str
    kind: Literal["line", "stack"]
    x: tuple[str | float, ...]
    series: tuple[Series, ...]
    unit: str = ""
    marks: tuple[Mark, ...] = ()
    from_zero: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value is not None for series in self.series for value in series.values)

    @property
    def json(self) -> str:
        """The chart for the script that draws it."""
        return encode_text(self)

    def rows(self) -> list[tuple[str, list[float | None]]]:
        """Return the chart as a table: x, then each series' value."""
        return [(str(x), [series.values[place] for series in self.series]) for place, x in enumerate(self.x)]


def when(moments: Sequence[datetime]) -> tuple[str, ...]:
    """Return times as charts take them: UTC without a zone, so that browsers draw them as they are."""
    return tuple(moment.strftime("%Y-%m-%dT%H:%M:%S") for moment in moments)


@cache
def plotly_script() -> Path | None:
    """Return the script that the plotly package carries; None when that is not installed."""
    spec = importlib.util.find_spec("plotly")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path
    return None


@cache
def plotly_style_ids() -> tuple[str, ...]:
    """Return the ids of elements that keep the script from bringing styles of its own."""
    path = plotly_script()
    return tuple(sorted({match.decode() for match in _STYLE_ID.findall(path.read_bytes())})) if path is not None else ()
