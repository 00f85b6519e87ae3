"""Folders of runs: held while their process lives, gone when nobody needs them, never in the way of somebody who has just come."""

import os
from pathlib import Path

import pytest

from tidemill.client.folders import (
    RUN_FILE,
    RunNote,
    WriterFolder,
    hold,
    read_run,
    read_writer,
    remove_run,
    remove_writer,
    run_folders,
    runs_folder,
    writer_folders,
)
from tidemill.core.clock import EPOCH
from tidemill.core.ids import RunId

NOTE = RunNote(run=RunId("a" * 32), experiment="delay", name="r", project="default", url=None, began_at=EPOCH)


def test_a_folder_is_held_until_it_is_released(tmp_path: Path) -> None:
    made = WriterFolder(tmp_path, NOTE, owner=True)
    assert hold(made.path) is None
    made.release()
    made.release()
    lock = hold(made.path)
    assert lock is not None
    assert hold(made.path) is None
    os.close(lock)
    assert hold(tmp_path / "nowhere") is None


def test_a_run_goes_with_its_last_writer(tmp_path: Path) -> None:
    one, two = WriterFolder(tmp_path, NOTE, owner=True), WriterFolder(tmp_path, NOTE, owner=False)
    assert (run_folders(tmp_path), len(writer_folders(one.run))) == ([one.run], 2)
    assert run_folders(one.run) == [one.run]
    assert (read_run(one.run), read_writer(two.path)) == (NOTE, two.note)
    one.release()
    remove_writer(one.path)
    assert run_folders(tmp_path) == [one.run]
    assert not remove_run(one.run)
    two.release()
    remove_writer(two.path)
    assert list(tmp_path.iterdir()) == []
    assert remove_run(one.run)


def test_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / RUN_FILE).write_text("{}")
    assert read_run(tmp_path / "x") is None
    assert read_writer(tmp_path / "x") is None
    assert run_folders(tmp_path / "nowhere") == []


def test_where_runs_lie_is_said_by_hand_or_the_environment_or_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_folder(tmp_path) == tmp_path
    monkeypatch.setenv("TIDEMILL_RUNS", str(tmp_path / "named"))
    assert runs_folder() == tmp_path / "named"
    monkeypatch.delenv("TIDEMILL_RUNS")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert runs_folder() == tmp_path / "tidemill" / "runs"
