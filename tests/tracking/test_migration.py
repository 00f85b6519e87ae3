"""What an older Tidemill kept of runs is all there after the upgrade."""

from pathlib import Path

import pytest

from tests import world
from tests.older import older
from tidemill.catalog.catalog import Catalog
from tidemill.core.clock import micros
from tidemill.govern.workspace import create_project
from tidemill.tracking.batches import log_metrics
from tidemill.tracking.experiments import list_experiments
from tidemill.tracking.runs import metric_history, read_run, start_run
from tidemill.tracking.search import search_runs

AT = micros(world.START)
ONE, TWO, APART = "1" * 32, "2" * 32, "3" * 32
BEFORE = f"""
INSERT INTO experiments (project, id, name, created_at) VALUES
  ('default', 1, 'delay', {AT}), ('default', 2, 'other', {AT}), ('apart', 1, 'delay', {AT});
INSERT INTO runs (project, id, experiment_id, name, kind, parent, status, actor, started_at, ended_at, message) VALUES
  ('default', '{ONE}', 1, 'one', 'run', NULL, 'finished', 'ann', {AT}, {AT + 9}, ''),
  ('default', '{TWO}', 2, 'two', 'step', '{ONE}', 'failed', 'ann', {AT + 1}, {AT + 9}, 'no data'),
  ('apart', '{APART}', 1, 'three', 'run', NULL, 'running', 'bob', {AT + 2}, NULL, '');
INSERT INTO params (project, run, key, value) VALUES ('default', '{ONE}', 'depth', '3'), ('apart', '{APART}', 'depth', '{"9" * 500}');
INSERT INTO run_tags (project, run, key, value) VALUES ('default', '{ONE}', 'team', 'a b');
INSERT INTO metrics (project, run, key, value, step, at) VALUES
  ('default', '{ONE}', 'loss', 0.25, 2, {AT + 3}), ('apart', '{APART}', 'loss', 9.0, 0, {AT});
INSERT INTO metric_points (project, run, key, number, value, step, at) VALUES
  ('default', '{ONE}', 'loss', 1, 1.0, 0, {AT + 1}), ('default', '{ONE}', 'loss', 2, 0.5, 1, {AT + 2}),
  ('default', '{ONE}', 'loss', 3, 0.25, 2, {AT + 3}), ('apart', '{APART}', 'loss', 1, 9.0, 0, {AT});
INSERT INTO run_artifacts (project, run, path, digest, size_bytes) VALUES ('default', '{ONE}', 'plots/roc.svg', '{"d" * 64}', 7)
"""


@pytest.mark.slow
def test_runs_with_all_that_was_logged_are_kept(catalog_url: str, tmp_path: Path) -> None:
    (tmp_path / "home" / ".tidemill").mkdir(parents=True)
    catalog = Catalog(catalog_url, folder=tmp_path / "home" / ".tidemill")
    older(catalog, "tracking_0001", BEFORE)
    catalog.close()
    with world.workspace(tmp_path / "home", catalog=catalog_url) as ws:
        assert [(item.id, item.name) for item in list_experiments(ws)] == [(1, "delay"), (2, "other")]
        one = read_run(ws, ONE)
        assert (one.experiment, one.params, one.tags, one.metrics, one.last["loss"].step) == (
            "delay",
            {"depth": "3"},
            {"team": "a b"},
            {"loss": 0.25},
            2,
        )
        assert [(file.path, file.size_bytes) for file in one.artifacts] == [("plots/roc.svg", 7)]
        points = metric_history(ws, ONE, "loss")
        assert (points.values.tolist(), points.steps.tolist(), points.times.tolist()) == (
            [1.0, 0.5, 0.25],
            [0, 1, 2],
            [AT + 1, AT + 2, AT + 3],
        )
        two = read_run(ws, TWO)
        assert (two.kind, two.parent, two.status, two.message, two.lifecycle) == ("step", ONE, "failed", "no data", "active")
        assert [run.id for run in search_runs(ws, [1, 2], filter="params.depth = '3'").items] == [ONE]
        create_project(ws, "apart")
        apart = ws.acting(ws.actor, "apart")
        (experiment,) = list_experiments(apart)
        assert experiment.id not in (1, 2)  # ids are one sequence for all projects now
        assert [run.name for run in search_runs(apart, [experiment.id], filter=f"params.depth = '{'9' * 500}'").items] == ["three"]
        log_metrics(apart, APART, {"loss": 1.0})
        assert start_run(ws, "delay", name="new").experiment_id == 1
