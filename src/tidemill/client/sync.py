"""Merges runs that lie on disk into a server: what was logged offline, and what dead processes left. Doing it again changes nothing."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tidemill.client.call import Caller, segment
from tidemill.client.delivery import anew, deliver, read_record
from tidemill.client.folders import RunNote, hold, read_run, read_writer, remove_run, remove_writer, run_folders, writer_folders
from tidemill.client.spool import LaneReader, LaneWriter, empty
from tidemill.client.uploads import Registration, deliver_file, read_errand, register
from tidemill.core.errors import NotPermitted, TidemillError, Unavailable
from tidemill.core.values import Value

KILLED = "whoever logged it ended without saying so"


class Merged(Value, frozen=True, kw_only=True):
    """What became of a run. busy: processes that log to it still; refused: what the server said no to; cut_bytes: what a crash tore."""

    run: str
    experiment: str
    name: str
    requests: int
    files: int
    models: int
    busy: int
    refused: tuple[str, ...]
    cut_bytes: int


def merge_runs(runs: Path, caller_of: Callable[[RunNote], Caller], *, keep: bool = False) -> Iterator[Merged]:
    """Send all runs below a folder, oldest first, to the servers that caller_of names; yield what became of each.

    What has arrived is removed unless keep. Raises Unavailable and NotPermitted; called again it goes on where it stopped.
    """
    for folder in run_folders(runs):
        note = read_run(folder)
        if note is not None:
            yield merge_run(folder, note, caller_of(note), keep=keep)


def merge_run(folder: Path, note: RunNote, caller: Caller, *, keep: bool = False, end_killed: bool = True) -> Merged:
    """Send one run. One that nobody ended, and nobody logs to any more, is ended as killed if end_killed."""
    parts, busy, begun, ended = [], 0, False, False
    for writer in writer_folders(folder):
        about = read_writer(writer)
        lock = hold(writer) if about is not None else None
        if about is None or lock is None:
            busy += 1
            continue
        try:
            part = _Part(writer, f"/runs/{segment(note.run)}", caller, keep=keep)
            part.send()
            if not keep and not part.refused:
                remove_writer(writer)
        finally:
            os.close(lock)
        parts.append(part)
        begun, ended = begun or about.owner, ended or part.ended
    if end_killed and begun and not ended and not busy:
        caller.put(f"/runs/{segment(note.run)}/end", {"status": "killed", "message": KILLED})
    if not keep:
        remove_run(folder)
    return Merged(
        run=note.run,
        experiment=note.experiment,
        name=note.name,
        requests=sum(part.requests for part in parts),
        files=sum(part.files for part in parts),
        models=sum(part.models for part in parts),
        busy=busy,
        refused=tuple(str(error) for part in parts for error in part.refused),
        cut_bytes=sum(part.cut_bytes for part in parts),
    )


class _Part:
    """What one process logged to a run, being sent."""

    def __init__(self, folder: Path, place: str, caller: Caller, *, keep: bool) -> None:
        self.folder, self.place, self.caller, self.keep = folder, place, caller, keep
        self.requests = self.files = self.models = self.cut_bytes = 0
        self.refused: list[TidemillError] = []
        self.ended = self._filed = False

    def send(self) -> None:
        """Send requests in order, files before the run's end, then what was refused before."""
        self.requests = self._lane(self.folder / "log", self._request)
        self._send_files()
        for name, act in (("log", self._once_more), ("files", self._file)):
            self._again(self.folder / name / "refused", act)

    def _lane(self, lane: Path, act: Callable[[bytes], None]) -> int:
        sent, reader = 0, LaneReader(lane, from_start=self.keep)
        try:
            while (found := reader.next()) is not None:
                record, end = found
                try:
                    act(record)
                    sent += 1
                except (Unavailable, NotPermitted):
                    raise
                except TidemillError as error:
                    self._refuse(lane, record, error)
                if not self.keep:
                    reader.take(end)
            self.cut_bytes += reader.lost_bytes + reader.left_bytes
        finally:
            reader.close()
        return sent

    def _again(self, lane: Path, act: Callable[[bytes], None]) -> None:
        """Try what was refused once more: the reason may be gone."""
        reader, left = LaneReader(lane, from_start=True), False
        try:
            while (found := reader.next()) is not None:
                try:
                    act(found[0])
                except (Unavailable, NotPermitted):
                    raise
                except TidemillError as error:
                    left = True
                    if not any(str(known) == str(error) for known in self.refused):
                        self.refused.append(error)
        finally:
            reader.close()
        if not left and not self.keep and lane.exists() and not empty(lane):
            for segment_file in lane.glob("*.seg"):
                segment_file.unlink()

    def _request(self, record: bytes) -> None:
        if read_record(record).path == f"{self.place}/end":
            self._send_files()
            self.ended = True
        deliver(self.caller, record)

    def _once_more(self, record: bytes) -> None:
        self._request(anew(record))

    def _send_files(self) -> None:
        if not self._filed:
            self._filed = True
            self._lane(self.folder / "files", self._file)

    def _file(self, record: bytes) -> None:
        errand = read_errand(record)
        if isinstance(errand, Registration):
            register(self.caller, self.place, errand.name, errand.body)
            self.models += 1
        else:
            deliver_file(self.caller, self.place, errand, self.folder / "objects")
            self.files += 1

    def _refuse(self, lane: Path, record: bytes, error: TidemillError) -> None:
        self.refused.append(error)
        if not self.keep:
            aside = LaneWriter(lane / "refused")
            aside.append(record)
            aside.close()
