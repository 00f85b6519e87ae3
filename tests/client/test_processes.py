"""Processes that log to a run: they branch off, are killed, forget to end it, and nothing that they logged is lost."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client import programs
from tests.client.conftest import Plane
from tidemill.client.client import Client
from tidemill.client.folders import read_run, read_writer, run_folders, writer_folders
from tidemill.client.sync import merge_runs
from tidemill.core.settings import child_environment

pytestmark = pytest.mark.slow


def start(program: str, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(Path(programs.__file__)), program, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment())


def finished(program: str, url: str, *, code: int = 0) -> tuple[str, str]:
    """Run a program to its end; return the id of its run and what it said to standard error."""
    with start(program, url) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out.splitlines()[0], err


def values(client: Client, run: str, key: str) -> list[float]:
    return [point["value"] for point in client.runs.history(run, key)]


def said(process: subprocess.Popen[str], *, at_least: int) -> int:
    """Read what a program says until it has logged some steps; return the last step that it said."""
    for line in process.stdout:
        if (step := int(line)) >= at_least:
            return step
    raise AssertionError(process.stderr.read())


def test_a_program_that_is_killed_outright_leaves_what_it_logged(plane: Plane, remote: Client, runs: Path) -> None:
    with start("forever", plane.url) as process:
        run = process.stdout.readline().strip()
        said(process, at_least=10_000)
        plane.kill()  # from here on everything has to wait on disk
        last = said(process, at_least=15_000)
        process.kill()
        rest = [int(line) for line in process.stdout.read().split()]
    plane.start()
    assert remote.runs.get(run)["status"] == "running"
    (merged,) = merge_runs(runs, lambda _: remote.caller)
    assert (merged.run, merged.busy, merged.refused) == (run, 0, ())
    found = remote.runs.get(run)
    assert (found["status"], found["message"]) == ("killed", "whoever logged it ended without saying so")
    logged = values(remote, run, "loss")
    assert logged == [float(step) for step in range(len(logged))]  # in order, once, without a gap
    # A step is said after it was logged. What was logged half a second before the end, at some 10,000 steps a second, is there.
    assert len(logged) > max([last, *rest]) - 20_000
    assert len(logged) > 10_000
    assert list(merge_runs(runs, lambda _: remote.caller)) == []
    assert list(runs.iterdir()) == []


def test_terminating_a_program_kills_its_run(plane: Plane, remote: Client, runs: Path) -> None:
    with start("forever", plane.url) as process:
        run = process.stdout.readline().strip()
        last = said(process, at_least=500)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    found = remote.runs.get(run)
    assert (found["status"], found["message"]) == ("killed", "terminated")
    assert len(values(remote, run, "loss")) > last
    assert list(runs.iterdir()) == []


def test_interrupting_a_program_kills_its_run(plane: Plane, remote: Client) -> None:
    with start("forever", plane.url) as process:
        run = process.stdout.readline().strip()
        said(process, at_least=500)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    found = remote.runs.get(run)
    assert (found["status"], found["message"]) == ("killed", "interrupted")


@pytest.mark.parametrize(("program", "code", "status", "message"), [("forgetful", 0, "finished", ""), ("failing", 1, "failed", "data")])
def test_a_run_without_a_block_ends_with_its_program(
    plane: Plane, remote: Client, runs: Path, program: str, code: int, status: str, message: str
) -> None:
    run, _ = finished(program, plane.url, code=code)
    found = remote.runs.get(run)
    assert (found["status"], found["message"], values(remote, run, "loss")) == (status, message, [1.0])
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(("program", "ranks"), [("forking", 4), ("spawning", 4), ("pooling", 2)])
def test_processes_log_to_one_run(plane: Plane, remote: Client, runs: Path, program: str, ranks: int) -> None:
    run, err = finished(program, plane.url)
    assert err == ""
    found = remote.runs.get(run)
    assert (found["status"], found["message"]) == ("finished", "")
    for rank in range(ranks):
        assert values(remote, run, f"rank{rank}") == [float(step) for step in range(100)]
    assert len(values(remote, run, "shared")) == ranks * 100
    assert list(runs.iterdir()) == []
    assert len(remote.runs.list()) == 1


def test_what_a_killed_child_left_goes_with_its_parent(plane: Plane, remote: Client, runs: Path) -> None:
    run, _ = finished("bare_fork", plane.url)
    assert (values(remote, run, "child"), values(remote, run, "parent")) == ([1.0], [1.0])
    assert list(runs.iterdir()) == []


def test_a_folder_says_whose_it_is(plane: Plane, runs: Path) -> None:
    with start("forever", plane.url) as process:
        run = process.stdout.readline().strip()
        said(process, at_least=100)
        process.kill()
    (folder,) = run_folders(runs)
    (writer,) = writer_folders(folder)
    note, about = read_run(folder), read_writer(writer)
    assert note is not None
    assert about is not None
    assert (note.run, note.url, note.experiment, note.name, note.project) == (run, plane.url, "delay", "forever", "default")
    assert (about.owner, about.pid, about.writer) == (True, process.pid, writer.name)
    assert oct(writer.stat().st_mode & 0o777) == "0o700"
