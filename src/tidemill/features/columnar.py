"""Features of many rows at once from what is stored of their entities, by NumPy. Knows no store."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.features.stored import MICROSECOND, Form, longest, window_of
from tidemill.features.views import AggregateFunction, FeatureView, aggregation_of
from tidemill.features.windows import Floats, Ints, summarise

Found = dict[str, NDArray[Any]]


class LatestReader:
    """Reads a view of latest values."""

    def __init__(self, view: FeatureView, wanted: Sequence[str]) -> None:
        self._form = Form(view)
        numbers, texts = self._form.numbers, self._form.texts
        features = [(feature.name, str(feature.reads), feature.kind) for feature in map(view.feature, wanted)]
        self._numbers = [(name, numbers.index(column)) for name, column, kind in features if kind == "double"]
        self._texts = [(name, texts.index(column)) for name, column, kind in features if kind == "string"]
        self._ttl = view.ttl // MICROSECOND if view.ttl is not None else None
        self._size = 2 * self._form.stride
        self._one = self._form.base + 1
        never = np.zeros((2, self._form.width), dtype="<i8")
        never[:, 0] = self._one, 2**63 - 1
        self._nothing = never.tobytes()

    def values(self, blobs: Sequence[bytes | None], places: Ints | None, moment: int) -> Found:
        """Return the features of rows; places: which of the blobs is each row's, -1 for nobody's, None when they are as many."""
        form = self._form
        if places is not None:
            blobs = [*blobs, None]
        whole = [self._nothing if blob is None else blob for blob in blobs]
        rows = self._events(whole)
        if rows is None:
            whole = [blob if blob is self._nothing else form.alone(blob, moment) or self._nothing for blob in whole]
            rows = self._events(whole)
            assert rows is not None, "each has one event now"
        unseen = rows[:, 0] > moment
        if form.written is not None:
            unseen |= rows[:, form.written] > moment
        if self._ttl is not None:
            unseen |= rows[:, 0] <= moment - self._ttl
        doubles: Floats = rows[:, form.first :].view(np.float64)
        if unseen.any():
            doubles = np.where(unseen[:, None], np.nan, doubles)
        columns = (doubles if places is None else doubles[places]).T.copy()
        found: Found = {name: columns[place] for name, place in self._numbers}
        if self._texts:
            told = [None if gone else form.tails(blob)[0][1] for blob, gone in zip(whole, unseen.tolist(), strict=True)]
            for name, place in self._texts:
                texts = np.array([None if row is None else row[place] for row in told], dtype=object)
                found[name] = texts if places is None else texts[places]
        return found

    def _events(self, blobs: Sequence[bytes]) -> Ints | None:
        """Return one row of words for each entity, None when some has not one event."""
        bodies = b"".join([blob[: self._size] for blob in blobs] if self._form.tailed else blobs)
        if len(bodies) != len(blobs) * self._size:
            return None
        rows = np.frombuffer(bodies, dtype="<i8").reshape(len(blobs), 2, self._form.width)
        return rows[:, 1] if (rows[:, 0, 0] == self._one).all() else None


class _Function(NamedTuple):
    """What is asked of columns. of_events: of the events themselves, not of a column."""

    name: AggregateFunction
    quantile: float | None
    of_events: bool


class WindowReader:
    """Reads views of aggregations, all at once: the events of all of them lie end to end."""

    def __init__(self, views: Sequence[tuple[FeatureView, Sequence[str]]]) -> None:
        """views: each with the features that are wanted of it."""
        self._forms = [Form(view) for view, _ in views]
        self._longest = max((longest(view) for view, _ in views), default=0)
        # Longest first, so that spans of one entity come in ascending order of their starts; where all of them end comes last.
        windows = [sorted({window_of(view, name) for name in wanted}, reverse=True) for view, wanted in views]
        self._cuts = [np.array([self._longest - window for window in each] + [self._longest], dtype=np.int64) for each in windows]
        self._asked: dict[_Function, list[tuple[int, str]]] = {}
        self._wanted: list[tuple[str, _Function, int, int, int]] = []
        for number, (view, wanted) in enumerate(views):
            for name in wanted:
                aggregation = aggregation_of(view.feature(name))
                asked = _Function(aggregation.function, aggregation.quantile, aggregation.column is None)
                columns = self._asked.setdefault(asked, [])
                column = (number, aggregation.column or "")
                if column not in columns:
                    columns.append(column)
                self._wanted.append((name, asked, columns.index(column), number, windows[number].index(window_of(view, name))))

    def values(self, blobs: Sequence[Sequence[bytes | None]], places: Sequence[Ints | None], moment: int) -> Found:
        """Return the features of rows; blobs and places: of each view, as a view of latest values has them."""
        tables, sizes = [], []
        for form, mine, which in zip(self._forms, blobs, places, strict=True):
            table, size = form.counted([blob or b"" for blob in mine] + [b""] * (which is not None), moment)
            tables.append(table)
            sizes.append(size)
        starts, ends = self._spans(tables, sizes, moment)
        edges = list(accumulate((len(table) for table in tables), initial=0))
        answers = {
            function: self._summaries(function, columns, tables, starts, ends, edges, moment) for function, columns in self._asked.items()
        }
        found: Found = {}
        for name, asked, place, number, window in self._wanted:
            column = answers[asked][place][:, window]
            which = places[number]
            found[name] = column if which is None else column[which]
        return found

    def _summaries(
        self, function: "_Function", columns: Sequence[tuple[int, str]], tables: Sequence[Ints],
        starts: Sequence[Ints], ends: Sequence[Ints], edges: Sequence[int], moment: int,
    ) -> list[Floats]:  # fmt: skip
        """Return one function of some columns, each by entity and window: summarised in one go."""
        name, quantile, of_events = function
        if name == "count" and of_events:
            return [(ends[number] - starts[number]).astype(np.float64) for number, _ in columns]
        lengths = [len(tables[number]) for number, _ in columns]
        shifts = list(accumulate(lengths, initial=0))
        moved = [shift - edges[number] for (number, _), shift in zip(columns, shifts, strict=False)]
        begins = np.concatenate([(starts[number] + by).ravel() for (number, _), by in zip(columns, moved, strict=True)])
        finish = np.concatenate([(ends[number] + by).ravel() for (number, _), by in zip(columns, moved, strict=True)])
        values = times = moments = None
        if not of_events:
            values = np.concatenate([self._column(tables[number], number, column) for number, column in columns])
        if name == "time_since":
            times = np.concatenate([tables[number][:, 0] for number, _ in columns])
            moments = np.full(begins.size, moment)
        told = summarise(name, values, begins, finish, quantile=quantile, times=times, moments=moments)
        bounds = accumulate((starts[number].size for number, _ in columns), initial=0)
        return [told[a:b].reshape(starts[number].shape) for (number, _), (a, b) in zip(columns, pairwise(bounds), strict=True)]

    def _column(self, table: Ints, number: int, name: str) -> Floats:
        form = self._forms[number]
        column: Floats = table[:, form.first + form.numbers.index(name)].view(np.float64)
        return column

    def _spans(self, tables: Sequence[Ints], sizes: Sequence[Ints], moment: int) -> tuple[list[Ints], list[Ints]]:
        """Return where each window of each entity starts and ends among all events laid end to end, by view: (entities, windows)."""
        # Times relative to the longest window's start, cut to it, so that entity and time fit one ascending integer.
        width = self._longest + 2
        times = np.concatenate([table[:, 0] for table in tables])
        counts = np.concatenate(sizes)
        offsets = np.arange(counts.size, dtype=np.int64) * width
        keys = np.clip(times - (moment - self._longest), 0, self._longest + 1) + np.repeat(offsets, counts)
        firsts = list(accumulate((size.size for size in sizes), initial=0))
        asked = [(offsets[a:b, None] + cuts).ravel() for (a, b), cuts in zip(pairwise(firsts), self._cuts, strict=True)]
        places = np.searchsorted(keys, np.concatenate(asked), side="right")
        starts, ends = [], []
        for (a, b), size, cuts in zip(pairwise(accumulate(map(len, asked), initial=0)), sizes, self._cuts, strict=True):
            mine = places[a:b].reshape(size.size, cuts.size)
            starts.append(mine[:, :-1])
            ends.append(np.broadcast_to(mine[:, -1:], starts[-1].shape))
        return starts, ends
