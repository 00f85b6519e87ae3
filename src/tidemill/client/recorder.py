"""What one process logs to one run, on its way: memory, within half a second the disk, then the server."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import Any, Protocol

from tidemill.client.call import Caller, segment
from tidemill.client.columns import Columns
from tidemill.client.courier import Courier, Progress
from tidemill.client.delivery import as_record, deliver
from tidemill.client.folders import RunNote, WriterFolder, read_run, remove_writer, write_run
from tidemill.client.uploads import FileLane
from tidemill.core.errors import Conflict, NotPermitted, Unavailable

LOG = logging.getLogger("tidemill.run")
FLUSH_S = 0.5
# Points that wait in memory at most: 6 MB. Whoever logs faster than that writes to disk itself.
WAITING_POINTS_MAX = 1 << 18
START_S = 30.0


class ParamChanged(Conflict):
    """A param is written once."""

    def __init__(self, key: str, before: str, after: str) -> None:
        self.key, self.before, self.after = key, before, after
        super().__init__(
            f"param {key!r} is {before!r} already and cannot become {after!r}; log a value that changes with run.log or run.tag"
        )


class RunOver(Conflict):
    """The run has ended in this process."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(f"run {run} has ended and takes nothing more; go on with it: tm.run(resume={run!r}), or begin another")


class NotArrived(Unavailable):
    """What was logged is not at the server yet."""

    def __init__(self, run: str, progress: Progress, timeout_s: float, folder: Path) -> None:
        self.run, self.waiting = run, progress.waiting
        why = f" ({progress.away})" if progress.away is not None else ""
        super().__init__(
            f"{progress.waiting} requests of run {run} did not arrive within {timeout_s:g} s{why}; they lie in {folder} and go on their "
            "way while this process lives, and after that with: tidemill run sync"
        )


class Attendant(Protocol):
    """Something that logs to a run on its own, in the background, until the run ends."""

    def finish(self) -> None:
        """Log nothing more; wait for what is under way."""
        ...


class Recorder:
    """Takes what is logged and sees to it that it arrives. Safe from several threads; belongs to one process.

    What is logged is appended in memory and brought to disk by a thread of its own, so that neither a slow disk nor Ctrl-C in the
    thread that logs can tear a batch.
    """

    def __init__(self, folder: WriterFolder, note: RunNote, caller: Caller | None) -> None:
        """Without a caller everything stays on disk. Raises OSError."""
        self.folder, self.note, self.caller = folder, note, caller
        self.columns = Columns()
        self.place = f"/runs/{segment(note.run)}"
        self.ended = False
        self._lane = Courier(folder.path / "log", partial(deliver, caller) if caller is not None else None)
        self.files = FileLane(folder, self.place, caller)
        self._params: dict[str, str] = {}
        self._new: dict[str, dict[str, str]] = {"params": {}, "tags": {}}
        self._asked: list[bytes] = []
        self._attendants: list[Attendant] = []
        self._number = 0
        self._adding = Lock()
        self._wake, self._hurry = Event(), Event()
        self._brought = Condition()
        self._wanted = self._done = 0
        self._thread: Thread | None = None

    @property
    def offline(self) -> bool:
        return self.caller is None

    def start(self, body: Mapping[str, Any]) -> None:
        """Begin the run. A server that is away hears of it later. Raises what a server that is there says against it."""
        self._params.update(body.get("params", {}))
        self._lane.put(as_record("POST", "/runs", body, once=self.note.run))
        progress = self._lane.wait(START_S, while_away=False)
        error = progress.refusal or (progress.away if isinstance(progress.away, NotPermitted) else None)
        if error is not None:
            self.ended = True
            self._lane.stop()
            self.folder.release()
            remove_writer(self.folder.path)
            raise error

    def go_on(self, params: Mapping[str, str], steps: Mapping[str, int]) -> None:
        """Go on with a run that has params already, and metrics up to some steps."""
        self._params.update(params)
        self.columns.resume(steps)

    def attend(self, attendant: Attendant) -> None:
        """Let something log to the run until it ends."""
        self._attendants.append(attendant)

    def log(self, metrics: Mapping[str, Any], step: Any) -> None:
        """Add a point to each metric. Raises RunOver, Invalid."""
        if self.ended:
            raise RunOver(self.note.run)
        waiting = self.columns.add(metrics, step)
        if waiting == len(metrics):
            self._stir()
        elif waiting > WAITING_POINTS_MAX:
            self.bring()

    def params(self, params: Mapping[str, str]) -> None:
        """Write params once. Raises ParamChanged; then none of them is written."""
        with self._adding:
            for key, value in params.items():
                if self._params.get(key, value) != value:
                    raise ParamChanged(key, self._params[key], value)
            self._params.update(params)
            self._new["params"].update(params)
        self._stir()

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write tags, replacing those of the same key."""
        with self._adding:
            self._new["tags"].update(tags)
        self._stir()

    def ask(self, method: str, path: str, body: Any, *, once: str | None = None) -> None:
        """Send a request below the run, behind what was logged before."""
        with self._adding:
            self._asked.append(as_record(method, self.place + path, body, once=once))
        self._stir()

    def bring(self) -> None:
        """Bring what waits in memory to disk, from where it is sent."""
        with self._brought:
            self._wanted += 1
            mine = self._wanted
        self._stir()
        self._hurry.set()
        with self._brought:
            if self._thread is not None:
                self._brought.wait_for(lambda: self._done >= mine)
                return
        self._bring()  # the interpreter is about to end and starts no thread any more

    def flush(self, timeout_s: float) -> None:
        """Wait until the server has all that was logged so far. Raises Unavailable when it has not within timeout_s."""
        self.bring()
        for lane in (self._lane, self.files.courier):
            progress = lane.wait(timeout_s)
            if progress.waiting and not self.offline:
                raise NotArrived(self.note.run, progress, timeout_s, self.folder.path)

    def end(self, status: str, message: str, ended_at: datetime) -> None:
        """Send what is left, then how the run ended. What cannot go now is left on disk."""
        for attendant in self._attendants:
            attendant.finish()
        self.files.courier.wait(float("inf"), while_away=False)
        self.ask("PUT", "/end", {"status": status, "message": message, "ended_at": ended_at})
        self.close()

    def close(self) -> None:
        """Send what is left. A folder from which all has arrived is removed."""
        if self.ended:
            return
        self.ended = True
        self.bring()
        lanes = (self.files.courier, self._lane)
        left = [lane.wait(float("inf"), while_away=False) for lane in lanes]
        for lane in lanes:
            lane.stop()
        self.files.close()
        if read_run(self.folder.run) is None:  # somebody who left in that moment took it along
            with suppress(OSError):
                write_run(self.folder.run, self.note)
        self.folder.release()
        if self.offline:
            return
        if any(progress.waiting or progress.refused for progress in left):
            LOG.warning("%s", _left_sentence(self.note.run, left, self.folder.path))
        else:
            remove_writer(self.folder.path)

    def forget(self) -> None:
        """Let go of files in a forked child: they are the parent's."""
        self._lane.forget()
        self.files.courier.forget()
        self.folder.release()

    def _stir(self) -> None:
        if self._thread is None:
            with self._adding:
                if self._thread is None:
                    thread = Thread(target=self._work, name="tidemill-recorder", daemon=True)
                    with suppress(RuntimeError):  # at the end of the interpreter
                        thread.start()
                        self._thread = thread
        self._wake.set()

    def _work(self) -> None:
        over = False
        while not over:
            self._wake.wait()
            self._hurry.wait(FLUSH_S)
            self._wake.clear()
            self._hurry.clear()
            with self._brought:
                target, over = self._wanted, self.ended
            try:
                self._bring()
            except Exception:  # the edge of a thread: what nobody foresaw must not end it
                LOG.exception("something that run %s logged could not be kept", self.note.run)
            with self._brought:
                self._done = target
                self._brought.notify_all()

    def _bring(self) -> None:
        with self._adding:
            new, self._new = self._new, {"params": {}, "tags": {}}
            asked, self._asked = self._asked, []
        for name, values in new.items():
            if values:
                self._lane.put(as_record("PUT", f"{self.place}/{name}", values))
        writer = self.folder.note.writer
        for batch in self.columns.take():
            self._number += 1
            body = {"writer": writer, "number": self._number, "series": [part._asdict() for part in batch]}
            self._lane.put(as_record("POST", f"{self.place}/series", body, once=f"{writer}-{self._number}"))
        for record in asked:
            self._lane.put(record)


def _left_sentence(run: str, left: list[Progress], folder: Path) -> str:
    waiting, refused = sum(progress.waiting for progress in left), sum(progress.refused for progress in left)
    what = [f"{waiting} requests wait"] if waiting else []
    what += [f"{refused} were refused"] if refused else []
    return f"run {run}: {', '.join(what)} in {folder}; send them with: tidemill run sync"
