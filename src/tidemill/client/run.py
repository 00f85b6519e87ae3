"""The run that code is in the middle of: `with tm.run("delay", params={...}) as run: run.log(loss=0.3)`."""

import os
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from datetime import datetime
from html import escape
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from tidemill.client.call import Doc, segment
from tidemill.client.client import Client
from tidemill.client.folders import RunNote, WriterFolder, hold, read_run, read_writer, runs_folder, writer_folders
from tidemill.client.lifetime import CURRENT, outcome, unwatch, watch
from tidemill.client.place import Place, find_place
from tidemill.client.recorder import Recorder, RunOver
from tidemill.client.sync import merge_run
from tidemill.core.clock import from_micros, wall_micros
from tidemill.core.errors import Invalid, NotFound, NotPermitted, Unavailable
from tidemill.core.ids import RunId, check_key, new_run_id
from tidemill.core.names import any_name
from tidemill.core.settings import announce_run, caller_environment

FLUSH_TIMEOUT_S = 60.0


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

    def _repr_html_(self) -> str:
        name = f'<a href="{escape(self.url)}" target="_blank">{escape(self.name)}</a>' if self.url else escape(self.name)
        cells = "".join(f"<tr><td>{escape(key)}</td><td>{value:.6g}</td></tr>" for key, value in sorted(self.metrics.items()))
        table = f"<table><tr><th>metric</th><th>latest</th></tr>{cells}</table>" if cells else ""
        return f"<div><b>{name}</b> of {escape(self.experiment)}: {escape(self.status)} <code>{self.id}</code>{table}</div>"


def run(
    experiment: str | None = None,
    *,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    client: Client | None = None,
    url: str | None = None,
    offline: bool | str | Path | None = None,
    resume: str | bool | None = None,
    parent: str | ActiveRun | None = None,
) -> ActiveRun:
    """Begin a run of an experiment, or go on with one, and return it: `with tm.run("delay", params={"depth": 3}) as run: ...`.

    client or url: the server; otherwise TIDEMILL_URL, otherwise the workspace that the current folder lies in. Without any of them,
    and with offline (True, or the folder to use), the run is a folder of files that `tidemill run sync` merges later.
    resume: the id of a run to go on with, or True for the one that a parent process announced. parent: what it is part of, the run
    whose block this stands in unless told. Raises what the server says against it; a server that is away hears of it later.
    """
    runs = runs_folder(offline if isinstance(offline, str | Path) else None)
    local = None if offline is None else bool(offline)
    if resume:
        return _go_on(resume, runs, client=client, url=url, offline=local)
    if experiment is None:
        raise Invalid('a run needs the name of its experiment: tm.run("delay"); or the id of a run to go on with: tm.run(resume=ID)')
    place = find_place(runs, client=client, url=url, offline=local)
    now = from_micros(wall_micros())
    note = RunNote(run=new_run_id(), experiment=experiment, name=name or any_name(), project=place.project, url=place.url, began_at=now)
    within = parent.id if isinstance(parent, ActiveRun) else parent or CURRENT.get()
    body = {
        "id": note.run, "experiment": experiment, "name": note.name, "parent": within, "params": texts("param", params or {}),
        "tags": texts("tag", tags or {}), "started_at": now,
    }  # fmt: skip
    recorder = Recorder(WriterFolder(runs, note, owner=True), note, place.caller)
    recorder.start(body)
    return ActiveRun(note, place, recorder, owner=True, parent=within)


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
            found[check_key(what, within + key)] = str(value).encode("utf-8", "replace").decode()
    return found


def _go_on(resume: str | bool, runs: Path, *, client: Client | None, url: str | None, offline: bool | None) -> ActiveRun:
    """Attach to a run. Its end is this one's if it had ended, or if whoever began it on this machine is gone."""
    announced = caller_environment().get("run")
    if resume is True and announced is None:
        raise Invalid("no run was announced to this process (TIDEMILL_RUN); begin one around what starts it, or name one: resume=ID")
    run = RunId(str(announced if resume is True else resume))
    known = read_run(runs / run)
    # What the run's own folder says counts where nothing else is said: the parent process may have been given its address by hand.
    given = client is not None or url is not None or offline is not None or caller_environment().get("url") is not None
    if known is not None and not given:
        place = find_place(runs, url=known.url, project=known.project, offline=known.url is None)
    else:
        place = find_place(runs, client=client, url=url, offline=offline)
    found = _ask(place, run, known is not None)
    if known is not None:
        note = known
    elif found is not None:
        note = RunNote(
            run=run, experiment=found["experiment"], name=found["name"], project=place.project, url=place.url,
            began_at=datetime.fromisoformat(found["started_at"]),
        )  # fmt: skip
    else:
        raise NotFound(f"there is no run {run} in {runs}; name the server or the folder in which it lies")
    ended = found is not None and found["status"] != "running"
    owner = resume is not True and (ended or (known is not None and not _owned(runs / run)))
    recorder = Recorder(WriterFolder(runs, note, owner=owner), note, place.caller)
    if found is not None:
        recorder.go_on(found["params"], {key: step for key, (step, _) in found["last"].items()})
        if ended:
            recorder.ask("PATCH", "", {"status": "running"})
    return ActiveRun(note, place, recorder, owner=owner)


def _ask(place: Place, run: str, known: bool) -> Doc | None:
    if place.caller is None:
        return None
    try:
        found: Doc = place.caller.get(f"/runs/{segment(run)}")
    except Unavailable:
        if not known:
            raise
        return None
    return found


def _owned(folder: Path) -> bool:
    """Return whether the process that began a run lives."""
    for writer in writer_folders(folder):
        note = read_writer(writer)
        if note is not None and note.owner:
            lock = hold(writer)
            if lock is None:
                return True
            os.close(lock)
    return False


def _end(recorder: Recorder, owner: bool, status: str, message: str) -> None:
    if owner:
        if recorder.caller is not None and len(writer_folders(recorder.folder.run)) > 1:
            with suppress(Unavailable, NotPermitted):  # what processes left that were killed, or knew no server; else `sync` finds it
                merge_run(recorder.folder.run, recorder.note, recorder.caller, end_killed=False)
        recorder.end(status, message, from_micros(wall_micros()))
    else:
        recorder.close()
