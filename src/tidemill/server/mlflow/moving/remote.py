"""An MLflow store behind a server: read over its REST API, a page at a time."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

import numpy as np
import urllib3
from urllib3.util import Retry, make_headers

from tidemill.core.codec import decode_any, encode
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.server.mlflow.moving.sqlite import counted_models
from tidemill.server.mlflow.moving.store import (
    COUNTED,
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

RUNS_AT_ONCE, POINTS_AT_ONCE, MODELS_AT_ONCE, VERSIONS_AT_ONCE = 1000, 25_000, 50, 10_000
CHUNK_BYTES = 1 << 20
_MODEL_STATUS = {"LOGGED_MODEL_PENDING": "pending", "LOGGED_MODEL_READY": "ready", "LOGGED_MODEL_UPLOAD_FAILED": "failed"}
_RETRIES = Retry(total=5, connect=2, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), allowed_methods=None, raise_on_status=False)


class RemoteStore:
    """Asks an MLflow server, or anything that speaks as one. Credentials come with the address: http://USER:PASSWORD@host."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        """Raises Unavailable when nobody answers, Invalid when it is no MLflow server."""
        parts = urlsplit(url.rstrip("/"))
        self._root = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        headers = {"authorization": f"Bearer {token}"} if token else {}
        if parts.username is not None and not token:
            headers = make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
        self._pool = urllib3.PoolManager(headers=headers, retries=_RETRIES, timeout=urllib3.Timeout(connect=10, read=300))
        self._counts = dict.fromkeys(COUNTED, 0)
        self._histories: tuple[str, dict[str, Points]] = ("", {})  # of the run that was told last
        self.experiments()

    @property
    def place(self) -> str:
        return self._root

    def close(self) -> None:
        self._pool.clear()

    def experiments(self) -> list[Experiment]:
        pages = self._post_pages("experiments/search", {"view_type": "ALL", "max_results": 1000}, "experiments")
        found = [
            Experiment(
                id=said["experiment_id"], name=said["name"], location=said.get("artifact_location", ""), tags=_pairs(said),
                deleted=said.get("lifecycle_stage") == "deleted", made_ms=int(said.get("creation_time") or 0),
            )
            for said in pages
        ]  # fmt: skip
        self._counts["experiments"] = len(found)
        return sorted(found, key=lambda each: (len(each.id), each.id))

    def runs(self, experiment: str) -> Iterator[Run]:
        asked = {"experiment_ids": [experiment], "run_view_type": "ALL", "max_results": RUNS_AT_ONCE, "order_by": ["start_time ASC"]}
        for said in self._post_pages("runs/search", asked, "runs"):
            # Searches leave out the models that a run read.
            run = self._run(self._get("runs/get", {"run_id": said["info"]["run_id"]})["run"])
            self._count(
                runs=1, params=len(run.params), tags=len(run.tags), metrics=len(run.counts), metric_points=sum(run.counts.values()),
                dataset_inputs=len(run.inputs),
            )  # fmt: skip
            yield run

    def points(self, run: Run) -> Iterator[tuple[str, Points]]:
        known, histories = self._histories
        yield from histories.items() if known == run.id else ((key, self._history(run.id, key)) for key in run.counts)

    def logged_models(self, experiment: str) -> Iterator[LoggedModel]:
        try:
            found = [*self._post_pages("logged-models/search", {"experiment_ids": [experiment], "max_results": MODELS_AT_ONCE}, "models")]
        except NotFound:
            return  # a server of before there were any
        for said in sorted(found, key=lambda each: str(each["info"]["model_id"])):
            info, data = said["info"], said.get("data", {})
            self._count(logged_models=1)
            yield LoggedModel(
                id=info["model_id"], experiment=experiment, name=info.get("name", ""), type=info.get("model_type", ""),
                status=_MODEL_STATUS.get(info.get("status", ""), "pending"), run=info.get("source_run_id") or None, deleted=False,
                files=info.get("artifact_uri", ""), params=_pairs(data, "params"), tags=_pairs(info),
                points=tuple(_model_point(point) for point in data.get("metrics", ())),
            )  # fmt: skip

    def models(self) -> Iterator[Model]:
        prompts = "tags.`mlflow.prompt.is_prompt` = 'true'"
        for question in ("", prompts):
            for said in self._get_pages("registered-models/search", {"max_results": 1000, "filter": question}, "registered_models"):
                name = said["name"]
                mine = f"name = {_quoted(name)}" + (f" AND {prompts}" if question else "")
                pages = self._get_pages("model-versions/search", {"filter": mine, "max_results": VERSIONS_AT_ONCE}, "model_versions")
                model = Model(
                    name=name, description=said.get("description", ""), tags=_pairs(said),
                    aliases={each["alias"]: int(each["version"]) for each in said.get("aliases", ())},
                    versions=tuple(sorted((self._version(version) for version in pages), key=lambda version: version.number)),
                )  # fmt: skip
                self._count(**{name.replace(" ", "_"): count for name, count in counted_models([model]).items()})
                yield model

    def files(self, owner: Run | LoggedModel) -> list[File] | None:
        try:
            found = list(self._listed(owner, ""))
        except Unavailable:
            return None  # the server itself cannot reach them
        self._count(artifacts=len(found))
        return found

    @contextmanager
    def fetched(self, file: File, scratch: Path) -> Iterator[Path]:
        """Download a file; it is gone when the block ends."""
        path = scratch / "fetched"
        answer = self._pool.request("GET", file.where, preload_content=False)
        try:
            if answer.status != 200:
                raise Unavailable(f"{self._root} answered {answer.status} when asked for {file.path!r}; try again in a while")
            with path.open("wb") as target:
                for chunk in answer.stream(CHUNK_BYTES):
                    target.write(chunk)
            yield path
        finally:
            answer.release_conn()
            path.unlink(missing_ok=True)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def left_out(self) -> list[str]:
        return ["traces, and logged models in the trash, are not asked for"]

    def _run(self, said: Mapping[str, Any]) -> Run:
        info, data = said["info"], said.get("data", {})
        tags = _pairs(data)
        name = tags.pop(RUN_NAME, "")
        inputs, outputs = said.get("inputs", {}), said.get("outputs", {})
        self._histories = info["run_id"], {key: self._history(info["run_id"], key) for key in sorted(_keys(data))}
        return Run(
            id=info["run_id"], experiment=str(info["experiment_id"]), name=info.get("run_name") or name or info["run_id"][:8],
            status=info["status"].lower(), started_ms=_whole(info.get("start_time")), ended_ms=_whole(info.get("end_time")),
            deleted=info.get("lifecycle_stage") == "deleted", files=info.get("artifact_uri", ""), params=_pairs(data, "params"), tags=tags,
            counts={key: len(points) for key, points in self._histories[1].items()},
            inputs=tuple(_input(each) for each in inputs.get("dataset_inputs", ())),
            models_read=tuple(sorted(each["model_id"] for each in inputs.get("model_inputs", ()))),
            models_made=tuple(sorted((each["model_id"], int(each.get("step") or 0)) for each in outputs.get("model_outputs", ()))),
        )  # fmt: skip

    def _count(self, **found: int) -> None:
        for name, count in found.items():
            self._counts[name.replace("_", " ")] += count

    def _history(self, run: str, key: str) -> Points:
        asked = {"run_id": run, "metric_key": key, "max_results": POINTS_AT_ONCE}
        found = [*self._get_pages("metrics/get-history", asked, "metrics")]
        times = np.array([int(point["timestamp"]) for point in found], np.int64)
        steps = np.array([int(point.get("step") or 0) for point in found], np.int64)
        values = np.array([_number(point["value"]) for point in found], np.float64)
        order = np.lexsort((steps, times))
        return Points(values[order], steps[order], times[order] * 1000)

    def _version(self, said: Mapping[str, Any]) -> Version:
        name, number = said["name"], said["version"]
        asked = {"name": name, "version": number}
        try:
            place = self._get("model-versions/get-download-uri", asked).get("artifact_uri", "")
        except Invalid:
            place = ""
        return Version(
            number=int(number), description=said.get("description", ""), source=said.get("source", ""), files=place,
            run=said.get("run_id") or None, run_link=said.get("run_link", ""), stage=said.get("current_stage", ""), tags=_pairs(said),
        )  # fmt: skip

    def _listed(self, owner: Run | LoggedModel, folder: str) -> Iterator[File]:
        of_run = isinstance(owner, Run)
        where, name = (
            ("artifacts/list", "path") if of_run else (f"logged-models/{owner.id}/artifacts/directories", "artifact_directory_path")
        )
        asked = {**({"run_id": owner.id} if of_run else {}), **({name: folder} if folder else {})}
        try:
            found = [*self._get_pages(where, asked, "files")]
        except NotFound:
            return
        for said in found:
            path = said["path"]
            if said.get("is_dir"):
                yield from self._listed(owner, path)
                continue
            query = {"path": path, "run_uuid": owner.id} if of_run else {"artifact_file_path": path}
            call = "/get-artifact" if of_run else f"/ajax-api/2.0/mlflow/logged-models/{owner.id}/artifacts/files"
            size = int(said.get("file_size") or 0)
            yield File(path, size, str(size), f"{self._root}{call}?{urlencode(query)}")

    def _post_pages(self, call: str, asked: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            body = {**asked, **({"page_token": token} if token else {})}
            said = self._answered("POST", call, body=encode(body))
            yield from said.get(name, ())
            token = said.get("next_page_token") or ""
            if not token:
                return

    def _get_pages(self, call: str, asked: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            said = self._get(call, {**asked, **({"page_token": token} if token else {})})
            yield from said.get(name, ())
            token = said.get("next_page_token") or ""
            if not token:
                return

    def _get(self, call: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._answered("GET", f"{call}?{urlencode(asked)}")

    def _answered(self, method: str, call: str, *, body: bytes | None = None) -> Mapping[str, Any]:
        url = f"{self._root}/api/2.0/mlflow/{call}"
        try:
            answer = self._pool.request(method, url, body=body, headers={**self._pool.headers, "content-type": "application/json"})
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{self._root} cannot be reached: {error}; check the address, and that the server runs") from error
        if answer.status == 404:
            raise NotFound(f"{self._root} has nothing at {call.partition('?')[0]}: {answer.data[:200].decode('utf-8', 'replace')}")
        if 400 <= answer.status < 500:
            raise Invalid(f"{self._root} refused {call.partition('?')[0]}: {answer.data[:300].decode('utf-8', 'replace')}")
        if answer.status != 200:
            raise Unavailable(f"{self._root} answered {answer.status} to {call.partition('?')[0]}; try again in a while")
        said = decode_any(answer.data, what=f"the answer of {self._root}")
        if not isinstance(said, dict):
            raise Invalid(f"{self._root} does not answer as an MLflow server does; check the address")
        return said


def _keys(data: Mapping[str, Any]) -> list[str]:
    return [metric["key"] for metric in data.get("metrics", ())]


def _input(said: Mapping[str, Any]) -> Input:
    data = said["dataset"]
    return Input(
        name=data["name"], digest=data["digest"], source_type=data["source_type"], source=data["source"], schema=data.get("schema"),
        profile=data.get("profile"), tags=_pairs(said),
    )  # fmt: skip


def _model_point(said: Mapping[str, Any]) -> ModelPoint:
    return ModelPoint(
        key=said["key"], value=_number(said["value"]), step=int(said.get("step") or 0), at_ms=int(said["timestamp"]),
        run=text(said.get("run_id")), dataset=text(said.get("dataset_name")), digest=text(said.get("dataset_digest")),
    )  # fmt: skip


def _pairs(said: Mapping[str, Any], name: str = "tags") -> dict[str, str]:
    return {each["key"]: text(each.get("value")) for each in said.get(name, ())}


def _number(value: Any) -> float:
    number = float(value)
    return math.copysign(math.inf, number) if abs(number) >= LARGEST else number


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _quoted(name: str) -> str:
    quote = '"' if "'" in name else "'"
    return f"{quote}{name}{quote}"
