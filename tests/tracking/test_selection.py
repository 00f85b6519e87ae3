"""Which runs are meant."""

import pytest

from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import ExperimentInTrash, ExperimentNotFound, delete_experiment, find_experiment
from tidemill.tracking.runs import start_run
from tidemill.tracking.selection import AT_ONCE, experiment_ids, matching_runs


def test_experiments_are_meant_by_name_or_all_of_them(any_ws: Workspace) -> None:
    for name in ("delay", "price"):
        start_run(any_ws, name, name="r")
    found = {name: find_experiment(any_ws, name).id for name in ("delay", "price")}  # type: ignore[union-attr]
    assert experiment_ids(any_ws, ["price", "price"]) == [found["price"]]
    assert set(experiment_ids(any_ws)) >= set(found.values())
    with pytest.raises(ExperimentNotFound, match="there is no experiment 'nope'"):
        experiment_ids(any_ws, ["nope"])
    delete_experiment(any_ws, found["price"])
    with pytest.raises(ExperimentInTrash, match=r"experiment 'price' .* is in the trash"):
        experiment_ids(any_ws, ["price"])
    assert found["price"] not in experiment_ids(any_ws)


@pytest.mark.slow
def test_all_matching_runs_come_page_by_page(ws: Workspace) -> None:
    for number in range(AT_ONCE + 5):
        start_run(ws, "delay", name=f"r{number}", params={"even": number % 2 == 0})
    ids = experiment_ids(ws, ["delay"])
    assert len({run.id for run in matching_runs(ws, ids)}) == AT_ONCE + 5
    assert {run.params["even"] for run in matching_runs(ws, ids, filter="params.even = 'True'")} == {"True"}
