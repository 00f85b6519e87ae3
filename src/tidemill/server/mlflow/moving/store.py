"""What is read of an MLflow store, whatever kind it is: values in MLflow's words, and the law for whoever reads them."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tidemill.tracking.points import Points

# In the order in which they are told.
COUNTED = (
    "experiments", "runs", "params", "tags", "metrics", "metric points", "artifacts", "dataset inputs", "logged models",
    "registered models", "model versions", "model tags", "aliases",
)  # fmt: skip
# MLflow's SQL store has no infinities; this is how it writes them.
LARGEST = 1.7976931348623157e308
# What is a column of a run here, and would be told twice as a tag.
RUN_NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"


class Experiment(NamedTuple):
    """A group of runs. made_ms: when, 0 when nobody knows."""

    id: str
    name: str
    location: str
    deleted: bool
    made_ms: int
    tags: Mapping[str, str]


class Input(NamedTuple):
    """A dataset that a run read."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    tags: Mapping[str, str]


class Run(NamedTuple):
    """One execution, without its points. counts: how many points each metric has."""

    id: str
    experiment: str
    name: str
    status: str
    started_ms: int | None
    ended_ms: int | None
    deleted: bool
    files: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    counts: Mapping[str, int]
    inputs: tuple[Input, ...]
    models_read: tuple[str, ...]
    models_made: tuple[tuple[str, int], ...]


class ModelPoint(NamedTuple):
    """One point of a metric of a logged model."""

    key: str
    value: float
    step: int
    at_ms: int
    run: str
    dataset: str
    digest: str


class LoggedModel(NamedTuple):
    """A model that a run logged. files: where they lie."""

    id: str
    experiment: str
    name: str
    type: str
    status: str
    run: str | None
    deleted: bool
    files: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[ModelPoint, ...]


class Version(NamedTuple):
    """A version of a registered model. files: where they lie; source: what it was made of."""

    number: int
    description: str
    source: str
    files: str
    run: str | None
    run_link: str
    stage: str
    tags: Mapping[str, str]


class Model(NamedTuple):
    """A registered model with its versions, oldest first."""

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    versions: tuple[Version, ...]


class File(NamedTuple):
    """A file of a run or logged model. path: below its folder; stamp: changes when the content may have."""

    path: str
    size_bytes: int
    stamp: str
    where: str


class Store(Protocol):
    """An MLflow store, opened for reading. The law for every kind:

    - Nothing of it is changed, no class that it names is loaded, nothing is unpickled.
    - Everything is told, deleted things too, in an order that stays the same. Infinities are infinities, NaN is NaN.
    - Points come in the order of time, then step: what is logged later stands behind.
    - A folder that cannot be read from here is None; one that is not there is empty.
    """

    @property
    def place(self) -> str:
        """What it is called in messages."""
        ...

    def experiments(self) -> list[Experiment]: ...

    def runs(self, experiment: str) -> Iterator[Run]: ...

    def points(self, run: Run) -> Iterator[tuple[str, Points]]:
        """Yield the history of each metric of a run."""
        ...

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]: ...

    def models(self) -> Iterator[Model]: ...

    def files(self, owner: Run | LoggedModel) -> list[File] | None:
        """Return what lies in a folder and below."""
        ...

    def fetched(self, file: File, scratch: Path) -> AbstractContextManager[Path]:
        """Give a file as one on this machine, while the block lasts."""
        ...

    def counts(self) -> dict[str, int]:
        """Return how much there is of each kind. Asked last: what can only be counted by reading it was read by then."""
        ...

    def left_out(self) -> list[str]:
        """Say what there is that is not moved."""
        ...

    def close(self) -> None: ...


def text(value: Any) -> str:
    """Return a field that may be missing as text."""
    return "" if value is None else str(value)
