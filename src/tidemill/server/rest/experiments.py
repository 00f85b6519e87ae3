"""Routes of experiments: names that runs are grouped under, their trash and how long it is kept."""

from collections.abc import Sequence

from tidemill.core.pages import Page
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route
from tidemill.tracking import experiments
from tidemill.tracking.experiments import Experiment, View
from tidemill.tracking.search import count_runs


class CreateExperiment(Value, frozen=True, kw_only=True):
    """A name to group runs under."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)


class Rename(Value, frozen=True, kw_only=True):
    """What it shall be called."""

    name: str


class Keep(Value, frozen=True, kw_only=True):
    """For how many days the deleted runs of an experiment are kept; null: as long as the setting says."""

    days: int | None


def list_experiments(ws: Workspace) -> list[Experiment]:
    """List the experiments in use, by id."""
    return experiments.list_experiments(ws)


def search_experiments(
    ws: Workspace,
    *,
    filter: str = "",  # noqa: A002 (the word that every client knows)
    order_by: Sequence[str] = (),
    view: View = "active",
    limit: Limit = 100,
    page_token: str | None = None,
) -> Page[Experiment]:
    """Return a page of the experiments that a filter picks."""
    return experiments.search_experiments(ws, filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)


def create_experiment(ws: Workspace, *, body: CreateExperiment) -> Experiment:
    """Make an experiment."""
    return experiments.create_experiment(ws, body.name, tags=body.tags)


def get_experiment(ws: Workspace, experiment: int) -> Experiment:
    """Return an experiment, deleted or not."""
    return experiments.read_experiment(ws, experiment)


def rename_experiment(ws: Workspace, experiment: int, *, body: Rename) -> Experiment:
    """Give an experiment another name."""
    return experiments.rename_experiment(ws, experiment, body.name)


def delete_experiment(ws: Workspace, experiment: int) -> Experiment:
    """Put an experiment into the trash; its name is free at once."""
    return experiments.delete_experiment(ws, experiment)


def restore_experiment(ws: Workspace, experiment: int) -> Experiment:
    """Take an experiment out of the trash."""
    return experiments.restore_experiment(ws, experiment)


def keep_for(ws: Workspace, experiment: int, *, body: Keep) -> Experiment:
    """Say for how long the deleted runs of an experiment are kept."""
    return experiments.keep_for(ws, experiment, body.days)


def set_tags(ws: Workspace, experiment: int, *, body: dict[str, str]) -> None:
    """Write tags, replacing those of the same key."""
    experiments.set_experiment_tags(ws, experiment, body)


def delete_tag(ws: Workspace, experiment: int, key: str) -> None:
    """Remove a tag of an experiment."""
    experiments.delete_experiment_tag(ws, experiment, key)


def run_counts(ws: Workspace) -> dict[str, int]:
    """Return how many runs in use each experiment has, by its id."""
    counts = count_runs(ws, [experiment.id for experiment in experiments.list_experiments(ws)])
    return {str(experiment): count for experiment, count in counts.items()}


ROUTES = (
    Route("GET", "/experiments", list_experiments),
    Route("POST", "/experiments", create_experiment, status=201),
    Route("GET", "/experiment-search", search_experiments),
    Route("GET", "/experiment-counts", run_counts),
    Route("GET", "/experiments/{experiment}", get_experiment),
    Route("PATCH", "/experiments/{experiment}", rename_experiment),
    Route("DELETE", "/experiments/{experiment}", delete_experiment),
    Route("POST", "/experiments/{experiment}/restore", restore_experiment),
    Route("PUT", "/experiments/{experiment}/keep", keep_for),
    Route("PUT", "/experiments/{experiment}/tags", set_tags),
    Route("DELETE", "/experiments/{experiment}/tags/{key:path}", delete_tag),
)
