"""What the data plane said of rows: a prediction a row, and all of them as columns."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from tidemill.core.codec import decode
from tidemill.core.errors import Unavailable
from tidemill.core.values import Wire, field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DTYPES = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "BOOL": "?"}
HEADER_LENGTH = "inference-header-content-length"


class Prediction(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one row. label is there when a threshold is known, outputs when the model answers more than its score."""

    id: str
    score: float
    label: bool | None = None
    variant: str
    version: int
    outputs: dict[str, Any] | None = None


class _Records(Wire, frozen=True, kw_only=True):
    predictions: list[Prediction]


class _Output(Wire, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int]


class _Chosen(Wire, frozen=True, kw_only=True):
    """variants: the version of each that answered; chosen: which answered each row, where there are several.

    others: the names of the outputs that stand beside score and label.
    """

    prediction_ids: list[str]
    variants: dict[str, int]
    chosen: list[str] | None = None
    others: list[str] = field(default_factory=list)


class _Tensors(Wire, frozen=True, kw_only=True):
    parameters: _Chosen
    outputs: list[_Output]


class Part(NamedTuple):
    """The answer to one request, a value a row in each."""

    ids: Sequence[str]
    scores: Sequence[float]
    labels: Sequence[bool | None]
    variants: Sequence[str]
    versions: Sequence[int]
    outputs: "Mapping[str, NDArray[Any]]"


class Answer(Sequence[Prediction]):
    """Predictions in the order of their rows; an item is made when it is asked for. Columns: ids, scores, labels, variants, versions,
    and outputs, by name, for what the model answers beside its score."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self.ids = list(chain.from_iterable(part.ids for part in parts))
        self.labels = list(chain.from_iterable(part.labels for part in parts))
        self.variants = list(chain.from_iterable(part.variants for part in parts))
        self.versions = list(chain.from_iterable(part.versions for part in parts))

    @cached_property
    def scores(self) -> "NDArray[np.float64]":
        """Scores as an array, float64 [n]."""
        import numpy as np

        return np.concatenate([np.asarray(part.scores, dtype=np.float64) for part in self._parts])

    @cached_property
    def outputs(self) -> "dict[str, NDArray[Any]]":
        """What the model answers beside its score: arrays [n] or [n, k] of numbers or text, by name. Those that every row has."""
        import numpy as np

        first, *rest = self._parts or [Part((), (), (), (), (), {})]
        names = [name for name in first.outputs if all(name in part.outputs for part in rest)]
        return {name: np.concatenate([part.outputs[name] for part in self._parts]) for name in names}

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice) -> list[Prediction]: ...

    def __getitem__(self, place: int | slice) -> Prediction | list[Prediction]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return Prediction(
            id=self.ids[place], score=float(self.scores[place]), label=self.labels[place],
            variant=self.variants[place], version=self.versions[place],
            outputs={name: array[place : place + 1].tolist()[0] for name, array in self.outputs.items()} or None,
        )  # fmt: skip

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Answer([{shown}{f', ... {len(self)} in all' if len(self) > 3 else ''}])"


def read_records(body: bytes) -> Part:
    """Return what Tidemill's own short form answers. Raises Unavailable when it is something else."""
    found = _read(body, _Records).predictions
    return Part(
        [each.id for each in found], [each.score for each in found], [each.label for each in found],
        [each.variant for each in found], [each.version for each in found], _columns([each.outputs for each in found]),
    )  # fmt: skip


def read_tensors(body: bytes, headers: Any) -> Part:
    """Return what the Open Inference Protocol answers in raw bytes. Raises Unavailable when it is something else."""
    import numpy as np

    length = int(headers.get(HEADER_LENGTH, len(body)))
    told = _read(body[:length], _Tensors)
    by_type: dict[str, bytes] = {}
    others: dict[str, NDArray[Any]] = {}
    place = length
    for output in told.outputs:
        size = output.parameters.get("binary_data_size", 0)
        data = body[place : place + size]
        if output.name in told.parameters.others:
            others[output.name] = _array(output, data)
        else:
            by_type[output.datatype] = data
        place += size
    ids, variants = told.parameters.prediction_ids, told.parameters.variants
    scores: Any = np.frombuffer(by_type.get("FP64", b""), "<f8")
    labels: Any = np.frombuffer(by_type["BOOL"], np.bool_).tolist() if "BOOL" in by_type else [None] * len(ids)
    if not len(ids) == len(scores) == len(labels):
        raise Unavailable(f"the server answered {len(scores)} scores for {len(ids)} ids; is there a proxy that changes answers?")
    chosen = told.parameters.chosen or [*variants] * len(ids)
    return Part(ids, scores, labels, chosen, [variants[name] for name in chosen], others)


def _array(output: _Output, data: bytes) -> "NDArray[Any]":
    """Return a tensor of raw bytes. Raises Unavailable when they are not what is said of them."""
    import numpy as np

    try:
        if output.datatype != "BYTES":
            return np.frombuffer(data, _DTYPES[output.datatype]).reshape(output.shape)
        texts, place = [], 0
        while place < len(data):
            start = place + 4
            place = start + int.from_bytes(data[place:start], "little")
            texts.append(data[start:place].decode())
        return np.array(texts, dtype=object).reshape(output.shape)
    except (ValueError, KeyError) as error:
        raise Unavailable(
            f"the server's output {output.name!r} was not understood ({error}); is there a proxy that changes answers?"
        ) from error


def _columns(rows: Sequence[dict[str, Any] | None]) -> "dict[str, NDArray[Any]]":
    names = [name for name in (rows[0] if rows else None) or {} if all(row is not None and name in row for row in rows)]
    if not names:
        return {}
    import numpy as np

    columns = {name: np.array([row[name] for row in rows if row is not None]) for name in names}
    return {name: column.astype(object) if column.dtype.kind == "U" else column for name, column in columns.items()}


def _read(body: bytes, kind: Any) -> Any:
    try:
        return decode(body, kind, what="the server's answer")
    except ValueError as error:
        raise Unavailable(f"{error}; expected predictions: is this the address where they are served?") from error
