"""What runs read and made: datasets with the tags of their use, and logged models. Owns their tables."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    bindparam,
    exists,
    select,
)

from tidemill.catalog.lineage import link
from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, JsonValue, Text, insert_new, upsert
from tidemill.core.errors import Invalid
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.tracking.runs import RUNS, find_run

# The tag that says what a dataset was used for (training, test …), as MLflow's clients name it.
CONTEXT = "mlflow.data.context"
NAME_MAX, DIGEST_MAX, SOURCE_MAX, SCHEMA_MAX, PROFILE_MAX = 500, 36, 65_535, 1_048_575, 16_777_215
TAG_KEY_MAX, TAG_VALUE_MAX = 255, 500
SUMMARIES_MAX = 1000

INPUT_DATASETS = Table(
    "input_datasets",
    METADATA,
    Column("no", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("project", Text, nullable=False),
    Column("experiment_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("source_type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("schema", Text),
    Column("profile", Text),
    UniqueConstraint("experiment_id", "name", "digest"),
)
# Which run read which of them. run: runs.no; context: what the tag CONTEXT says, for searches.
RUN_DATASETS = Table(
    "run_datasets",
    METADATA,
    Column("run", BigInteger, nullable=False),
    Column("dataset", BigInteger, nullable=False),
    Column("context", Text),
    Column("tags", JsonValue(dict[str, str]), nullable=False),
    PrimaryKeyConstraint("run", "dataset"),
    Index("ix_run_datasets_dataset", "dataset", "run"),
)
RUN_MODELS = Table(
    "run_models",
    METADATA,
    Column("run", BigInteger, nullable=False),
    Column("direction", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    PrimaryKeyConstraint("run", "direction", "model"),
    Index("ix_run_models_model", "model", "direction"),
)

_ANY_LINK = Prepared(
    select(RUNS.c.no).where(
        RUNS.c.project == bindparam("project"),
        RUNS.c.id == bindparam("id"),
        exists().where(RUN_DATASETS.c.run == RUNS.c.no) | exists().where(RUN_MODELS.c.run == RUNS.c.no),
    )
)


class InputDataset(Value, frozen=True, kw_only=True):
    """A dataset as its user describes it. digest: of its content, by any method; source: JSON or a place, by source_type."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        sizes = (
            ("name", self.name, NAME_MAX), ("digest", self.digest, DIGEST_MAX), ("source", self.source, SOURCE_MAX),
            ("schema", self.schema or "", SCHEMA_MAX), ("profile", self.profile or "", PROFILE_MAX),
        )  # fmt: skip
        for what, text, most in sizes:
            if len(text) > most or "\0" in text:
                raise Invalid(
                    f"the {what} of dataset {self.name[:80]!r} has {len(text)} characters; expected at most {most}, none of them NUL"
                )
        if not self.name or not self.digest:
            raise Invalid("a dataset needs a name and a digest; send both")


class DatasetInput(Value, frozen=True, kw_only=True):
    """A dataset with the tags of its use in one run."""

    dataset: InputDataset
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in self.tags.items():
            if not key or len(key) > TAG_KEY_MAX or len(value) > TAG_VALUE_MAX:
                raise Invalid(
                    f"tag {key[:80]!r} of dataset {self.dataset.name[:80]!r} is not usable; "
                    f"expected a key of 1 to {TAG_KEY_MAX} characters and a value of at most {TAG_VALUE_MAX}"
                )


class ModelOutput(Value, frozen=True, kw_only=True):
    """A logged model that a run made, and at which step."""

    model: str
    step: int = 0


class RunLinks(Value, frozen=True, kw_only=True):
    """What one run read and made."""

    datasets: tuple[DatasetInput, ...] = ()
    models_read: tuple[str, ...] = ()
    models_made: tuple[ModelOutput, ...] = ()


class DatasetSummary(Value, frozen=True, kw_only=True):
    """A dataset that runs of an experiment read, and what for."""

    experiment_id: int
    name: str
    digest: str
    context: str | None


def log_inputs(ws: Workspace, run: str, datasets: Sequence[DatasetInput] = (), *, models: Sequence[str] = ()) -> None:
    """Record what a run read. A dataset that it read already keeps the tags of the first time. Raises RunNotFound, RunInTrash."""
    ws.require("tracking.write", run)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        for item in datasets:
            number = _write_dataset(tx, ws.project, found.experiment_id, item.dataset)
            insert_new(tx, RUN_DATASETS, [{"run": found.no, "dataset": number, "context": item.tags.get(CONTEXT), "tags": item.tags}])
            node = f"dataset:{item.dataset.name}@{item.dataset.digest}"
            link(tx, ws.project, source=node, target=f"run:{run}", relation="read", at=now)
        for model in models:
            insert_new(tx, RUN_MODELS, [{"run": found.no, "direction": "read", "model": model, "step": 0}])
            link(tx, ws.project, source=f"logged-model:{model}", target=f"run:{run}", relation="read", at=now)


def log_outputs(ws: Workspace, run: str, models: Sequence[ModelOutput]) -> None:
    """Record which logged models a run made. Raises RunNotFound, RunInTrash."""
    ws.require("tracking.write", run)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        found = find_run(tx, ws.project, run)
        for item in models:
            upsert(tx, RUN_MODELS, [{"run": found.no, "direction": "made", "model": item.model, "step": item.step}])
            link(tx, ws.project, source=f"run:{run}", target=f"logged-model:{item.model}", relation="made", at=now)


def read_links(ws: Workspace, runs: Sequence[str]) -> dict[str, RunLinks]:
    """Return what each of some runs read and made; nothing for one that is not there."""
    ws.require("tracking.read")
    found: dict[str, tuple[list[DatasetInput], list[str], list[ModelOutput]]] = {run: ([], [], []) for run in runs}
    if not runs:
        return {}
    mine = RUNS.join(RUN_DATASETS, RUN_DATASETS.c.run == RUNS.c.no).join(INPUT_DATASETS, INPUT_DATASETS.c.no == RUN_DATASETS.c.dataset)
    datasets = select(RUNS.c.id.label("run_id"), RUN_DATASETS.c.tags, INPUT_DATASETS).select_from(mine)
    models = select(RUNS.c.id, RUN_MODELS).select_from(RUNS.join(RUN_MODELS, RUN_MODELS.c.run == RUNS.c.no))
    of_runs = (RUNS.c.project == ws.project) & RUNS.c.id.in_(runs)
    with ws.catalog.reading() as tx:
        if len(runs) == 1 and _ANY_LINK.run(tx, {"project": ws.project, "id": runs[0]}).fetchone() is None:
            return {runs[0]: RunLinks()}
        for row in tx.execute(datasets.where(of_runs).order_by(INPUT_DATASETS.c.no)):
            found[row.run_id][0].append(DatasetInput(dataset=_dataset(row), tags=row.tags))
        for row in tx.execute(models.where(of_runs).order_by(RUN_MODELS.c.model)):
            if row.direction == "read":
                found[row.id][1].append(row.model)
            else:
                found[row.id][2].append(ModelOutput(model=row.model, step=row.step))
    return {run: RunLinks(datasets=tuple(a), models_read=tuple(b), models_made=tuple(c)) for run, (a, b, c) in found.items()}


def search_datasets(ws: Workspace, experiments: Sequence[int]) -> list[DatasetSummary]:
    """Return the datasets that runs of some experiments read, each use once, at most SUMMARIES_MAX."""
    ws.require("tracking.read")
    used = INPUT_DATASETS.join(RUN_DATASETS, RUN_DATASETS.c.dataset == INPUT_DATASETS.c.no)
    columns = INPUT_DATASETS.c.experiment_id, INPUT_DATASETS.c.name, INPUT_DATASETS.c.digest, RUN_DATASETS.c.context
    query = (
        select(*columns).select_from(used).where(INPUT_DATASETS.c.project == ws.project, INPUT_DATASETS.c.experiment_id.in_(experiments))
    )
    with ws.catalog.reading() as tx:
        rows = tx.execute(query.distinct().order_by(*columns[:3]).limit(SUMMARIES_MAX)).all()
    return [DatasetSummary(experiment_id=row.experiment_id, name=row.name, digest=row.digest, context=row.context) for row in rows]


def _write_dataset(tx: Connection, project: str, experiment: int, dataset: InputDataset) -> int:
    row = {"project": project, "experiment_id": experiment, **{name: getattr(dataset, name) for name in dataset.__struct_fields__}}
    insert_new(tx, INPUT_DATASETS, [row])
    there = INPUT_DATASETS.c
    query = select(there.no).where(there.experiment_id == experiment, there.name == dataset.name, there.digest == dataset.digest)
    return int(tx.execute(query).scalar_one())


def _dataset(row: Any) -> InputDataset:
    return InputDataset(**{name: getattr(row, name) for name in InputDataset.__struct_fields__})
