"""The queue: one worker has a job, and a silent worker loses it."""

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidemill.catalog import jobs
from tidemill.catalog.catalog import Catalog
from tidemill.core.clock import SystemClock, wait_until, wall
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.ids import JobId
from tidemill.govern.workspace import Workspace


def ask(ws: Workspace, key: str | None = None, **named: object) -> jobs.Job:
    with ws.catalog.transaction() as tx:
        return jobs.enqueue(tx, project=ws.project, kind="k", args={}, actor="owner", at=ws.clock.now(), key=key, **named)  # type: ignore[arg-type]


def take(ws: Workspace, worker: str, wall_s: float = 0.0) -> jobs.Job | None:
    return jobs.claim(ws.catalog, worker=worker, kinds=("k",), lease_s=10, wall_s=wall_s, at=ws.clock.now())


def end(ws: Workspace, job: jobs.Job, worker: str) -> None:
    with ws.catalog.transaction() as tx:
        jobs.finish(tx, job.id, worker=worker, at=ws.clock.now(), result={"ok": True})


def test_jobs_are_taken_in_order_of_priority_then_age_and_once(any_ws: Workspace) -> None:
    first, urgent, second = ask(any_ws), ask(any_ws, priority=5), ask(any_ws)
    taken = [take(any_ws, "w") for _ in range(4)]
    assert [job.id if job else None for job in taken] == [urgent.id, first.id, second.id, None]


def test_a_key_asked_for_twice_is_one_job(any_ws: Workspace) -> None:
    assert ask(any_ws, "rule:1").id == ask(any_ws, "rule:1").id
    with any_ws.catalog.reading() as tx:
        assert jobs.open_count(tx, any_ws.project) == 1


def test_a_silent_worker_loses_its_job_and_cannot_end_it(any_ws: Workspace) -> None:
    ask(any_ws)
    mine = take(any_ws, "slow", wall_s=0)
    assert mine is not None
    assert take(any_ws, "other", wall_s=9) is None
    assert jobs.heartbeat(any_ws.catalog, mine.id, worker="slow", lease_s=10, wall_s=9)
    assert take(any_ws, "other", wall_s=11) is None
    taken_over = take(any_ws, "other", wall_s=20)
    assert taken_over is not None
    assert (taken_over.id, taken_over.attempts) == (mine.id, 2)
    assert not jobs.heartbeat(any_ws.catalog, mine.id, worker="slow", lease_s=10, wall_s=20)
    with pytest.raises(jobs.LeaseLost, match="no longer belongs to worker slow"):
        end(any_ws, mine, "slow")
    end(any_ws, taken_over, "other")
    with any_ws.catalog.reading() as tx:
        assert jobs.read_job(tx, mine.id).result == {"ok": True}


def test_a_job_that_kills_its_workers_is_given_up(any_ws: Workspace) -> None:
    asked = ask(any_ws, max_attempts=2)
    assert take(any_ws, "a", wall_s=0)
    assert take(any_ws, "b", wall_s=100)
    assert take(any_ws, "c", wall_s=200) is None
    with any_ws.catalog.reading() as tx:
        job = jobs.read_job(tx, asked.id)
    assert (job.state, job.error) == ("failed", "its worker died each time it was tried")


def test_a_cancelled_job_never_starts(any_ws: Workspace) -> None:
    job = ask(any_ws)
    with any_ws.catalog.transaction() as tx:
        assert jobs.cancel(tx, job.id, at=any_ws.clock.now()).state == "cancelled"
    assert take(any_ws, "w") is None
    with pytest.raises(Conflict, match=r"has ended already \(cancelled\)"), any_ws.catalog.transaction() as tx:
        jobs.cancel(tx, job.id, at=any_ws.clock.now())


def test_an_unknown_job_is_told_so(ws: Workspace) -> None:
    with pytest.raises(NotFound, match="there is no job nope"), ws.catalog.reading() as tx:
        jobs.read_job(tx, JobId("nope"))


@pytest.mark.slow
def test_many_workers_at_once_share_the_jobs_without_doubling_any(any_ws: Workspace) -> None:
    asked = {ask(any_ws).id for _ in range(60)}

    def drain(worker: str) -> list[str]:
        mine = []
        while (job := take(any_ws, worker)) is not None:
            mine.append(job.id)
            end(any_ws, job, worker)
        return mine

    with ThreadPoolExecutor(6) as pool:
        done = [job for taken in pool.map(drain, [f"w{n}" for n in range(6)]) for job in taken]
    assert sorted(done) == sorted(asked)


def _take_and_hang(folder: Path, taken: str) -> None:
    catalog = Catalog("sqlite:catalog.db", folder=folder)
    job = jobs.claim(catalog, worker="doomed", kinds=("k",), lease_s=0.5, wall_s=wall(), at=SystemClock().now())
    Path(taken).write_text(job.id if job else "")
    signal.pause()


@pytest.mark.slow
def test_the_job_of_a_killed_worker_is_taken_over(ws: Workspace, tmp_path: Path) -> None:
    asked, taken = ask(ws), tmp_path / "taken"
    process = multiprocessing.get_context("spawn").Process(target=_take_and_hang, args=(ws.state, str(taken)))
    process.start()
    assert wait_until(lambda: taken.exists() and taken.read_text() == asked.id, timeout_s=20)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert wait_until(lambda: take(ws, "next", wall_s=wall()) is not None, timeout_s=10)
