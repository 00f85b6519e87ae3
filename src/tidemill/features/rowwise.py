"""Features of single rows from what is stored of their entities, in plain Python: done with a few before NumPy has begun.

What it says is what `columnar` says of the same bytes, bit for bit.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np

from tidemill.core.codec import pack
from tidemill.features.columnar import Found
from tidemill.features.incoming import KeyKind, entity_keys
from tidemill.features.stored import MICROSECOND, WORD, Form, window_of
from tidemill.features.views import AggregateFunction, FeatureView, aggregation_of
from tidemill.features.windows import FEW, Floats, summarise_ends
from tidemill.store.online import KEY_BYTES

_TYPES: dict[KeyKind, type] = {"string": str, "long": int}


class RowReader:
    """Reads the features of views, row by row."""

    def __init__(self, views: Sequence[tuple[FeatureView, Sequence[str]]]) -> None:
        """views: each with the features that are wanted of it."""
        readers = [_Windows(view, wanted) if view.windowed else _Latest(view, wanted) for view, wanted in views]
        self._reads = [reader.read for reader in readers]
        self._numbers = [name for reader in readers for name in reader.numbers]
        self._texts = [name for reader in readers for name in reader.texts]

    def values(self, rows: Iterable[Sequence[bytes | None]], moment: int) -> Found:
        """Return the features of rows, of each what is stored of its entity, by view. Raises Corrupt."""
        numbers: list[list[float]] = []
        texts: list[list[str | None]] = []
        for blobs in rows:
            of_row: list[float] = []
            said: list[str | None] = []
            for read, blob in zip(self._reads, blobs, strict=True):
                read(blob, moment, of_row, said)
            numbers.append(of_row)
            texts.append(said)
        found: Found = dict(zip(self._numbers, np.array(numbers, dtype=np.float64).T, strict=True))
        if self._texts:
            for name, column in zip(self._texts, zip(*texts, strict=True), strict=True):
                found[name] = np.array(column, dtype=object)
        return found


class RowKeys:
    """Makes the stored key of an entity of the join keys of one row."""

    def __init__(self, view: FeatureView, kinds: Sequence[KeyKind]) -> None:
        self._view, self._kinds = view, kinds
        self._types = [_TYPES[kind] for kind in kinds]

    def key(self, parts: Sequence[object]) -> bytes | None:
        """Return it, None for nobody. Raises Invalid."""
        for part, kind in zip(parts, self._types, strict=True):
            if type(part) is not kind or (kind is int and not -(2**63) <= part < 2**63):  # type: ignore[operator]
                return entity_keys(self._view, self._kinds, [parts])[0]
        key = pack(parts)
        return key if len(key) <= KEY_BYTES else entity_keys(self._view, self._kinds, [parts])[0]


class _Latest:
    """Reads one row of a view of latest values: the words that are wanted are taken out of its bytes in one go."""

    def __init__(self, view: FeatureView, wanted: Sequence[str]) -> None:
        self._form = form = Form(view)
        features = [(feature.name, str(feature.reads), feature.kind) for feature in map(view.feature, wanted)]
        of_numbers = [(name, form.first + form.numbers.index(column)) for name, column, kind in features if kind == "double"]
        of_texts = [(name, form.texts.index(column)) for name, column, kind in features if kind == "string"]
        self.numbers, self.texts = [name for name, _ in of_numbers], [name for name, _ in of_texts]
        self._ttl = view.ttl // MICROSECOND if view.ttl is not None else None
        self._size, self._one = 2 * form.stride, form.base + 1
        when = form.written or 0  # where nothing tells when an event was written, it was when it happened
        codes = {word: "d" for _, word in of_numbers} | {0: "q", when: "q"}
        row = "".join(codes.get(word, f"{WORD}x") for word in range(form.width))
        self._unpack = struct.Struct(f"<q{form.stride - WORD}x{row}").unpack_from
        places = {word: place for place, word in enumerate(sorted(codes), start=1)}
        self._written, self._places = places[when], [places[word] for _, word in of_numbers]
        self._of_texts = [place for _, place in of_texts]
        self._no_numbers = [nan] * len(self.numbers)
        self._no_texts = [None] * len(self.texts)

    def read(self, blob: bytes | None, moment: int, numbers: list[float], texts: list[str | None]) -> None:
        """Add the row's features to numbers and texts."""
        words = None
        if blob is not None:
            fits = len(blob) == self._size or (self._form.tailed and len(blob) > self._size)
            words = self._unpack(blob) if fits else None
            if words is None or words[0] != self._one:
                blob = self._form.alone(blob, moment)
                words = self._unpack(blob) if blob is not None else None
        seen = words is not None and words[1] <= moment and words[self._written] <= moment
        if words is None or blob is None or not seen or (self._ttl is not None and words[1] <= moment - self._ttl):
            numbers += self._no_numbers
            texts += self._no_texts
            return
        numbers += [words[place] for place in self._places]
        if self._of_texts:
            told = self._form.tails(blob)[0][1]
            texts += [told[place] for place in self._of_texts]


class _Asked(NamedTuple):
    """What is asked of the events, or of one word of each; and the windows, with the place of each answer."""

    function: AggregateFunction
    quantile: float | None
    word: int | None
    windows: tuple[int, ...]
    places: tuple[int, ...]


class _Windows:
    """Reads one row of a view of aggregations: where its windows begin is found by bisection."""

    def __init__(self, view: FeatureView, wanted: Sequence[str]) -> None:
        self._form = form = Form(view)
        self.numbers, self.texts = list(wanted), list[str]()
        self._windows = sorted({window_of(view, name) for name in wanted}, reverse=True)
        asked: dict[tuple[AggregateFunction, float | None, int | None], dict[int, int]] = {}
        for place, name in enumerate(wanted):
            told = aggregation_of(view.feature(name))
            word = form.first + form.numbers.index(told.column) if told.column is not None else None
            asked.setdefault((told.function, told.quantile, word), {})[place] = self._windows.index(window_of(view, name))
        self._asked = [_Asked(*what, tuple(where.values()), tuple(where)) for what, where in asked.items()]

    def read(self, blob: bytes | None, moment: int, numbers: list[float], texts: list[str | None]) -> None:
        """Add the row's features to numbers."""
        width = self._form.width
        words = self._counted(blob, moment) if blob is not None else b""
        times = memoryview(words).cast("q")[::width]  # the first one is none of an event, and before all of them
        end = bisect_right(times, moment)
        starts = [bisect_right(times, moment - window, 0, end) for window in self._windows]
        first = starts[0]
        found = [nan] * len(self.numbers)
        for function, quantile, word, windows, places in self._asked:
            if word is None:
                told = [float(end - starts[window]) for window in windows]
                if function == "time_since":
                    told = [(moment - times[end - 1]) / 1e6 if count else nan for count in told]
            else:
                values: Floats | list[float]
                if end - first <= FEW:
                    values = _doubles(words, first * width + word, end * width, width)
                else:
                    values = np.frombuffer(words, dtype="<f8")[first * width + word : end * width : width].copy()
                told = summarise_ends(
                    function,
                    values,
                    [starts[window] - first for window in windows],
                    quantile=quantile,
                    times=times[first:end],
                    moment=moment,
                )
            for place, value in zip(places, told, strict=True):
                found[place] = value
        numbers += found

    def _counted(self, blob: bytes, moment: int) -> bytes:
        """Return the words of the events that count at a moment, after those that say how many there were. Raises Corrupt."""
        form = self._form
        rows, rest = divmod(len(blob), form.stride)
        if rest or int.from_bytes(blob[:WORD], "little", signed=True) != form.base + rows - 1 or self._written_after(blob, moment):
            return form.counted([blob], moment)[0].tobytes()
        return blob

    def _written_after(self, blob: bytes, moment: int) -> bool:
        """Return whether some event was written later."""
        width, word = self._form.width, self._form.written
        return word is not None and bool(np.frombuffer(blob, dtype="<i8")[width + word :: width].max() > moment)


def _doubles(words: bytes, first: int, end: int, step: int) -> list[float]:
    doubles: Any = memoryview(words).cast("d")[first:end:step]
    found: list[float] = doubles.tolist()
    return found
