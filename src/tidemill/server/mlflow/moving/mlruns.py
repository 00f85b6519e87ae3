"""An MLflow store in a folder of files, as `mlruns` was until MLflow gave it up: read file by file."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tidemill.core.errors import Invalid
from tidemill.server.mlflow.moving.folders import Folders, as_it_lies
from tidemill.server.mlflow.moving.sqlite import DELETED_VERSION, counted_models
from tidemill.server.mlflow.moving.store import (
    COUNTED,
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

META = "meta.yaml"
TRASH = ".trash"
REGISTRY = "models"
_STATUS = {1: "running", 2: "scheduled", 3: "finished", 4: "failed", 5: "killed"}
_MODEL_STATUS = {1: "pending", 2: "ready", 3: "failed"}
_BESIDE_RUNS = {"tags", "datasets", "traces", "models"}


class MlrunsStore:
    """Reads a folder of experiments, and the registry that lies beside them in `models`."""

    def __init__(self, folder: Path, *, artifacts: Path | None) -> None:
        """Raises Invalid for a folder that holds no experiment."""
        self._folder = folder
        self._folders = Folders(base=Path.cwd(), proxied=artifacts)
        if not self._experiment_folders():
            raise Invalid(f"{folder} is no MLflow store: no folder in it has a {META}; expected the one that MLflow calls mlruns")

    @property
    def place(self) -> str:
        return str(self._folder)

    def close(self) -> None:
        pass

    def experiments(self) -> list[Experiment]:
        found = []
        for folder in self._experiment_folders().values():
            said = _meta(folder)
            found.append(
                Experiment(
                    id=folder.name, name=text(said.get("name")) or folder.name, location=text(said.get("artifact_location")),
                    deleted=said.get("lifecycle_stage") == "deleted" or folder.parent.name == TRASH,
                    made_ms=int(said.get("creation_time") or 0), tags=_texts(folder / "tags"),
                )
            )  # fmt: skip
        return sorted(found, key=lambda each: (len(each.id), each.id))

    def runs(self, experiment: str) -> Iterator[Run]:
        for folder in self._run_folders(experiment):
            yield self._run(folder, experiment)

    def points(self, run: Run) -> Iterator[tuple[str, Points]]:
        folder = self._experiment_folders()[run.experiment] / run.id / "metrics"
        for key in run.counts:
            lines = [line.split() for line in _lines(folder / key)]
            times = np.array([int(parts[0]) for parts in lines], np.int64)
            values = np.array([float(parts[1]) for parts in lines], np.float64)
            steps = np.array([int(parts[2]) if len(parts) > 2 else 0 for parts in lines], np.int64)
            order = np.lexsort((steps, times))
            yield key, Points(values[order], steps[order], times[order] * 1000)

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        for folder in _sorted_folders(self._experiment_folders()[experiment] / "models"):
            said = _meta(folder)
            yield LoggedModel(
                id=folder.name, experiment=experiment, name=text(said.get("name")), type=text(said.get("model_type")),
                status=_MODEL_STATUS.get(said.get("status", 0), "pending"), run=said.get("source_run_id") or None,
                deleted=said.get("lifecycle_stage") == "deleted", files=str(folder / "artifacts"), params=_texts(folder / "params"),
                tags=_texts(folder / "tags"), points=tuple(_model_points(folder / "metrics")),
            )  # fmt: skip

    def models(self) -> Iterator[Model]:
        for folder in _sorted_folders(self._folder / REGISTRY):
            said = _meta(folder)
            aliases = {name: int(number) for name, number in _texts(folder / "aliases").items()}
            versions = sorted((self._version(each) for each in _sorted_folders(folder)), key=lambda version: version.number)
            yield Model(
                name=text(said.get("name")) or folder.name, description=text(said.get("description")), tags=_texts(folder / "tags"),
                aliases=aliases, versions=tuple(version for version in versions if version.stage != DELETED_VERSION),
            )  # fmt: skip

    def files(self, owner: Run | LoggedModel) -> list[File] | None:
        return self._folders.list(owner.files)

    def fetched(self, file: File, scratch: Path) -> AbstractContextManager[Path]:
        return as_it_lies(file)

    def counts(self) -> dict[str, int]:
        found = dict.fromkeys(COUNTED, 0)
        for name, folder in self._experiment_folders().items():
            found["experiments"] += 1
            for run in self._run_folders(name):
                found["runs"] += 1
                found["params"] += len(_below(run / "params"))
                found["tags"] += len([path for path in _below(run / "tags") if path != RUN_NAME])
                keys = _below(run / "metrics")
                found["metrics"] += len(keys)
                found["metric points"] += sum(len(_lines(run / "metrics" / key)) for key in keys)
                found["dataset inputs"] += len(
                    [each for each in _sorted_folders(run / "inputs") if _meta(each)["source_type"] == "DATASET"]
                )
                found["artifacts"] += len(self._folders.list(text(_meta(run).get("artifact_uri"))) or ())
            for model in _sorted_folders(folder / "models"):
                found["logged models"] += 1
                found["artifacts"] += len(self._folders.list(str(model / "artifacts")) or ())
        return {**found, **counted_models(list(self.models()))}

    def left_out(self) -> list[str]:
        traces = sum(len(_sorted_folders(folder / "traces")) for folder in self._experiment_folders().values())
        return [f"{traces} traces are not moved"] if traces else []

    def _experiment_folders(self) -> dict[str, Path]:
        places = (self._folder, self._folder / TRASH)
        return {each.name: each for place in places for each in _sorted_folders(place) if each.name not in (REGISTRY, TRASH)}

    def _run_folders(self, experiment: str) -> list[Path]:
        return [folder for folder in _sorted_folders(self._experiment_folders()[experiment]) if folder.name not in _BESIDE_RUNS]

    def _run(self, folder: Path, experiment: str) -> Run:
        said = _meta(folder)
        tags = _texts(folder / "tags")
        name = tags.pop(RUN_NAME, "")
        made = [(each.name, int(_meta(each).get("step") or 0)) for each in _sorted_folders(folder / "outputs")]
        given = [_meta(each) for each in _sorted_folders(folder / "inputs")]
        read = [text(each["source_id"]) for each in given if each["source_type"] != "DATASET"]
        return Run(
            id=folder.name, experiment=experiment, name=text(said.get("run_name")) or name or folder.name[:8],
            status=_STATUS.get(said.get("status", 0), "running"), started_ms=said.get("start_time"), ended_ms=said.get("end_time"),
            deleted=said.get("lifecycle_stage") == "deleted", files=text(said.get("artifact_uri")) or str(folder / "artifacts"),
            params=_texts(folder / "params"), tags=tags,
            counts={key: len(_lines(folder / "metrics" / key)) for key in _below(folder / "metrics")},
            inputs=tuple(self._inputs(folder)), models_made=tuple(made),
            models_read=tuple(sorted(read)),
        )  # fmt: skip

    def _inputs(self, folder: Path) -> Iterator[Input]:
        for each in _sorted_folders(folder / "inputs"):
            said = _meta(each)
            if said["source_type"] == "DATASET":
                data = _meta(folder.parent / "datasets" / text(said["source_id"]))
                yield Input(
                    name=text(data["name"]), digest=text(data["digest"]), source_type=text(data["source_type"]),
                    source=text(data["source"]), schema=data.get("schema"), profile=data.get("profile"),
                    tags={str(key): text(value) for key, value in (said.get("tags") or {}).items()},
                )  # fmt: skip

    def _version(self, folder: Path) -> Version:
        said = _meta(folder)
        return Version(
            number=int(said.get("version") or folder.name.rpartition("-")[2]), description=text(said.get("description")),
            source=text(said.get("source")), files=text(said.get("storage_location")) or text(said.get("source")),
            run=said.get("run_id") or None, run_link=text(said.get("run_link")), stage=text(said.get("current_stage")),
            tags=_texts(folder / "tags"),
        )  # fmt: skip


def _model_points(folder: Path) -> Iterator[ModelPoint]:
    for key in _below(folder):
        for line in _lines(folder / key):
            parts = line.split()  # time, value, step, run and, where known, dataset and digest
            dataset, digest = (parts[4], parts[5]) if len(parts) > 5 else ("", "")
            run = parts[3] if len(parts) > 3 else ""
            yield ModelPoint(key, float(parts[1]), int(parts[2]), int(parts[0]), run, dataset, digest)


def _meta(folder: Path) -> Mapping[str, Any]:
    """Return what the meta.yaml of a folder says, nothing when there is none. Raises Invalid."""
    try:
        said = yaml.safe_load((folder / META).read_text("utf-8"))
    except FileNotFoundError:
        return {"source_type": ""}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Invalid(f"{folder / META} was not understood: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise Invalid(f"{folder / META} was not understood: expected keys and values")
    return said


def _sorted_folders(place: Path) -> list[Path]:
    """Return the folders in a place that a meta.yaml describes."""
    if not place.is_dir():
        return []
    return sorted((each for each in place.iterdir() if each.is_dir() and (each / META).is_file()), key=lambda each: each.name)


def _below(folder: Path) -> list[str]:
    """Return the paths of the files below a folder: keys of metrics, params and tags may hold slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _texts(folder: Path) -> dict[str, str]:
    return {key: (folder / key).read_text("utf-8") for key in _below(folder)}


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
