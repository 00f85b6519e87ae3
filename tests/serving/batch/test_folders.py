"""A job's folder is held by one process at a time, and goes when nobody came back to it."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from tidemill.core.clock import wall
from tidemill.core.errors import Conflict
from tidemill.core.ids import RunId
from tidemill.govern.workspace import Workspace
from tidemill.serving.batch.folders import held, jobs_folder, sweep_jobs

RUN = RunId("a" * 32)


def left(ws: Workspace, name: str, *, days: int) -> Path:
    """Return the folder of a job that was last worked on so long ago."""
    folder = jobs_folder(ws.state) / name
    with held(folder, RUN):
        (folder / "0.parquet").write_bytes(b"x" * 1000)
    for path in (folder / "lock", folder / "0.parquet", folder):
        os.utime(path, (wall() - days * 86400,) * 2)
    return folder


def test_only_what_was_left_for_long_goes(ws: Workspace) -> None:
    old, young = left(ws, "old", days=31), left(ws, "young", days=29)
    assert sweep_jobs(ws, older_than=timedelta(days=30)) == 1000
    assert (old.exists(), young.exists()) == (False, True)
    assert sweep_jobs(ws, older_than=timedelta(days=30)) == 0


def test_a_job_under_way_is_left_alone(ws: Workspace) -> None:
    folder = left(ws, "old", days=31)
    with held(folder, RUN):
        os.utime(folder, (0, 0))
        assert sweep_jobs(ws, older_than=timedelta(days=30)) == 0
        with pytest.raises(Conflict, match=f"the same job runs already \\(run {RUN}\\)"), held(folder, RUN):
            pass
    assert (folder / "0.parquet").exists()


def test_a_folder_that_was_swept_is_begun_anew(ws: Workspace) -> None:
    folder = left(ws, "old", days=31)
    sweep_jobs(ws, older_than=timedelta(days=30))
    with held(folder, RUN):
        assert [path.name for path in folder.iterdir()] == ["lock"]
