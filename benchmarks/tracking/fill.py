"""The same runs in Tidemill's catalog and in MLflow's database, written past both servers: 50 metrics, 10 params and 2 tags each."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import insert

from tidemill.core.clock import from_micros
from tidemill.govern.workspace import init_workspace
from tidemill.tracking import facts
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.runs import RUNS

METRICS, PARAMS, TEAMS, AT_ONCE = 50, 10, 200, 2000
BEGIN_MS = 1_700_000_000_000
NAME = "searched"


class Given(NamedTuple):
    """One run."""

    id: str
    name: str
    started_ms: int
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]


def runs(count: int) -> Iterator[Given]:
    """Yield runs, the same ones each time."""
    chance = random.Random(3)
    for number in range(count):
        yield Given(
            id=f"{number:032x}",
            name=f"run-{number}",
            started_ms=BEGIN_MS + number,
            metrics={f"metric_{key}": chance.random() for key in range(METRICS)},
            params={f"param_{key}": str(chance.randrange(10 * (key + 1))) for key in range(PARAMS)},
            tags={"mlflow.runName": f"run-{number}", "team": f"team-{chance.randrange(TEAMS):03d}"},
        )


def fill_tidemill(home: Path, count: int, *, catalog: str | None = None) -> str:
    """Make a workspace with that many runs; return the experiment's id."""
    ws = init_workspace(home, **({"catalog": catalog} if catalog else {}))
    experiment = create_experiment(ws, NAME).id
    given = runs(count)
    for first in range(1, count + 1, AT_ONCE):
        some = list(islice(given, AT_ONCE))
        numbered = list(enumerate(some, first))
        with ws.catalog.transaction() as tx:
            tx.execute(insert(RUNS), [_row(no, run, ws.project, experiment) for no, run in numbered])
            for no, run in numbered:
                facts.write_params(tx, no, experiment, run.params, run=run.id)
                facts.write_tags(tx, no, experiment, run.tags)
                facts.write_latest(tx, no, experiment, [(key, value, 0, run.started_ms * 1000) for key, value in run.metrics.items()])
    ws.close()
    return str(experiment)


def fill_mlflow(database: Path, experiment: str, count: int) -> None:
    """Write that many runs into MLflow's database, into an experiment that is there."""
    with closing(sqlite3.connect(database)) as file:
        for run in runs(count):
            file.execute(
                "INSERT INTO runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id,"
                " user_id) VALUES (?, ?, 'UNKNOWN', 'FINISHED', ?, ?, 'active', ?, ?, 'bench')",
                (run.id, run.name, run.started_ms, run.started_ms, f"mlflow-artifacts:/{experiment}/{run.id}/artifacts", experiment),
            )
            points = [(key, value, run.started_ms, run.id) for key, value in run.metrics.items()]
            for table in ("metrics", "latest_metrics"):
                file.executemany(f"INSERT INTO {table} (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, 0, 0)", points)
            for table, facts_of in (("params", run.params), ("tags", run.tags)):
                file.executemany(
                    f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)", [(*item, run.id) for item in facts_of.items()]
                )
        file.commit()


def _row(no: int, run: Given, project: str, experiment: int) -> dict[str, Any]:
    at = from_micros(run.started_ms * 1000)
    return {
        "no": no, "project": project, "id": run.id, "experiment_id": experiment, "name": run.name, "kind": "run", "parent": None,
        "status": "finished", "actor": "bench", "started_at": at, "ended_at": at, "message": "",
    }  # fmt: skip
