"""A model in a process of its own: what it does to itself it does to nobody else.

A process that dies, hangs or grows is replaced. Who asked one that dies or hangs is told so by the deadline; who comes next waits
for the new one.
"""

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

from tidemill.core.codec import unpack
from tidemill.core.errors import Corrupt, Invalid, TidemillError
from tidemill.core.settings import child_environment
from tidemill.core.signature import ModelSpec
from tidemill.serving.outputs import unpack_array
from tidemill.serving.runtimes.channel import LOAD_S, Channel, ChannelClosed, Feed, Packer, Told, unpack_scores
from tidemill.serving.runtimes.runtime import Answer, Columns, ModelFailed, Scores, checked, declared

LOG = logging.getLogger(__name__)
GROWTH_BYTES = 1 << 30
# Before a process is started again, by how many have ended one after the other without an answer between them.
PAUSES_S = (0.0, 0.0, 1.0, 5.0, 30.0)
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true"}  # a model answers; what it is asked is nobody else's


class Child:
    """One process with the model loaded. Used by one thread at a time."""

    def __init__(self, folder: Path, spec: ModelSpec, *, model: str, deadline_s: float, growth_bytes: int) -> None:
        """Start it and wait until the model is there. Raises Invalid, Corrupt."""
        ours, theirs = socket.socketpair()
        command = [
            sys.executable, "-m", "tidemill.serving.runtimes.child", "--fd", str(theirs.fileno()), "--bundle", str(folder),
            "--model", model, "--deadline-s", str(deadline_s), "--growth-bytes", str(growth_bytes),
        ]  # fmt: skip
        with theirs:
            # What the model prints goes where the worker's log goes; the worker's own input belongs to its supervisor.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=(theirs.fileno(),), env=child_environment(_QUIET)
            )
        self._channel = Channel(ours)
        self._end = weakref.finalize(self, _end, self._process, self._channel)
        try:
            self._channel.send(spec)
            told = unpack(self._channel.receive(deadline=time.monotonic() + LOAD_S), Told)
        except TimeoutError:
            self.end()
            raise Invalid(f"model {model} was not loaded in {LOAD_S:g} s; look at what its code does when it is imported") from None
        except ChannelClosed:
            raise Invalid(f"model {model} ended its process while it was loaded ({self.ended()}); its log says more") from None
        if told.refused:
            self.end()
            raise Corrupt(told.refused) if told.corrupt else Invalid(told.refused)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, feed: Feed, *, deadline: float) -> Told:
        """Return its answer. Raises ChannelClosed when it has gone, TimeoutError at the deadline."""
        self._channel.send(feed, deadline=deadline)
        return unpack(self._channel.receive(deadline=deadline), Told)

    def end(self) -> None:
        """End it now. It holds nothing that could be lost."""
        self._end()

    def ended(self) -> str:
        """Return how a process ended that has closed its side."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.end()
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class IsolatedRuntime:
    """Asks the process of its model, one request after the other."""

    waits = True

    def __init__(self, folder: Path, spec: ModelSpec, *, model: str, deadline_s: float, growth_bytes: int = GROWTH_BYTES) -> None:
        self._model, self._spec, self._deadline_s = model, spec, deadline_s
        self._packer = Packer(spec, model=model)
        self._start = partial(Child, folder, spec, model=model, deadline_s=deadline_s, growth_bytes=growth_bytes)
        self._turn = threading.Lock()
        self._child: Child | None = self._start()
        self._coming: Future[Child] | None = None
        self._lost = 0
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """The process that answers now, None while there is none."""
        return self._child.pid if self._child is not None else None

    def run(self, columns: Columns, rows: int) -> Scores:
        return checked(unpack_scores(self._told(self._packer.pack(columns, rows))), rows, self._model)

    def answer(self, columns: Columns, rows: int) -> Answer:
        told = self._told(self._packer.pack(columns, rows, whole=True))
        # A process that runs code of a bundle may say anything: what its runtime has checked is checked here again.
        outputs = self._spec.others
        if len(told.others) != len(outputs):
            raise ModelFailed(self._model, f"its process gave {len(told.others)} of {len(outputs)} outputs")
        others = [declared(unpack_array(packed), output, rows, self._model) for output, packed in zip(outputs, told.others, strict=True)]
        return Answer(checked(unpack_scores(told), rows, self._model), tuple(others))

    def _told(self, feed: Feed) -> Told:
        deadline = time.monotonic() + self._deadline_s
        if not self._turn.acquire(timeout=self._deadline_s):
            raise ModelFailed(self._model, f"its process was busy with the rows of others for {self._deadline_s:g} s")
        try:
            told = self._ask(self._living(deadline), feed, deadline)
        finally:
            self._turn.release()
        if told.failed:
            raise ModelFailed(self._model, told.failed)
        return told

    def _ask(self, child: Child, feed: Feed, deadline: float) -> Told:
        try:
            told = child.ask(feed, deadline=deadline)
        except (TimeoutError, ChannelClosed) as error:
            late = isinstance(error, TimeoutError)
            reason = f"it gave no answer in {self._deadline_s:g} s" if late else f"its process ended ({child.ended()})"
            child.end()
            self._child = None
            self._replace()
            LOG.error("model %s: %s; its process is started again", self._model, reason)
            raise ModelFailed(self._model, reason) from None
        self._lost = 0
        if told.grown and self._coming is None:
            LOG.warning("model %s: its process has grown too much and is replaced", self._model)
            self._replace()
        return told

    def _living(self, deadline: float) -> Child:
        """Return the process to ask, by the deadline. Raises ModelFailed."""
        if self._coming is not None and (self._child is None or self._coming.done()):
            if self._child is None and time.monotonic() < self._not_before:
                raise ModelFailed(self._model, f"its process ended {self._lost} times in a row; it is started again in a while")
            try:
                child = self._coming.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise ModelFailed(self._model, f"its process ended and was not there again in {self._deadline_s:g} s") from None
            except TidemillError as error:
                if self._child is None:
                    self._replace()
                    raise ModelFailed(self._model, str(error)) from error
                child = self._child  # which had only grown
            if self._child is not None and self._child is not child:
                self._child.end()
            self._child, self._coming = child, None
        if self._child is None:
            raise ModelFailed(self._model, "it has no process")
        return self._child

    def _replace(self) -> None:
        """Let the next process come, beside whatever goes on."""
        pause_s = PAUSES_S[min(self._lost, len(PAUSES_S) - 1)] if self._child is None else 0.0
        self._lost += self._child is None
        self._not_before = time.monotonic() + pause_s
        self._coming = Future()
        threading.Thread(target=_come, args=(self._start, pause_s, self._coming), name="model-restart", daemon=True).start()


def load_isolated(folder: Path, spec: ModelSpec, *, model: str, deadline_s: float) -> IsolatedRuntime:
    """Load the model of a bundle into a process of its own."""
    return IsolatedRuntime(folder, spec, model=model, deadline_s=deadline_s)


def _come(start: Callable[[], Child], pause_s: float, coming: "Future[Child]") -> None:
    time.sleep(pause_s)
    try:
        coming.set_result(start())
    except Exception as error:  # noqa: BLE001 (who asks next gets it)
        coming.set_exception(error if isinstance(error, TidemillError) else Invalid(f"{type(error).__name__}: {error}"))


def _end(process: "subprocess.Popen[bytes]", channel: Channel) -> None:
    channel.close()
    process.kill()
    process.wait()
