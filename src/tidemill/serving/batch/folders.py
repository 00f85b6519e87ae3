"""Where batch jobs work: a folder a job, held by one process at a time; those that nobody came back to go."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from tidemill.core.clock import wall
from tidemill.core.errors import Conflict
from tidemill.core.ids import RunId
from tidemill.govern.workspace import Workspace

_LOCK = "lock"


def jobs_folder(state: Path) -> Path:
    """Return the folder of all jobs."""
    return state / "batch"


@contextmanager
def held(folder: Path, run: RunId) -> Iterator[None]:
    """Hold a job's folder against other processes; the lock of a killed one is gone with it. Raises Conflict."""
    descriptor = _locked(folder)
    if descriptor is None:
        raise Conflict(f"the same job runs already (run {run}); wait for it, or stop it first")
    try:
        yield
    finally:
        os.close(descriptor)


def sweep_jobs(ws: Workspace, *, older_than: timedelta) -> int:
    """Remove what jobs left that were begun, not finished, and not gone on with for so long; return the bytes that were freed.

    Such a job, asked for again, begins from its first row. One that is under way is left alone.
    """
    ws.require("tracking.admin")
    freed, oldest = 0, wall() - older_than.total_seconds()
    for folder in jobs_folder(ws.state).glob("*"):
        with suppress(FileNotFoundError):  # it was finished meanwhile
            stats = [path.stat() for path in (folder, *folder.rglob("*"))]
            if max(stat.st_mtime for stat in stats) >= oldest or (descriptor := _locked(folder)) is None:
                continue
            try:
                shutil.rmtree(folder)
                freed += sum(stat.st_size for stat in stats[1:])
            finally:
                os.close(descriptor)
    return freed


def _locked(folder: Path) -> int | None:
    """Return the descriptor of a folder's lock, None when another process holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the folder was removed in between
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)  # whoever held it has removed it with its folder
