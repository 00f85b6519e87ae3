"""Leave with everything: write what is kept here as an MLflow store, a database and the files beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from tidemill.core.clock import micros
from tidemill.core.ids import new_id
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.moving.arrival import Counted, Watch
from tidemill.server.mlflow.moving.exported_models import write_models
from tidemill.server.mlflow.moving.outgoing import Outgoing, told_number
from tidemill.server.mlflow.moving.sqlite import SqliteStore
from tidemill.server.mlflow.moving.store import COUNTED, PARENT, RUN_NAME
from tidemill.tracking import experiments, inputs, model_search, runs, search
from tidemill.tracking.experiments import Experiment
from tidemill.tracking.files import files_below, model_folder, run_folder
from tidemill.tracking.inputs import DatasetInput, RunLinks
from tidemill.tracking.logged_models import LoggedModel, ModelStatus
from tidemill.tracking.runs import Run

RUNS_AT_ONCE, MODELS_AT_ONCE = 500, 500
USER = "mlflow.user"
_MODEL_STATUS: Mapping[ModelStatus, int] = {"pending": 1, "ready": 2, "failed": 3}
_RUNS = "run_uuid,name,source_type,user_id,status,start_time,end_time,lifecycle_stage,artifact_uri,experiment_id,deleted_time"
_MODELS = (
    "model_id,experiment_id,name,artifact_location,creation_timestamp_ms,last_updated_timestamp_ms,status,lifecycle_stage,model_type,"
    "source_run_id,status_message"
)
_POINTS = "model_id,metric_name,metric_timestamp_ms,metric_step,metric_value,experiment_id,run_id,dataset_name,dataset_digest"
_DATASETS = "dataset_uuid,experiment_id,name,digest,dataset_source_type,dataset_source,dataset_schema,dataset_profile"
_INPUTS = "input_uuid,source_type,source_id,destination_type,destination_id,step"


class Departure(Value, frozen=True, kw_only=True):
    """What an export wrote. command: how to open it."""

    place: str
    command: str
    agrees: bool
    counts: tuple[Counted, ...]
    notes: tuple[str, ...]


def leave(ws: Workspace, folder: Path, *, watch: Watch = lambda _what, _count: None) -> Departure:
    """Write everything of a project into a new or empty folder. Raises Conflict when there is a store in it."""
    ws.require("tracking.read")
    out = Outgoing(ws, folder)
    try:
        looked = _counting(watch)
        for experiment in experiments.search_experiments(ws, view="all", order_by=("experiment_id",), limit=1_000_000).items:
            _experiment(out, experiment)
            looked("experiments")
            for found in _runs_of(ws, experiment):
                _runs(out, experiment, found)
                for _ in found:
                    looked("runs")
            for model in _models_of(ws, experiment):
                _logged_model(out, experiment, model)
                looked("logged models")
        write_models(out, looked)
        database = out.finish()
    finally:
        out.close()
    with closing(SqliteStore(database, artifacts=None)) as written:
        there = written.counts()
    counts = tuple(Counted(kind=kind, ours=out.counts[kind], theirs=there[kind]) for kind in COUNTED)
    return Departure(
        place=str(database),
        command=f"mlflow server --backend-store-uri sqlite:///{database}",
        agrees=all(each.theirs == each.ours for each in counts),
        counts=counts,
        notes=tuple(out.notes),
    )


def _counting(watch: Watch) -> Callable[[str], None]:
    count = 0

    def looked(what: str) -> None:
        nonlocal count
        count += 1
        watch(what, count)

    return looked


def _experiment(out: Outgoing, experiment: Experiment) -> None:
    # Names are unique there among the deleted, too.
    name = experiment.name if experiment.deleted_at is None else f"{experiment.name} (deleted, {experiment.id})"
    place = experiment.location or out.place(str(experiment.id))
    row = (experiment.id, name, place, experiment.lifecycle, _ms(experiment.created_at), _ms(experiment.updated_at))
    columns = "experiment_id,name,artifact_location,lifecycle_stage,creation_time,last_update_time"
    out.counted("experiments", out.write("experiments", columns, [row]))
    out.write("experiment_tags", "key,value,experiment_id", [(key, value, experiment.id) for key, value in experiment.tags.items()])


def _runs_of(ws: Workspace, experiment: Experiment) -> Iterator[Sequence[Run]]:
    token = None
    while True:
        page = search.search_runs(ws, [experiment.id], view="all", order_by=("start_time ASC",), limit=RUNS_AT_ONCE, page_token=token)
        yield page.items
        token = page.next
        if token is None:
            return


def _models_of(ws: Workspace, experiment: Experiment) -> Iterator[LoggedModel]:
    token = None
    while True:
        page = model_search.search_logged_models(ws, [experiment.id], limit=MODELS_AT_ONCE, page_token=token)
        yield from page.items
        token = page.next
        if token is None:
            return


def _runs(out: Outgoing, experiment: Experiment, found: Sequence[Run]) -> None:
    links = inputs.read_links(out.ws, [run.id for run in found])
    for run in found:
        place = f"{experiment.location or out.place(str(experiment.id))}/{run.id}/artifacts"
        tags = {**({PARENT: run.parent} if run.parent else {}), USER: run.actor, **run.tags}
        row = (
            run.id, run.name, "UNKNOWN", tags[USER], run.status.upper(), _ms(run.started_at), _ms(run.ended_at), run.lifecycle, place,
            experiment.id, _ms(run.deleted_at),
        )  # fmt: skip
        out.counted("runs", out.write("runs", _RUNS, [row]))
        out.counted("params", out.write("params", "key,value,run_uuid", [(key, value, run.id) for key, value in run.params.items()]))
        out.counted("tags", out.write("tags", "key,value,run_uuid", [(key, value, run.id) for key, value in tags.items()]))
        out.write("tags", "key,value,run_uuid", [(RUN_NAME, run.name, run.id)])
        _metrics(out, run)
        _links(out, experiment, run, links[run.id])
        _files(out, run_folder(experiment.id, run.id))


def _metrics(out: Outgoing, run: Run) -> None:
    latest = [(key, *told_number(value), run.last[key].at_ms, run.last[key].step, run.id) for key, value in run.metrics.items()]
    out.counted("metrics", out.write("latest_metrics", "key,value,is_nan,timestamp,step,run_uuid", latest))
    for key in run.metrics:
        points = runs.metric_history(out.ws, run.id, key)
        columns = zip(points.values.tolist(), points.times.tolist(), points.steps.tolist(), strict=True)
        rows = [(key, *told_number(value), time // 1000, step, run.id) for value, time, step in columns]
        fresh = out.write("metrics", "key,value,is_nan,timestamp,step,run_uuid", rows)
        out.counted("metric points", fresh)
        if fresh < len(rows):
            out.notes.append(
                f"{len(rows) - fresh} points of {key!r} in run {run.id} equal others in time, step and value: MLflow keeps one"
            )


def _links(out: Outgoing, experiment: Experiment, run: Run, links: RunLinks) -> None:
    for given in links.datasets:
        out.counted("dataset inputs", _dataset(out, experiment, run, given))
    read = [(new_id(), "RUN_INPUT", run.id, "MODEL_INPUT", model, 0) for model in links.models_read]
    made = [(new_id(), "RUN_OUTPUT", run.id, "MODEL_OUTPUT", each.model, each.step) for each in links.models_made]
    out.write("inputs", _INPUTS, [*read, *made])


def _dataset(out: Outgoing, experiment: Experiment, run: Run, given: DatasetInput) -> int:
    data, use = given.dataset, new_id()
    # One id for one dataset of an experiment, whichever run tells of it first.
    dataset = f"{experiment.id}-{data.digest}-{data.name}"
    number = out.datasets.setdefault(dataset, new_id())
    out.write(
        "datasets", _DATASETS, [(number, experiment.id, data.name, data.digest, data.source_type, data.source, data.schema, data.profile)]
    )
    out.write("input_tags", "input_uuid,name,value", [(use, key, value) for key, value in given.tags.items()])
    return out.write("inputs", _INPUTS, [(use, "DATASET", number, "RUN", run.id, 0)])


def _logged_model(out: Outgoing, experiment: Experiment, model: LoggedModel) -> None:
    place = f"{experiment.location or out.place(str(experiment.id))}/models/{model.id}/artifacts"
    row = (
        model.id, experiment.id, model.name, place, _ms(model.created_at), _ms(model.updated_at), _MODEL_STATUS[model.status], "active",
        model.model_type, model.source_run, model.message or None,
    )  # fmt: skip
    out.counted("logged models", out.write("logged_models", _MODELS, [row]))
    for table, kind, texts in (("logged_model_params", "param", model.params), ("logged_model_tags", "tag", model.tags)):
        rows = [(model.id, experiment.id, key, value) for key, value in texts.items()]
        out.write(table, f"model_id,experiment_id,{kind}_key,{kind}_value", rows)
    points = []
    for point in model.metrics:
        value, is_nan = told_number(point.value)
        number = None if is_nan else value
        points.append(
            (model.id, point.key, _ms(point.at), point.step, number, experiment.id, point.run, point.dataset or None, point.digest or None)
        )
    out.write("logged_model_metrics", _POINTS, points)
    _files(out, model_folder(experiment.id, model.id))


def _files(out: Outgoing, folder: str) -> None:
    for file in files_below(out.ws, folder):
        out.put(file.path, file.digest)
        out.counted("artifacts", 1)


def _ms(moment: datetime | None) -> Any:
    return None if moment is None else micros(moment) // 1000
