"""Begins runs, and goes on with them: `with tm.run("delay", params={...}) as run: run.log(loss=0.3)`."""

import os
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from tidemill.client.active_run import ActiveRun, texts
from tidemill.client.call import Doc, segment
from tidemill.client.capture import Capture
from tidemill.client.client import Client
from tidemill.client.folders import RunNote, WriterFolder, hold, read_run, read_writer, runs_folder, writer_folders
from tidemill.client.lifetime import CURRENT
from tidemill.client.place import Place, find_place
from tidemill.client.recorder import Recorder
from tidemill.client.seeds import SEED
from tidemill.client.system_metrics import EVERY_S, Sampler
from tidemill.core.clock import from_micros, wall_micros
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.core.ids import RunId, check_experiment, new_run_id
from tidemill.core.names import any_name
from tidemill.core.settings import caller_environment


def run(
    experiment: str | None = None,
    *,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    client: Client | None = None,
    url: str | None = None,
    offline: bool | str | Path | None = None,
    capture: bool = True,
    system_metrics: bool | float = False,
    resume: str | bool | None = None,
    parent: str | ActiveRun | None = None,
) -> ActiveRun:
    """Begin a run of an experiment, or go on with one, and return it: `with tm.run("delay", params={"depth": 3}) as run: ...`.

    client or url: the server; otherwise TIDEMILL_URL, otherwise the workspace that the current folder lies in. Without any of them,
    and with offline (True, or the folder to use), the run is a folder of files that `tidemill run sync` merges later.
    capture: keep Git's state, environment, command line and seed, found out in the background; a run within another is told of by that.
    system_metrics: sample processors, memory, disk, network and graphics cards, every 10 s or so many.
    resume: the id of a run to go on with, or True for the one that a parent process announced. parent: what it is part of, the run
    whose block this stands in unless told. Raises what the server says against it; a server that is away hears of it later.
    """
    runs = runs_folder(offline if isinstance(offline, str | Path) else None)
    local = None if offline is None else bool(offline)
    if resume:
        return _go_on(resume, runs, client=client, url=url, offline=local)
    if experiment is None:
        raise Invalid('a run needs the name of its experiment: tm.run("delay"); or the id of a run to go on with: tm.run(resume=ID)')
    check_experiment(experiment)
    place = find_place(runs, client=client, url=url, offline=local)
    now = from_micros(wall_micros())
    note = RunNote(run=new_run_id(), experiment=experiment, name=name or any_name(), project=place.project, url=place.url, began_at=now)
    within = parent.id if isinstance(parent, ActiveRun) else parent or CURRENT.get()
    given = {**({"seed": SEED.get()} if SEED.get() is not None else {}), **(tags or {})}
    sampler = Sampler(every_s=EVERY_S if system_metrics is True else float(system_metrics)) if system_metrics else None
    body = {
        "id": note.run, "experiment": experiment, "name": note.name, "parent": within, "params": texts("param", params or {}),
        "tags": texts("tag", given), "started_at": now,
    }  # fmt: skip
    recorder = Recorder(WriterFolder(runs, note, owner=True), note, place.caller)
    recorder.start(body)
    made = ActiveRun(note, place, recorder, owner=True, parent=within)
    if capture and within is None:
        recorder.attend(Capture(recorder.tags, recorder.files.put))
    if sampler is not None:
        sampler.start(partial(recorder.log, step=None))
        recorder.attend(sampler)
    return made


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
