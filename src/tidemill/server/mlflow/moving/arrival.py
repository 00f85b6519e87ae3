"""Bring an MLflow store here: what is not here yet, or has changed since. Killed at any moment and started again, it goes on.

Each thing is claimed before it is made (so that a second try finds what the first left), and marked when all of it is here (so
that a further import passes it over). Its id is kept where that is free. What was removed here for good comes again; what lies in
the trash here stays there, but for models, whose names are free then.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from tidemill.core.clock import from_micros
from tidemill.core.digest import digest_value
from tidemill.core.ids import RunId
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.moving import store as theirs
from tidemill.server.mlflow.moving.luggage import Luggage
from tidemill.server.mlflow.moving.models import Brought, bring_models, count_models, removed_models
from tidemill.server.mlflow.moving.origin import identity
from tidemill.server.mlflow.moving.store import COUNTED, PARENT, File, Store
from tidemill.tracking import experiments, inputs, logged_models, moves, runs
from tidemill.tracking.batches import Series
from tidemill.tracking.experiments import ExperimentInTrash
from tidemill.tracking.files import model_folder, run_folder
from tidemill.tracking.inputs import DatasetInput, InputDataset, ModelOutput
from tidemill.tracking.logged_models import ModelPoint, ModelStatus
from tidemill.tracking.runs import RunStatus

CHUNK_POINTS = 50_000
RUNS_AT_ONCE = 200
KEPT_IDS = 1_000_000_000  # larger ids of experiments, as mlruns makes them, would drive ours up with them
_FAR_MS = 253_402_300_799_999
_STATUSES: Mapping[str, RunStatus] = {
    "running": "running", "scheduled": "scheduled", "finished": "finished", "failed": "failed", "killed": "killed",
}  # fmt: skip
_MODEL_STATUSES: Mapping[str, ModelStatus] = {"pending": "pending", "ready": "ready", "failed": "failed"}
Watch = Callable[[str, int], None]


class Counted(Value, frozen=True, kw_only=True):
    """How much of one kind there is, there and here."""

    kind: str
    theirs: int
    ours: int


class Arrival(Value, frozen=True, kw_only=True):
    """What an import did. fresh: how many things it brought or brought up to date; notes: what is left to know."""

    origin: str
    place: str
    agrees: bool
    fresh: int
    counts: tuple[Counted, ...]
    notes: tuple[str, ...]


def bring(ws: Workspace, store: Store, *, watch: Watch = lambda _what, _count: None) -> Arrival:
    """Bring all of a store here. watch is told what is being brought, and how many things were looked at so far."""
    state = ws.state / "tmp"
    state.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=state, prefix="import-") as scratch:
        luggage = Luggage(ws, identity(store), store, Path(scratch), watch)
        luggage.bring_again([*moves.removed_moves(ws, luggage.origin), *removed_models(luggage)])
        found = store.experiments()
        for experiment in found:
            _bring_runs(luggage, experiment)
        models = bring_models(luggage)
        for experiment in found:
            _finish_experiment(luggage, experiment)
        luggage.settle()
        luggage.forget_the_gone()
        return _told(luggage, models)


def _bring_runs(luggage: Luggage, experiment: theirs.Experiment) -> None:
    """Bring an experiment, its runs and its logged models.

    Models may be measured by runs, and runs made of models: such runs are marked when both are here.
    """
    ours, waiting = _experiment(luggage, experiment), []
    found = luggage.store.runs(experiment.id)
    while some := list(islice(found, RUNS_AT_ONCE)):
        luggage.claim_runs([run.id for run in some])
        waiting += [finish for run in some if (finish := _run(luggage, run, ours)) is not None]
    for model in luggage.store.logged_models(experiment.id):
        _logged_model(luggage, model, ours)
    for finish in waiting:
        finish()


def _told(luggage: Luggage, models: list[Brought]) -> Arrival:
    here = {**moves.count_moved(luggage.ws, luggage.origin), **count_models(luggage.ws, models)}
    there = luggage.store.counts()
    counts = tuple(Counted(kind=kind, theirs=there[kind], ours=here[kind]) for kind in COUNTED)
    return Arrival(
        origin=luggage.origin,
        place=luggage.store.place,
        agrees=all(each.theirs == each.ours for each in counts),
        fresh=luggage.fresh,
        counts=counts,
        notes=(*luggage.notes(), *luggage.store.left_out()),
    )


def _experiment(luggage: Luggage, experiment: theirs.Experiment) -> int:
    """Return the experiment that theirs is here: the one of its name, else a new one, under its id if that is free."""
    ws = luggage.ws
    luggage.looked_at("experiments")
    known = luggage.ours("experiment", experiment.id)
    if known is None:
        there = experiments.find_experiment(ws, experiment.name)
        known = str(_new_experiment(luggage, experiment) if there is None or there.lifecycle == "deleted" else there.id)
        luggage.remember("experiment", experiment.id, known)
    number = int(known)
    if luggage.mark("experiment", experiment.id) != _mark_of(experiment):
        if experiments.read_experiment(ws, number).lifecycle == "deleted":
            experiments.restore_experiment(ws, number)
        luggage.trying(f"experiment {experiment.name}", partial(experiments.set_experiment_tags, ws, number, dict(experiment.tags)))
    return number


def _new_experiment(luggage: Luggage, experiment: theirs.Experiment) -> int:
    """Make an experiment. What lies in a bucket stays there: clients find it by the location, as before."""
    number = int(experiment.id) if experiment.id.isdecimal() else KEPT_IDS
    remote = "://" in experiment.location and not experiment.location.startswith(("file:", "mlflow-artifacts:"))
    made = experiments.create_experiment(
        luggage.ws, experiment.name, location=experiment.location if remote else "", wanted=number if number < KEPT_IDS else None
    )
    return made.id


def _finish_experiment(luggage: Luggage, experiment: theirs.Experiment) -> None:
    """Put an experiment that they deleted into the trash, now that nothing more is written to it; mark it."""
    known, mark = luggage.ours("experiment", experiment.id), _mark_of(experiment)
    if known is None:
        return
    if experiment.deleted and experiments.read_experiment(luggage.ws, int(known)).lifecycle == "active":
        experiments.delete_experiment(luggage.ws, int(known))
    if luggage.mark("experiment", experiment.id) != mark:
        luggage.remember("experiment", experiment.id, known, mark)
        luggage.fresh += 1


def _run(luggage: Luggage, run: theirs.Run, experiment: int) -> Callable[[], None] | None:
    """Bring a run; return what is left to do once the logged models are here, None when nothing is."""
    luggage.looked_at("runs")
    files, known = luggage.store.files(run), luggage.run(run.id)
    folder, mark = run_folder(experiment, known), _mark_of(run, files)
    luggage.placed(run.files, folder)
    luggage.placed(f"runs:/{run.id}", folder)
    if files is None:
        luggage.cannot_reach(run.files)
    before = luggage.mark("run", run.id)
    if before == mark:
        return None
    _open_run(luggage, run, known, experiment)
    tags = {key: luggage.known("run", value) or "" if key == PARENT else value for key, value in run.tags.items()}
    luggage.write(known, run.params, tags)
    if before:
        for key in set(runs.read_run(luggage.ws, known).tags) - set(tags):
            runs.delete_tag(luggage.ws, known, key)
    _points(luggage, run, known)
    for given in run.inputs:
        luggage.trying(f"run {run.id}", partial(_log_input, luggage.ws, known, given))
    luggage.keep(folder, files or [], again=bool(before))
    ended = None if run.ended_ms is None else _moment(run.ended_ms)
    runs.update_run(luggage.ws, known, name=run.name, status=_STATUSES.get(run.status, "finished"), ended_at=ended)
    finish = partial(_finish_run, luggage, run, known, mark)
    if run.models_read or run.models_made or run.deleted:
        return finish
    finish()
    return None


def _finish_run(luggage: Luggage, run: theirs.Run, known: str, mark: str) -> None:
    """Link a run to the logged models that it read and made, put it into the trash if it lay there, mark it."""
    if run.models_read:
        inputs.log_inputs(luggage.ws, known, models=[luggage.model(model) for model in run.models_read])
    if run.models_made:
        made = [ModelOutput(model=luggage.model(model), step=step) for model, step in run.models_made]
        inputs.log_outputs(luggage.ws, known, made)
    if run.deleted:
        runs.delete_run(luggage.ws, known)
    luggage.remember("run", run.id, known, mark)
    luggage.fresh += 1


def _open_run(luggage: Luggage, run: theirs.Run, known: str, experiment: int) -> None:
    """Make a run if it is new, and open it for what comes."""
    parent = luggage.known("run", run.tags.get(PARENT))
    start = partial(
        runs.start_run,
        luggage.ws,
        experiment,
        name=run.name,
        parent=RunId(parent) if parent else None,
        run_id=RunId(known),
        started_at=_moment(run.started_ms or 0),
    )
    try:
        found = start()
    except ExperimentInTrash:
        experiments.restore_experiment(luggage.ws, experiment)  # it goes back when all that is new in it has come
        found = start()
    if found.deleted_at is not None:
        runs.restore_run(luggage.ws, known)


def _points(luggage: Luggage, run: theirs.Run, known: str) -> None:
    """Add what their histories have beyond ours, so many points at once."""
    here = {key: len(runs.metric_history(luggage.ws, known, key)) for key in runs.read_run(luggage.ws, known).metrics}
    total, size = sum(here.values()), 0
    some: list[Series] = []
    for key, points in luggage.store.points(run):
        start = here.get(key, 0)
        while start < len(points):
            end = min(start + CHUNK_POINTS - size, len(points))
            values, steps, times = (column[start:end].tobytes() for column in points)
            some.append(Series(key=key, values=values, steps=steps, times=times))
            total, size, start = total + end - start, size + end - start, end
            if size == CHUNK_POINTS:
                luggage.add_points(known, some, total)
                some, size = [], 0
    if some:
        luggage.add_points(known, some, total)


def _log_input(ws: Workspace, run: str, given: theirs.Input) -> None:
    dataset = InputDataset(
        name=given.name, digest=given.digest, source_type=given.source_type, source=given.source, schema=given.schema, profile=given.profile
    )
    inputs.log_inputs(ws, run, [DatasetInput(dataset=dataset, tags=dict(given.tags))])


def _logged_model(luggage: Luggage, model: theirs.LoggedModel, experiment: int) -> None:
    luggage.looked_at("logged models")
    ws, files, known = luggage.ws, luggage.store.files(model), luggage.model(model.id)
    folder, mark = model_folder(experiment, known), _mark_of(model, files)
    luggage.placed(model.files, folder)
    luggage.placed(f"models:/{model.id}", folder)
    if files is None:
        luggage.cannot_reach(model.files)
    before = luggage.mark("logged model", model.id)
    if before == mark:
        return
    run = luggage.known("run", model.run)
    found = logged_models.create_logged_model(ws, experiment, name=model.name, model_type=model.type, source_run=run, model_id=known)
    if found.deleted_at is not None:
        logged_models.restore_logged_model(ws, known)
    label = f"logged model {model.id}"
    luggage.trying(label, partial(logged_models.log_model_params, ws, known, dict(model.params)))
    luggage.trying(label, partial(logged_models.set_model_tags, ws, known, dict(model.tags)))
    with ws.catalog.transaction() as tx:
        logged_models.write_model_points(ws, tx, {known: [_model_point(luggage, point) for point in model.points]})
    luggage.keep(folder, files or [], again=bool(before))
    if found.status != (status := _MODEL_STATUSES[model.status]):
        logged_models.finish_logged_model(ws, known, status=status)
    if model.deleted:
        logged_models.delete_logged_model(ws, known)
    luggage.remember("logged model", model.id, known, mark)
    luggage.fresh += 1


def _model_point(luggage: Luggage, point: theirs.ModelPoint) -> ModelPoint:
    run = luggage.known("run", point.run) or ""
    return ModelPoint(
        key=point.key, value=point.value, step=point.step, at=_moment(point.at_ms), run=run, dataset=point.dataset, digest=point.digest
    )


def _mark_of(thing: theirs.Experiment | theirs.Run | theirs.LoggedModel, files: list[File] | None = None) -> str:
    """Return what a thing looks like: equal as long as nothing of it has changed."""
    return digest_value([repr(thing), [[file.path, file.stamp] for file in files or ()]])


def _moment(ms: int) -> datetime:
    return from_micros(min(max(ms, 0), _FAR_MS) * 1000)
