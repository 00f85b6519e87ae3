"""The folders in which runs lie on this machine: a run, below it one folder for each process that logs to it, held while it lives.

RUNS/{run}/run.json                    what the run is, and which server it goes to
RUNS/{run}/objects/{digest}            bytes of files that are still to go
RUNS/{run}/{writer}/writer.json        whose folder it is; locked while that process lives
RUNS/{run}/{writer}/log                the lane of requests, in order
RUNS/{run}/{writer}/files              the lane of files
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.ids import RunId, new_id
from tidemill.core.settings import caller_environment, state_folder
from tidemill.core.values import Value

RUN_FILE = "run.json"
WRITER_FILE = "writer.json"
T = TypeVar("T")


class RunNote(Value, frozen=True, kw_only=True):
    """What a run's folder says of it. url: the server that it goes to, None when that is for `sync` to say."""

    run: RunId
    experiment: str
    name: str
    project: str
    url: str | None
    began_at: datetime


class WriterNote(Value, frozen=True, kw_only=True):
    """What a writer's folder says of it. owner: it began the run, so its end is the run's."""

    writer: str
    owner: bool
    pid: int
    host: str


def runs_folder(given: Path | str | None = None) -> Path:
    """Return the folder of runs: the given one, TIDEMILL_RUNS, or one in this user's state folder."""
    named = given or caller_environment().get("runs")
    return Path(named).absolute() if named else state_folder() / "tidemill" / "runs"


class WriterFolder:
    """The folder of one process's part in a run."""

    def __init__(self, runs: Path, note: RunNote, *, owner: bool) -> None:
        """Make it and hold it. Raises Unavailable when the disk says no."""
        self.note = WriterNote(writer=new_id(), owner=owner, pid=os.getpid(), host=socket.gethostname())
        self.run = runs / note.run
        self.path = self.run / self.note.writer
        try:
            runs.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
            self.path.mkdir(mode=0o700)
            if not (self.run / RUN_FILE).exists():
                write_run(self.run, note)
            self._lock = os.open(self.path / WRITER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.write(self._lock, encode(self.note))
        except OSError as error:
            raise Unavailable(
                f"{runs} cannot hold the files of a run: {error.strerror}; name a folder that can be written in TIDEMILL_RUNS"
            ) from error

    @property
    def objects(self) -> Path:
        """Where the bytes of files wait."""
        return self.path / "objects"

    def release(self) -> None:
        """Let others have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def write_run(folder: Path, note: RunNote) -> None:
    """Write what a run's folder says."""
    scratch = folder / f".{RUN_FILE}.{os.getpid()}-{new_id()[-8:]}"
    scratch.write_bytes(encode(note))
    scratch.replace(folder / RUN_FILE)


def read_run(folder: Path) -> RunNote | None:
    """Return what a run's folder says, None when it is none."""
    return _read(folder / RUN_FILE, RunNote)


def read_writer(folder: Path) -> WriterNote | None:
    """Return what a writer's folder says, None when it is none."""
    return _read(folder / WRITER_FILE, WriterNote)


def run_folders(runs: Path) -> list[Path]:
    """Return the folders of runs below a folder, oldest first; the folder itself when it is that of a run."""
    if (runs / RUN_FILE).is_file():
        return [runs]
    return sorted(path.parent for path in runs.glob(f"*/{RUN_FILE}"))


def writer_folders(run: Path) -> list[Path]:
    """Return the folders of those who logged to a run, oldest first."""
    return sorted(path.parent for path in run.glob(f"*/{WRITER_FILE}"))


def hold(writer: Path) -> int | None:
    """Return a descriptor that holds a writer's folder until it is closed, None when its process lives."""
    try:
        lock = os.open(writer / WRITER_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def remove_writer(writer: Path) -> None:
    """Remove a writer's folder, and its run's when nobody else's is there."""
    shutil.rmtree(writer, ignore_errors=True)
    remove_run(writer.parent)


def remove_run(run: Path) -> bool:
    """Remove a run's folder unless somebody's part is there; return whether it is gone."""
    if any(_parts(run)):
        return False
    (run / RUN_FILE).unlink(missing_ok=True)
    with suppress(OSError):  # somebody has just begun to log to it
        run.rmdir()
    return not run.exists()


def _parts(run: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from (path for path in run.iterdir() if path.is_dir())


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return decode(path.read_bytes(), kind, what=str(path))
    except (FileNotFoundError, NotADirectoryError, Invalid):
        return None
