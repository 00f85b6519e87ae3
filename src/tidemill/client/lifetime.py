"""How a run comes to its end: with its block, with an exception, with a signal, with the interpreter; and what a fork makes of it."""

import atexit
import os
import signal
import sys
import threading
import traceback
from contextvars import ContextVar
from types import FrameType
from typing import Any, Protocol
from weakref import WeakSet

from tidemill.core.ids import RunId

MESSAGE_LONGEST = 500
TERMINATED = 128 + signal.SIGTERM


class Living(Protocol):
    """A run as far as this module knows it. terminated: SIGTERM came while it was open."""

    id: RunId
    terminated: bool

    def tag(self, key: str, value: Any) -> None:
        """Write a tag."""
        ...

    def end_with_process(self, status: str, message: str) -> None:
        """Come to an end because the interpreter does."""
        ...

    def after_fork(self) -> None:
        """Be what it is in a child process that has just been forked."""
        ...


class Terminated(SystemExit):
    """SIGTERM, raised where the program stood, so that blocks are left in order."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


# Signals, forks and the end of the interpreter belong to the process as a whole, so the runs that they concern are known here.
OPEN: "WeakSet[Living]" = WeakSet()
# The run whose block the code stands in: what a run begun there is part of.
CURRENT: ContextVar[str | None] = ContextVar("tidemill_run", default=None)


def outcome(error: BaseException | None) -> tuple[str, str]:
    """Return the status and message of a run whose block was left by an exception, or by none."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", ""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return "killed", "interrupted" if isinstance(error, KeyboardInterrupt) else "left before its end"
    if isinstance(error, Terminated):
        return "killed", "terminated"
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return "failed", (lines[-1] if lines else type(error).__name__)[:MESSAGE_LONGEST]


def watch(run: Living) -> None:
    """See to it that a run hears of signals, forks and the end of the process until `unwatch`."""
    OPEN.add(run)
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)  # a handler of the program's own is left alone
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        # A child of multiprocessing ends without the interpreter's own way of ending.
        util.Finalize(None, _end_all, exitpriority=10)


def unwatch(run: Living) -> None:
    """Let go of a run that has ended."""
    OPEN.discard(run)
    if not OPEN:
        _give_back_signal()


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    for run in list(OPEN):
        run.terminated = True
    raise Terminated


def _end_all() -> None:
    status, message = outcome(getattr(sys, "last_value", None)) if "IPython" not in sys.modules else ("finished", "")
    for run in list(OPEN):
        ended = ("killed", "terminated") if run.terminated else (status, message)
        run.end_with_process(*ended)


def _forked() -> None:
    _give_back_signal()
    for run in list(OPEN):
        run.after_fork()


def _give_back_signal() -> None:
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forked)
