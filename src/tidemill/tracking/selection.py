"""Which runs are meant: by id, by the names of experiments, by a filter."""

from collections.abc import Iterator, Sequence

from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import ExperimentInTrash, ExperimentNotFound, View, find_experiment, list_experiments
from tidemill.tracking.runs import Run
from tidemill.tracking.search import search_runs

AT_ONCE = 1000


def experiment_ids(ws: Workspace, names: Sequence[str] = ()) -> list[int]:
    """Return the ids of experiments by their names, of all that are in use without any. Raises ExperimentNotFound, ExperimentInTrash."""
    if not names:
        return [experiment.id for experiment in list_experiments(ws)]
    found = []
    for name in dict.fromkeys(names):
        experiment = find_experiment(ws, name)
        if experiment is None:
            raise ExperimentNotFound(name)
        if experiment.deleted_at is not None:
            raise ExperimentInTrash(experiment)
        found.append(experiment.id)
    return found


def matching_runs(
    ws: Workspace,
    experiments: Sequence[int],
    *,
    filter: str = "",  # noqa: A002 (the word that every client of MLflow knows)
    order_by: Sequence[str] = (),
    view: View = "active",
) -> Iterator[Run]:
    """Yield all runs of experiments that a filter picks, page by page. Raises FilterRefused."""
    token: str | None = None
    while True:
        page = search_runs(ws, experiments, filter=filter, order_by=order_by, view=view, limit=AT_ONCE, page_token=token)
        yield from page.items
        token = page.next
        if token is None:
            return
