"""What the data plane said of rows: a prediction a row, and all of them as columns."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from tidemill.core.codec import decode
from tidemill.core.errors import Unavailable
from tidemill.core.values import Wire

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER_LENGTH = "inference-header-content-length"


class Prediction(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one row. label is there when a threshold is known."""

    id: str
    score: float
    label: bool | None = None
    variant: str
    version: int


class _Records(Wire, frozen=True, kw_only=True):
    predictions: list[Prediction]


class _Output(Wire, frozen=True, kw_only=True):
    datatype: str
    parameters: dict[str, int]


class _Chosen(Wire, frozen=True, kw_only=True):
    """variants: the version of each that answered; chosen: which answered each row, where there are several."""

    prediction_ids: list[str]
    variants: dict[str, int]
    chosen: list[str] | None = None


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


class Answer(Sequence[Prediction]):
    """Predictions in the order of their rows; an item is made when it is asked for. Columns: ids, scores, labels, variants, versions."""

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
        )  # fmt: skip

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Answer([{shown}{f', ... {len(self)} in all' if len(self) > 3 else ''}])"


def read_records(body: bytes) -> Part:
    """Return what Tidemill's own short form answers. Raises Unavailable when it is something else."""
    found = _read(body, _Records).predictions
    return Part(
        [each.id for each in found], [each.score for each in found], [each.label for each in found],
        [each.variant for each in found], [each.version for each in found],
    )  # fmt: skip


def read_tensors(body: bytes, headers: Any) -> Part:
    """Return what the Open Inference Protocol answers in raw bytes. Raises Unavailable when it is something else."""
    import numpy as np

    length = int(headers.get(HEADER_LENGTH, len(body)))
    told = _read(body[:length], _Tensors)
    by_type, place = {}, length
    for output in told.outputs:
        size = output.parameters.get("binary_data_size", 0)
        by_type[output.datatype] = body[place : place + size]
        place += size
    ids, variants = told.parameters.prediction_ids, told.parameters.variants
    scores: Any = np.frombuffer(by_type.get("FP64", b""), "<f8")
    labels: Any = np.frombuffer(by_type["BOOL"], np.bool_).tolist() if "BOOL" in by_type else [None] * len(ids)
    if not len(ids) == len(scores) == len(labels):
        raise Unavailable(f"the server answered {len(scores)} scores for {len(ids)} ids; is there a proxy that changes answers?")
    chosen = told.parameters.chosen or [*variants] * len(ids)
    return Part(ids, scores, labels, chosen, [variants[name] for name in chosen])


def _read(body: bytes, kind: Any) -> Any:
    try:
        return decode(body, kind, what="the server's answer")
    except ValueError as error:
        raise Unavailable(f"{error}; expected predictions: is this the address where they are served?") from error
