"""An MLflow store in an SQLite file, of any age of its schema: opened for reading, by the tables alone."""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.core.errors import Invalid
from tidemill.server.mlflow.moving.folders import Folders, as_it_lies
from tidemill.server.mlflow.moving.store import (
    LARGEST,
    RUN_NAME,
    Experiment,
    File,
    Input,
    LoggedModel,
    Model,
    ModelPoint,
    Run,
    Version,
    text,
)
from tidemill.tracking.points import Points

WORKSPACE = "default"
DELETED_VERSION = "Deleted_Internal"
AT_ONCE = 500
_MODEL_STATUS = {1: "pending", 2: "ready", 3: "failed"}
_TABLES = ("experiments", "runs", "metrics", "params", "tags")


class SqliteStore:
    """Reads the tables of MLflow's SQL store. What a later schema added is taken where it is there."""

    def __init__(self, path: Path, *, artifacts: Path | None) -> None:
        """Raises Invalid for a file that is no such store."""
        self._path = path
        self._folders = Folders(base=path.parent, proxied=artifacts)
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            self._db.row_factory = sqlite3.Row
            self._db.execute("BEGIN")  # one state, whatever is written meanwhile
            self._columns = {table: self._columns_of(table) for table in self._tables()}
        except sqlite3.Error as error:
            raise Invalid(f"{path} could not be read as a database: {error}; expected the SQLite file of an MLflow server") from error
        if missing := [table for table in _TABLES if table not in self._columns]:
            self._db.close()
            raise Invalid(f"{path} is no MLflow store: it has no table {missing[0]!r}; expected the file that MLflow calls mlflow.db")

    @property
    def place(self) -> str:
        return str(self._path)

    def close(self) -> None:
        self._db.close()

    def experiments(self) -> list[Experiment]:
        tags = self._texts("experiment_tags", "experiment_id")
        rows = self._all(f"SELECT * FROM experiments WHERE {self._mine('experiments')} ORDER BY experiment_id")
        return [
            Experiment(
                id=str(row["experiment_id"]), name=row["name"], location=text(row["artifact_location"]), deleted=_deleted(row),
                made_ms=int(_of(row, "creation_time") or 0), tags=tags.get(row["experiment_id"], {}),
            )
            for row in rows
        ]  # fmt: skip

    def runs(self, experiment: str) -> Iterator[Run]:
        rows = self._all("SELECT * FROM runs WHERE experiment_id = ? ORDER BY start_time, run_uuid", [int(experiment)])
        for start in range(0, len(rows), AT_ONCE):
            yield from self._runs(rows[start : start + AT_ONCE])

    def points(self, run: Run) -> Iterator[tuple[str, Points]]:
        step = "step" if "step" in self._columns["metrics"] else "0"
        nan = "is_nan" if "is_nan" in self._columns["metrics"] else "0"
        # The plus keeps SQLite from walking through the points of all runs in the order of the primary key.
        order = f"ORDER BY +key, timestamp, {step}, value"
        found = self._db.execute(f"SELECT key, value, {nan}, {step}, timestamp FROM metrics WHERE run_uuid = ? {order}", [run.id])
        for key, group in groupby(found, itemgetter(0)):
            rows = list(group)
            values = np.fromiter((_number(row[1], row[2]) for row in rows), np.float64, len(rows))
            steps = np.fromiter((row[3] or 0 for row in rows), np.int64, len(rows))
            yield key, Points(values, steps, np.fromiter((row[4] * 1000 for row in rows), np.int64, len(rows)))

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        if "logged_models" not in self._columns:
            return
        rows = self._all("SELECT * FROM logged_models WHERE experiment_id = ? ORDER BY model_id", [int(experiment)])
        ids = [row["model_id"] for row in rows]
        params = self._texts("logged_model_params", "model_id", ids, key="param_key", value="param_value")
        tags = self._texts("logged_model_tags", "model_id", ids, key="tag_key", value="tag_value")
        points = self._model_points(ids)
        for row in rows:
            model = row["model_id"]
            yield LoggedModel(
                id=model, experiment=experiment, name=row["name"], type=text(row["model_type"]), run=row["source_run_id"],
                status=_MODEL_STATUS.get(row["status"], "pending"), deleted=_deleted(row), files=row["artifact_location"],
                params=params.get(model, {}), tags=tags.get(model, {}), points=tuple(points.get(model, ())),
            )  # fmt: skip

    def models(self) -> Iterator[Model]:
        if "registered_models" not in self._columns:
            return
        tags = self._texts("registered_model_tags", "name", where=self._mine("registered_model_tags"))
        aliases: dict[str, dict[str, int]] = {}
        for row in self._if_there("registered_model_aliases"):
            aliases.setdefault(row["name"], {})[row["alias"]] = int(row["version"])
        for row in self._all(f"SELECT * FROM registered_models WHERE {self._mine('registered_models')} ORDER BY name"):
            name = row["name"]
            yield Model(
                name=name, description=text(row["description"]), tags=tags.get(name, {}), aliases=aliases.get(name, {}),
                versions=tuple(self._versions(name)),
            )  # fmt: skip

    def files(self, owner: Run | LoggedModel) -> list[File] | None:
        return self._folders.list(owner.files)

    def fetched(self, file: File, scratch: Path) -> AbstractContextManager[Path]:
        return as_it_lies(file)

    def counts(self) -> dict[str, int]:
        of_run = f"(SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE {self._mine('experiments')})"
        inputs = "SELECT count(*) FROM inputs WHERE source_type = 'DATASET' AND destination_type = 'RUN' AND destination_id IN " + of_run
        latest = "latest_metrics" in self._columns
        keys = "latest_metrics" if latest else "(SELECT DISTINCT run_uuid, key FROM metrics)"
        asked = {
            "experiments": f"SELECT count(*) FROM experiments WHERE {self._mine('experiments')}",
            "runs": f"SELECT count(*) FROM {of_run}",
            "params": f"SELECT count(*) FROM params WHERE run_uuid IN {of_run}",
            "tags": f"SELECT count(*) FROM tags WHERE run_uuid IN {of_run} AND key != '{RUN_NAME}'",
            "metrics": f"SELECT count(*) FROM {keys} WHERE run_uuid IN {of_run}",
            "metric points": f"SELECT count(*) FROM metrics WHERE run_uuid IN {of_run}",
            "dataset inputs": inputs if "inputs" in self._columns else "SELECT 0",
        }
        found = {name: int(self._db.execute(query).fetchone()[0]) for name, query in asked.items()}
        listed = [each.id for each in self.experiments()]
        logged = [model for experiment in listed for model in self.logged_models(experiment)]
        files = sum(len(self.files(run) or ()) for experiment in listed for run in self.runs(experiment))
        files += sum(len(self.files(model) or ()) for model in logged)
        return {**found, "logged models": len(logged), "artifacts": files, **counted_models(list(self.models()))}

    def left_out(self) -> list[str]:
        notes = []
        for table, what in (("trace_info", "traces"), ("evaluation_datasets", "evaluation datasets"), ("webhooks", "webhooks")):
            count = len(self._if_there(table))
            if count:
                notes.append(f"{count} {what} are not moved")
        if "workspace" in self._columns["experiments"]:
            others = self._db.execute("SELECT count(DISTINCT workspace) FROM experiments WHERE workspace != ?", [WORKSPACE]).fetchone()[0]
            if others:
                notes.append(f"{others} workspaces beside {WORKSPACE!r} are not moved")
        return notes

    def _runs(self, rows: Sequence[sqlite3.Row]) -> Iterator[Run]:
        ids = [row["run_uuid"] for row in rows]
        params, tags = self._texts("params", "run_uuid", ids), self._texts("tags", "run_uuid", ids)
        counts: dict[str, dict[str, int]] = {}
        query = "SELECT run_uuid, key, count(*) AS points FROM metrics WHERE run_uuid IN ({}) GROUP BY run_uuid, key ORDER BY key"
        for row in self._named(query, ids):
            counts.setdefault(row["run_uuid"], {})[row["key"]] = row["points"]
        datasets, links = self._inputs(ids), self._links(ids)
        for row in rows:
            run, own = row["run_uuid"], dict(tags.get(row["run_uuid"], {}))
            name = own.pop(RUN_NAME, "")
            yield Run(
                id=run, experiment=str(row["experiment_id"]), name=_of(row, "name") or name or run[:8], status=text(row["status"]).lower(),
                started_ms=row["start_time"], ended_ms=row["end_time"], deleted=_deleted(row), files=text(row["artifact_uri"]),
                params=params.get(run, {}), tags=own, counts=counts.get(run, {}), inputs=tuple(datasets.get(run, ())),
                models_read=tuple(sorted(links.get((run, "RUN_INPUT"), {}))),
                models_made=tuple(sorted(links.get((run, "RUN_OUTPUT"), {}).items())),
            )  # fmt: skip

    def _inputs(self, ids: Sequence[str]) -> dict[str, list[Input]]:
        if "inputs" not in self._columns:
            return {}
        query = (
            "SELECT i.input_uuid, i.destination_id AS run, d.* FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id "
            "WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' AND i.destination_id IN ({}) ORDER BY d.name, d.digest"
        )
        rows = list(self._named(query, ids))
        tags = self._texts("input_tags", "input_uuid", [row["input_uuid"] for row in rows], key="name")
        found: dict[str, list[Input]] = {}
        for row in rows:
            found.setdefault(row["run"], []).append(
                Input(
                    name=row["name"], digest=row["digest"], source_type=row["dataset_source_type"], source=row["dataset_source"],
                    schema=row["dataset_schema"], profile=row["dataset_profile"], tags=tags.get(row["input_uuid"], {}),
                )
            )  # fmt: skip
        return found

    def _links(self, ids: Sequence[str]) -> dict[tuple[str, str], dict[str, int]]:
        """Return (run, direction) -> logged model -> step."""
        if "inputs" not in self._columns:
            return {}
        step = "step" if "step" in self._columns["inputs"] else "0 AS step"
        query = f"SELECT source_id, source_type, destination_id, {step} FROM inputs WHERE source_type IN ('RUN_INPUT', 'RUN_OUTPUT')"
        found: dict[tuple[str, str], dict[str, int]] = {}
        for row in self._named(query + " AND source_id IN ({})", ids):
            found.setdefault((row["source_id"], row["source_type"]), {})[row["destination_id"]] = row["step"] or 0
        return found

    def _model_points(self, ids: Sequence[str]) -> dict[str, list[ModelPoint]]:
        found: dict[str, list[ModelPoint]] = {}
        for row in self._named("SELECT * FROM logged_model_metrics WHERE model_id IN ({}) ORDER BY metric_name, metric_timestamp_ms", ids):
            found.setdefault(row["model_id"], []).append(
                ModelPoint(
                    key=row["metric_name"], value=_number(row["metric_value"], row["metric_value"] is None), step=row["metric_step"],
                    at_ms=row["metric_timestamp_ms"], run=text(row["run_id"]), dataset=text(row["dataset_name"]),
                    digest=text(row["dataset_digest"]),
                )
            )  # fmt: skip
        return found

    def _versions(self, name: str) -> Iterator[Version]:
        mine = f"name = ? AND current_stage != '{DELETED_VERSION}' AND {self._mine('model_versions')}"
        tags: dict[int, dict[str, str]] = {}
        if "model_version_tags" in self._columns:
            where = self._mine("model_version_tags")
            for row in self._all(f"SELECT version, key, value FROM model_version_tags WHERE name = ? AND {where} ORDER BY key", [name]):
                tags.setdefault(row["version"], {})[row["key"]] = text(row["value"])
        for row in self._all(f"SELECT * FROM model_versions WHERE {mine} ORDER BY version", [name]):
            yield Version(
                number=row["version"], description=text(row["description"]), source=text(row["source"]), run=row["run_id"] or None,
                files=text(_of(row, "storage_location")) or text(row["source"]), run_link=text(_of(row, "run_link")),
                stage=text(row["current_stage"]), tags=tags.get(row["version"], {}),
            )  # fmt: skip

    def _texts(
        self, table: str, owner: str, ids: Sequence[Any] | None = None, *, key: str = "key", value: str = "value", where: str = "1"
    ) -> dict[Any, dict[str, str]]:
        """Return owner -> key -> value of a table, of some owners or all."""
        if table not in self._columns:
            return {}
        query = f"SELECT {owner} AS owner, {key} AS key, {value} AS value FROM {table} WHERE {where}"
        rows = self._all(f"{query} ORDER BY {key}") if ids is None else self._named(f"{query} AND {owner} IN ({{}}) ORDER BY {key}", ids)
        found: dict[Any, dict[str, str]] = {}
        for row in rows:
            found.setdefault(row["owner"], {})[row["key"]] = text(row["value"])
        return found

    def _named(self, query: str, ids: Sequence[Any]) -> Iterable[sqlite3.Row]:
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            yield from self._db.execute(query.format(",".join("?" * len(some))), list(some))

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        return self._db.execute(query, values).fetchall()

    def _if_there(self, table: str) -> list[sqlite3.Row]:
        return self._all(f"SELECT * FROM {table} WHERE {self._mine(table)}") if table in self._columns else []

    def _mine(self, table: str) -> str:
        """Return the condition for the default workspace, in a schema that knows workspaces."""
        return f"workspace = '{WORKSPACE}'" if "workspace" in self._columns.get(table, ()) else "1"

    def _tables(self) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def _columns_of(self, table: str) -> frozenset[str]:
        return frozenset(row[1] for row in self._db.execute(f"PRAGMA table_info({json.dumps(table)})"))


def counted_models(models: Sequence[Model]) -> dict[str, int]:
    """Count registered models, and what belongs to them."""
    return {
        "registered models": len(models),
        "model versions": sum(len(model.versions) for model in models),
        "model tags": sum(len(model.tags) + sum(len(version.tags) for version in model.versions) for model in models),
        "aliases": sum(len(model.aliases) for model in models),
    }


def _number(value: Any, is_nan: Any) -> float:
    if is_nan or value is None:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else float(value)


def _deleted(row: Mapping[str, Any] | sqlite3.Row) -> bool:
    return bool(row["lifecycle_stage"] == "deleted")


def _of(row: sqlite3.Row, name: str) -> Any:
    return row[name] if name in row.keys() else None  # noqa: SIM118 (a row iterates over its values)
