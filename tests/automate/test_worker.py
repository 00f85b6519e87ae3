"""Job workers: each job once, by one worker, with its end told; a job outlives the worker that died of it."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import world
from tests.automate.projects import project
from tests.services import end
from tidemill.automate import worker as workers
from tidemill.automate.worker import ask_pipeline, work_once
from tidemill.catalog import jobs
from tidemill.catalog.jobs import Job
from tidemill.core.clock import wait_until
from tidemill.core.errors import NotFound
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.runs import read_run

pytestmark = pytest.mark.slow


def fetch(ws: Workspace, job: Job) -> Job:
    with ws.catalog.reading() as tx:
        return jobs.read_job(tx, job.id)


def test_a_job_runs_as_its_asker_and_its_end_is_told(any_ws: Workspace) -> None:
    dev = world.acting(any_ws, "dev", "developer")
    asked = ask_pipeline(dev, project(any_ws.home), {"n": 5}, reason="try it")
    assert (asked.state, asked.actor) == ("queued", "dev")
    done = work_once(any_ws, worker="w")
    assert done is not None
    assert (done.id, done.state, done.attempts, done.error) == (asked.id, "done", 1, None)
    assert done.result is not None
    assert done.result["executed"] == 1
    assert (read_run(any_ws, done.result["run"]).status, read_run(any_ws, done.result["run"]).actor) == ("finished", "dev")
    ended, *_, told = list_events(any_ws, subject=f"job:{asked.id}")
    assert (told.kind, told.reason, ended.kind, ended.actor, ended.body["error"]) == ("job.asked", "try it", "job.ended", "dev", None)
    assert work_once(any_ws, worker="w") is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise Invalid('the tide is out')", "the tide is out"),
        ("return 1 / (n - n)", "division by zero"),
        ("sys.exit(3)", "3"),
    ],
)
def test_a_job_that_raises_is_failed_with_its_sentence_and_the_worker_lives_on(ws: Workspace, body: str, says: str) -> None:
    failing, fine = ask_pipeline(ws, project(ws.home, body)), ask_pipeline(ws, project(ws.home))
    assert [work_once(ws, worker="w"), work_once(ws, worker="w")] == [fetch(ws, failing), fetch(ws, fine)]
    failed = fetch(ws, failing)
    assert (failed.state, failed.result) == ("failed", None)
    assert says in str(failed.error)
    assert fetch(ws, fine).state == "done"
    assert list_events(ws, subject=f"job:{failing.id}", limit=1)[0].body["error"] == failed.error


def test_a_pipeline_that_is_not_there_is_named_when_it_is_asked_for_and_when_it_is_run(ws: Workspace) -> None:
    name = project(ws.home)
    with pytest.raises(NotFound, match=f"there is no pipeline {name[:-1] + 'x'!r}"):
        ask_pipeline(ws, name[:-1] + "x")
    asked = ask_pipeline(ws, name)
    (ws.home / "tidemill.toml").write_text("[settings]\n")
    work_once(ws, worker="w")
    failed = fetch(ws, asked)
    assert failed.state == "failed"
    assert "there is no pipeline" in str(failed.error)
    with pytest.raises(ActionRefused, match="viewer"):
        ask_pipeline(world.acting(ws, "eve", "viewer"), name)


def test_a_job_of_somebody_who_has_gone_is_failed(ws: Workspace) -> None:
    name = project(ws.home)
    with ws.catalog.transaction() as tx:
        asked = jobs.enqueue(
            tx, project="default", kind=workers.PIPELINE_JOB, args={"pipeline": name, "params": {}}, actor="ghost", at=ws.clock.now()
        )
    work_once(ws, worker="w")
    failed = fetch(ws, asked)
    assert (failed.state, "there is no actor 'ghost'" in str(failed.error)) == ("failed", True)
    assert list_events(ws, subject=f"job:{asked.id}")[0].actor == "ghost"


def test_a_result_that_comes_after_another_worker_took_over_is_not_recorded(ws: Workspace) -> None:
    gate = ws.home / "gate"
    name = project(ws.home, f"while not Path({str(gate)!r}).exists(): time.sleep(0.01)\nreturn n")
    asked = ask_pipeline(ws, name)
    thread = threading.Thread(target=work_once, args=(ws,), kwargs={"worker": "slow"})
    thread.start()
    assert wait_until(lambda: fetch(ws, asked).state == "running", timeout_s=20)
    # The lease is over, as after a machine that slept.
    later = jobs.claim(ws.catalog, worker="quick", kinds=(workers.PIPELINE_JOB,), lease_s=30, wall_s=9e12, at=ws.clock.now())
    assert later is not None
    gate.touch()
    thread.join()
    still = fetch(ws, asked)
    assert (still.state, still.worker, still.attempts, still.result) == ("running", "quick", 2, None)
    assert [event.kind for event in list_events(ws, subject=f"job:{asked.id}")] == ["job.asked"]


@contextmanager
def worker_process(home: Path, **environment: str):
    command = [sys.executable, "-m", "tidemill.automate.worker", "--home", str(home)]
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        yield process
    finally:
        end(process)


def test_the_job_of_a_killed_worker_is_taken_over_and_done_once(ws: Workspace) -> None:
    body = f"""\
seen = Path({str(ws.home)!r}) / "seen"
with seen.open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
while len(seen.read_text().split()) < 2: time.sleep(0.01)
return n"""
    asked = ask_pipeline(ws, project(ws.home, body))
    seen = ws.home / "seen"
    with worker_process(ws.home, TIDEMILL_LEASE_S="1") as first:
        assert wait_until(lambda: seen.exists() and bool(seen.read_text()), timeout_s=30), (ws.home / "worker.log").read_text()
        first.send_signal(signal.SIGKILL)
        assert first.wait(20) == -signal.SIGKILL
        assert fetch(ws, asked).state == "running"
        with worker_process(ws.home, TIDEMILL_LEASE_S="1") as second:
            assert wait_until(lambda: fetch(ws, asked).state == "done", timeout_s=30), (ws.home / "worker.log").read_text()
            assert seen.read_text().split() == [str(first.pid), str(second.pid)]
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
    done = fetch(ws, asked)
    assert (done.attempts, done.worker is not None and str(second.pid) in done.worker) == (2, True)
    assert [event.kind for event in list_events(ws, subject=f"job:{asked.id}")] == ["job.ended", "job.asked"]


def test_a_lease_is_kept_alive_for_as_long_as_the_work_takes(ws: Workspace) -> None:
    name = project(ws.home, "time.sleep(2.5); return n")
    asked = ask_pipeline(ws, name)
    with worker_process(ws.home, TIDEMILL_LEASE_S="1"), worker_process(ws.home, TIDEMILL_LEASE_S="1"):
        assert wait_until(lambda: fetch(ws, asked).state == "done", timeout_s=30), (ws.home / "worker.log").read_text()
    assert fetch(ws, asked).attempts == 1


def test_a_worker_leaves_when_the_project_has_changed_and_without_a_workspace_says_so(ws: Workspace, tmp_path: Path) -> None:
    asked = ask_pipeline(ws, project(ws.home))
    with worker_process(ws.home) as process:
        assert wait_until(lambda: fetch(ws, asked).state == "done", timeout_s=30)
        project(ws.home)
        assert process.wait(20) == 0
    assert "the project's code has changed" in (ws.home / "worker.log").read_text()
    for module in ("worker", "controller"):
        command = [sys.executable, "-m", f"tidemill.automate.{module}", "--home", str(tmp_path / "nothing")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "is not a Tidemill workspace; make it one with: tidemill init" in done.stderr
