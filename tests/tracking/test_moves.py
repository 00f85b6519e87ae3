"""What came from another server: remembered by origin, and counted from what is there."""

import pytest

from tests import world
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Metric, log_batch
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.moves import Move, count_moved, forget_moves, read_moves, write_moves
from tidemill.tracking.runs import start_run


def test_what_came_is_remembered_by_its_origin_alone(ws: Workspace) -> None:
    half, whole = Move(kind="run", theirs="7", ours="a"), Move(kind="run", theirs="7", ours="a", mark="done")
    write_moves(ws, "mlflow-1", [half])
    write_moves(ws, "mlflow-1", [whole])
    write_moves(ws, "mlflow-2", [half])
    assert (read_moves(ws, "mlflow-1"), read_moves(ws, "mlflow-2")) == ([whole], [half])
    forget_moves(ws, "mlflow-1", [whole])
    assert (read_moves(ws, "mlflow-1"), read_moves(ws, "mlflow-2")) == ([], [half])


def test_what_is_there_is_counted_and_not_what_was_remembered(ws: Workspace) -> None:
    experiment = create_experiment(ws, "e")
    run = start_run(ws, "e", name="r")
    log_batch(ws, run.id, metrics=[Metric(key="auc", value=0.5, step=1), Metric(key="auc", value=0.6, step=2)], params={"depth": 6})
    write_moves(ws, "o", [Move(kind="experiment", theirs="x", ours=str(experiment.id))])
    write_moves(ws, "o", [Move(kind="run", theirs="7", ours=run.id)])
    write_moves(ws, "o", [Move(kind="run", theirs="8", ours="never started")])
    counted = count_moved(ws, "o")
    assert {name: count for name, count in counted.items() if count} == {
        "experiments": 1, "runs": 1, "params": 1, "metrics": 1, "metric points": 2,
    }  # fmt: skip
    assert set(count_moved(ws, "another").values()) == {0}


def test_remembering_asks_for_the_right_to_write(ws: Workspace) -> None:
    reader = world.acting(ws, "vic", "viewer")
    with pytest.raises(ActionRefused):
        write_moves(reader, "o", [Move(kind="run", theirs="7", ours="a")])
    with pytest.raises(ActionRefused):
        forget_moves(reader, "o", [])
