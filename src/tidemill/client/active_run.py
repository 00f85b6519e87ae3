"""A run that is logged to from here: what it takes, and its end."""

import os
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from tidemill.client.call import Doc, segment
from tidemill.client.contents import describe, figure_file, json_bytes, table_file
from tidemill.client.folders import RunNote, WriterFolder, writer_folders
from tidemill.client.lifetime import CURRENT, outcome, unwatch, watch
from tidemill.client.place import Place
from tidemill.client.recorder import Recorder, RunOver
from tidemill.client.sync import merge_run
from tidemill.client.uploads import register
from tidemill.core.clock import from_micros, wall_micros
from tidemill.core.errors import Invalid, NotFound, NotPermitted, Unavailable
from tidemill.core.ids import PARAM_MAX, TAG_MAX, check_key, check_text, new_id
from tidemill.core.settings import announce_run, caller_environment
from tidemill.core.signature import SPEC_FILE

FLUSH_TIMEOUT_S = 60.0
LONGEST = {"param": PARAM_MAX, "tag": TAG_MAX}
DESCRIBES_MODEL = (SPEC_FILE, "MLmodel")


class ActiveRun:
    """A run that is logged to from here. Safe from several threads, and in processes that are forked from this one.

    Nothing that is logged waits for a server: it goes to disk within half a second and on from there in the background. Leaving the
    `with` block ends the run: finished, failed (the exception goes on), or killed by SIGTERM or Ctrl-C.
    """

    def __init__(self, note: RunNote, place: Place, recorder: Recorder, *, owner: bool, parent: str | None = None) -> None:
        self.id, self.name, self.experiment, self.parent = note.run, note.name, note.experiment, parent
        self.status = "running"
        self.terminated = False
        self._note, self._place, self._owner = note, place, owner
        self._recorder: Recorder | None = recorder
        self._renewing = Lock()
        self._inside: Token[str | None] | None = None
        self._process = os.getpid()
        self._announced = announce_run(self.id)
        watch(self)

    def __repr__(self) -> str:
        return f"<run {self.name} ({self.id}) of {self.experiment}: {self.status}>"

    def __enter__(self) -> Self:
        self._inside = CURRENT.set(self.id)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._inside is not None:
            CURRENT.reset(self._inside)
            self._inside = None
        if self.status == "running":
            self.end(*outcome(error))

    def __del__(self) -> None:
        if getattr(self, "status", "") == "running" and self._recorder is not None and self._process == os.getpid():
            # Its name was given to another, as when a notebook's cell runs again. Whoever collects garbage does not wait for a server.
            Thread(target=_end, args=(self._recorder, self._owner, "finished", ""), name="tidemill-end").start()

    @property
    def url(self) -> str | None:
        """The run's page on the dashboard, None when it goes to no server."""
        address = self._place.url or ""
        return f"{address}/projects/{segment(self._place.project)}/runs/{self.id}" if address.startswith("http") else None

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each metric that was logged from here."""
        return self._to().columns.latest()

    def log(self, metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
        """Add a point to each metric: `run.log(loss=0.3, step=7)`, or `run.log({"valid/auc": 0.8})` for any key.

        A step that is not given is one more than the metric's last. NaN and infinities are kept. Raises Invalid, RunOver.
        """
        if metrics is not None:
            if type(metrics) is not dict and not isinstance(metrics, Mapping):
                raise Invalid(
                    f"a {type(metrics).__name__} is not metrics by key; log it as run.log(loss=0.3), or run.log({{'valid/auc': 0.8}})"
                )
            more = {**metrics, **more} if more else metrics  # type: ignore[assignment]  # read only from here on
        (self._recorder or self._to()).log(more, step)

    def param(self, key: str, value: Any) -> None:
        """Write a param, once. Raises ParamChanged for another value under its key."""
        self.params({key: value})

    def params(self, params: Mapping[str, Any]) -> None:
        """Write params, each once. What is nested gets keys with dots: `{"model": {"depth": 3}}` is `model.depth`."""
        self._to().params(texts("param", params))

    def tag(self, key: str, value: Any) -> None:
        """Write a tag, replacing the one of the same key."""
        self.tags({key: value})

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags, replacing those of the same keys."""
        self._to().tags(texts("tag", tags))

    def file(self, source: str | Path | bytes, name: str | None = None) -> None:
        """Keep a file, or bytes, under a name (a path with slashes; a file's own unless told).

        A file of up to 64 MB is copied at once. A larger one is sent from where it lies: leave it as it is until `flush` (it may be
        replaced or deleted, not written to). Raises NotFound, Invalid.
        """
        if isinstance(source, str | Path):
            path = Path(source)
            self._to().files.put(path, name or path.name)
        elif name:
            self._to().files.put(bytes(source), name)
        else:
            raise Invalid('bytes need a name to be kept under: run.file(data, "model.bin")')

    def folder(self, source: str | Path, name: str = "") -> int:
        """Keep all files of a folder and those below it, under a name unless it is empty; return how many. Raises NotFound, Invalid."""
        root = Path(source)
        if not root.is_dir():
            raise NotFound(f"there is no folder {root} to log; a file is logged with run.file(...)")
        paths = files_below(root)
        for path in paths:
            self._to().files.put(path, "/".join(part for part in (name.strip("/"), path.relative_to(root).as_posix()) if part))
        return len(paths)

    def text(self, text: str, name: str) -> None:
        """Keep a text."""
        self.file(text.encode("utf-8", "replace"), name)

    def json(self, value: Any, name: str) -> None:
        """Keep a value as JSON; arrays become lists, what is no number null. Raises Invalid."""
        self.file(json_bytes(value), name)

    def figure(self, figure: Any, name: str) -> None:
        """Keep a figure of matplotlib, plotly or PIL in the form that the name's ending says (.png, .svg, .html, .json). Raises Invalid."""
        path, data = figure_file(figure, name)
        self.file(data, path)

    def table(self, table: Any, name: str) -> None:
        """Keep a table: a frame of pandas, Polars, DuckDB or Arrow, rows, or columns by name.

        It is Parquet unless the name ends in .csv or .json, and JSON without pyarrow. Raises Invalid, ExtraMissing.
        """
        with TemporaryDirectory() as folder:
            path, file = table_file(table, name, Path(folder))
            self.file(file, path)

    def dataset(self, data: Any, name: str | None = None, *, role: str = "training") -> None:
        """Say what the run reads: a dataset version (`"flights@3"`, `"flights"` for the newest), or any frame, which needs a name.

        A version becomes an edge of lineage; of a frame, digest and schema are kept. Raises NotFound, Invalid, ExtraMissing.
        """
        body: dict[str, Any]
        if isinstance(data, str):
            body = {"reference": _reference(data), "at": from_micros(wall_micros()), "role": role}
            self._check_there(body["reference"])
        elif name is None:
            raise Invalid('a frame needs a name: run.dataset(frame, "flights", role="training")')
        else:
            found = describe(data)
            body = {"dataset": {"name": name, "digest": found.digest, "schema": found.schema, "rows": found.rows}, "role": role}
        self._to().ask("POST", "/inputs", body, once=new_id())

    def model(
        self, folder: str | Path, name: str, *, tags: Mapping[str, Any] | None = None, description: str = "", reason: str = ""
    ) -> Doc:
        """Keep a folder of model files and register it as a version of a model; return the version.

        The folder says what it is: model.json beside an ONNX file (a bundle), or MLmodel. Waits until all has arrived, for a version is
        of files that are there; offline it is registered when the run is merged, and has no number (None) till then.
        Raises Invalid, NotFound, NotArrived.
        """
        recorder, path = self._to(), f"models/{name}"
        if Path(folder).is_dir() and not any((Path(folder) / file).is_file() for file in DESCRIBES_MODEL):
            raise Invalid(f"folder {folder} says nowhere what model it is; expected {' or '.join(DESCRIBES_MODEL)} in it")
        files = [file.relative_to(folder).as_posix() for file in files_below(Path(folder))]
        body = {"path": path, "files": files, "tags": texts("tag", tags or {}), "description": description, "reason": reason}
        self.folder(folder, path)
        if recorder.caller is None:
            recorder.files.register(name, body)
            return {"name": name, "version": None, "run": self.id}
        self.flush()
        return register(recorder.caller, recorder.place, name, body)

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Wait until the server has all that was logged so far (offline: until the disk has). Raises NotArrived when time is up."""
        self._to().flush(timeout_s)

    def end(self, status: str = "finished", message: str = "") -> None:
        """End the run: finished, failed or killed. Only leaving the `with` block is needed, or the end of the program."""
        if status not in ("finished", "failed", "killed"):
            raise Invalid(f"a run cannot end as {status!r}; expected finished, failed or killed")
        if self.status != "running":
            raise RunOver(self.id)
        recorder, self.status = self._to(), status
        unwatch(self)
        if caller_environment().get("run") == self.id:
            announce_run(self._announced)
        _end(recorder, self._owner and self._process == os.getpid(), status, message)

    def end_with_process(self, status: str, message: str) -> None:
        """Come to an end because the interpreter does."""
        if self._recorder is not None:
            self.end(status, message)

    def after_fork(self) -> None:
        """Log to the same run from a child process, with files and connections of its own from the first time that it logs."""
        recorder, self._recorder = self._recorder, None
        self._renewing = Lock()
        if recorder is not None:
            recorder.forget()

    def _to(self) -> Recorder:
        """Return where this process logs to."""
        if self._recorder is None:
            with self._renewing:
                if self._recorder is None:
                    place = self._place.again()
                    self._recorder = Recorder(WriterFolder(place.runs, self._note, owner=False), self._note, place.caller)
                    watch(self)
        return self._recorder

    def _check_there(self, reference: str) -> None:
        """Raises NotFound for a dataset that is not there, if there is a server to be asked."""
        caller = self._to().caller
        if caller is not None:
            with suppress(Unavailable):
                caller.get(f"/dataset-versions/{segment(reference)}")

    def _repr_html_(self) -> str:
        name = f'<a href="{escape(self.url)}" target="_blank">{escape(self.name)}</a>' if self.url else escape(self.name)
        cells = "".join(f"<tr><td>{escape(key)}</td><td>{value:.6g}</td></tr>" for key, value in sorted(self.metrics.items()))
        table = f"<table><tr><th>metric</th><th>latest</th></tr>{cells}</table>" if cells else ""
        return f"<div><b>{name}</b> of {escape(self.experiment)}: {escape(self.status)} <code>{self.id}</code>{table}</div>"


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and those below it, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def texts(what: str, values: Mapping[str, Any], *, within: str = "") -> dict[str, str]:
    """Return values as texts by key; what is nested gets keys with dots. Raises Invalid."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise Invalid(f"{what} key {key!r} is not usable; expected text, such as 'depth' or 'model.depth'")
        if isinstance(value, Mapping) and value:
            found.update(texts(what, value, within=f"{within}{key}."))
        else:
            # Lone surrogates, as names of files may have them, are no text that can be sent.
            text = str(value).encode("utf-8", "replace").decode()
            found[check_key(what, within + key)] = check_text(what, within + key, text, LONGEST[what])
    return found


def _reference(text: str) -> str:
    """Return NAME@3 of NAME@v3 too."""
    name, at, version = text.partition("@")
    return f"{name}@{version[1:]}" if at and version[:1] == "v" and version[1:].isdigit() else text


def _end(recorder: Recorder, owner: bool, status: str, message: str) -> None:
    if owner:
        if recorder.caller is not None and len(writer_folders(recorder.folder.run)) > 1:
            with suppress(Unavailable, NotPermitted):  # what processes left that were killed, or knew no server; else `sync` finds it
                merge_run(recorder.folder.run, recorder.note, recorder.caller, end_killed=False)
        recorder.end(status, message, from_micros(wall_micros()))
    else:
        recorder.close()
