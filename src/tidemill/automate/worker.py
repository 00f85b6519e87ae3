"""A job worker: takes jobs under a lease, runs them as the actor who asked, records how they ended.

It runs one job at a time in its own process and leaves when the project's code has changed, so that its supervisor starts it afresh.
"""

import argparse
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidemill.automate.upkeep import UPKEEP_JOB, run_upkeep_job
from tidemill.catalog import jobs
from tidemill.catalog.events import EventBody, append
from tidemill.catalog.jobs import Job, LeaseLost
from tidemill.core.clock import elapsed, wall
from tidemill.core.codec import convert, plain
from tidemill.core.errors import Invalid, TidemillError
from tidemill.core.ids import ActorId, JobId
from tidemill.core.process import StopSignal, follow_supervisor, on_stop, start_logging
from tidemill.govern.actors import read_actor
from tidemill.govern.workspace import Workspace, open_workspace
from tidemill.pipelines.engine import run_pipeline
from tidemill.pipelines.project import check_declared, load_pipeline
from tidemill.serving.batch.job import BatchRequest, score_batch

LOG = logging.getLogger("tidemill.worker")
PIPELINE_JOB, BATCH_JOB = "pipeline", "batch"
IDLE_S, IDLE_MAX_S = 0.05, 0.4  # between two looks for work: ever longer while there is none


class JobAsked(EventBody, frozen=True, kw_only=True, tag="job.asked"):
    """Somebody asked for work."""

    job: JobId
    job_kind: str
    pipeline: str = ""


class JobEnded(EventBody, frozen=True, kw_only=True, tag="job.ended"):
    """A job came to its end."""

    job: JobId
    job_kind: str
    error: str | None
    seconds: float


def run_pipeline_job(ws: Workspace, job: Job) -> dict[str, Any]:
    """Run the pipeline that a job names; args are `pipeline` and `params`."""
    pipeline, params = load_pipeline(ws.home, job.args["pipeline"])
    run = run_pipeline(ws, pipeline, {**params, **job.args.get("params", {})}, cause=job.cause)
    return {"run": run.run, "seconds": run.seconds, "executed": run.executed, "steps": {step.step: step.seconds for step in run.steps}}


def ask_pipeline(ws: Workspace, pipeline: str, params: dict[str, Any] | None = None, *, reason: str = "") -> Job:
    """Ask for a run of a pipeline as a job. Raises NotFound for one that the project does not declare."""
    ws.require("pipelines.write", pipeline)
    check_declared(ws.home, pipeline)
    with ws.catalog.transaction() as tx:
        job = jobs.enqueue(
            tx,
            project=ws.project,
            kind=PIPELINE_JOB,
            args={"pipeline": pipeline, "params": params or {}},
            actor=ws.actor.id,
            at=ws.clock.now(),
        )
        ws.record(tx, JobAsked(job=job.id, job_kind=PIPELINE_JOB, pipeline=pipeline), subject=f"job:{job.id}", reason=reason)
    return job


def run_batch_job(ws: Workspace, job: Job) -> dict[str, Any]:
    """Score the table that a job names; args are a `BatchRequest`. A job whose worker died goes on where that one was."""
    done: dict[str, Any] = plain(score_batch(ws, convert(job.args, BatchRequest, what="batch request")))
    return done


def ask_batch(ws: Workspace, request: BatchRequest, *, reason: str = "") -> Job:
    """Ask for a table to be scored as a job. Raises Invalid for files, and for an executor: those are the server's own."""
    ws.require("datasets.write", request.to)
    if request.reads_file or request.executor is not None:
        raise Invalid(
            "a job of the server reads datasets, by the server's executor; add the file with: tidemill data add NAME FILE, "
            "or score it where it lies with: tidemill predict batch"
        )
    with ws.catalog.transaction() as tx:
        args: dict[str, Any] = plain(request)
        job = jobs.enqueue(tx, project=ws.project, kind=BATCH_JOB, args=args, actor=ws.actor.id, at=ws.clock.now())
        ws.record(tx, JobAsked(job=job.id, job_kind=BATCH_JOB), subject=f"job:{job.id}", reason=reason)
    return job


HANDLERS: dict[str, Callable[[Workspace, Job], dict[str, Any]]] = {
    PIPELINE_JOB: run_pipeline_job,
    BATCH_JOB: run_batch_job,
    UPKEEP_JOB: run_upkeep_job,
}


def work_once(ws: Workspace, *, worker: str) -> Job | None:
    """Take one job and do it; None when there is none. A job that raises is failed with its sentence, the worker lives on."""
    lease_s = ws.settings.lease_s
    job = jobs.claim(ws.catalog, worker=worker, kinds=tuple(HANDLERS), lease_s=lease_s, wall_s=wall(), at=ws.clock.now())
    if job is None:
        return None
    LOG.info("job %s (%s) started, attempt %d", job.id, job.kind, job.attempts)
    began, ended = elapsed(), threading.Event()
    keeper = threading.Thread(target=_keep_lease, args=(ws, job, worker, ended), daemon=True)
    keeper.start()
    result, error = None, None
    try:
        result = HANDLERS[job.kind](_as_asker(ws, job), job)
    except TidemillError as refused:
        error = str(refused)
    except (Exception, SystemExit) as crash:  # the edge of a worker: a job of any kind may raise anything
        LOG.exception("job %s failed", job.id)
        error = f"{type(crash).__name__}: {crash}"
    finally:
        ended.set()
        keeper.join()
    try:
        with ws.catalog.transaction() as tx:
            jobs.finish(tx, job.id, worker=worker, at=ws.clock.now(), result=result, error=error)
            ended_event = JobEnded(job=job.id, job_kind=job.kind, error=error, seconds=elapsed() - began)
            # By its asker, who may have no role any more.
            append(tx, ended_event, project=job.project, actor=job.actor, at=ws.clock.now(), subject=f"job:{job.id}", cause=job.cause)
    except LeaseLost as lost:
        LOG.warning("%s", lost)
    LOG.info("job %s ended after %.1f s%s", job.id, elapsed() - began, f": {error}" if error else "")
    with ws.catalog.reading() as tx:
        return jobs.read_job(tx, job.id)


def main(argv: list[str] | None = None) -> int:
    """Work until told to stop: `python -m tidemill.automate.worker --home DIR`."""
    parser = argparse.ArgumentParser(prog="tidemill-worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args(argv)
    try:
        ws = open_workspace(options.home)
    except TidemillError as error:
        sys.stderr.write(f"tidemill: {error}\n")
        return 1
    start_logging(ws.settings.log_level, form=ws.settings.log_format)
    stopping = StopSignal()
    on_stop(stopping.set)
    if options.supervised:
        follow_supervisor()
    worker = f"{socket.gethostname()}-{os.getpid()}-{options.index}"
    code = _code_state(ws.home)
    pause_s = IDLE_S
    while not stopping.is_set():
        if _code_state(ws.home) != code:
            LOG.info("the project's code has changed; leaving to be started afresh")
            break
        if work_once(ws, worker=worker) is not None:
            pause_s = IDLE_S
        elif not stopping.wait(pause_s):
            pause_s = min(IDLE_MAX_S, pause_s * 1.5)
    ws.close()
    return 0


def _as_asker(ws: Workspace, job: Job) -> Workspace:
    with ws.catalog.reading() as tx:
        return ws.acting(read_actor(tx, ActorId(job.actor), project=job.project), job.project)


def _keep_lease(ws: Workspace, job: Job, worker: str, ended: threading.Event) -> None:
    while not ended.wait(ws.settings.lease_s / 3):
        try:
            mine = jobs.heartbeat(ws.catalog, job.id, worker=worker, lease_s=ws.settings.lease_s, wall_s=wall())
        except TidemillError as error:
            LOG.warning("the lease of job %s could not be prolonged: %s", job.id, error)
            continue
        if not mine:
            LOG.warning("job %s was taken away; its result will not be recorded", job.id)
            return


def _code_state(home: Path) -> tuple[tuple[str, int], ...]:
    return tuple((file.name, file.stat().st_mtime_ns) for file in sorted(home.glob("*.py")))


if __name__ == "__main__":
    raise SystemExit(main())
