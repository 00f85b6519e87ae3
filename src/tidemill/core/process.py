"""What every long-lived process of Tidemill does: stop when told, stop when its supervisor is gone, say so in the log."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tidemill.core.codec import encode_text

STOP_LOOK_S = 0.2


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": record.processName if record.processName != "MainProcess" else record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return encode_text(line)


def start_logging(level: str) -> None:
    """Write log records as JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("alembic", "sqlalchemy", "uvicorn.access", "botocore"):
        logging.getLogger(noisy).setLevel("WARNING")


class StopSignal:
    """Whether somebody has asked this process to end.

    Not a threading.Event: its lock may be held by the very thread that a signal interrupts, and `set` would wait for ever.
    """

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        """Ask for the end. Safe in a signal handler."""
        self._asked = True

    def is_set(self) -> bool:
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Sleep for a while, less when the end is asked for; return whether it is."""
        deadline = time.monotonic() + seconds
        while not self._asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, STOP_LOOK_S))
        return self._asked


def on_stop(stop: Callable[[], None]) -> None:
    """Call stop once, when SIGTERM or SIGINT arrives."""

    def handle(_signal: int, _frame: object) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def lives(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def follow_supervisor() -> None:
    """Send this process SIGTERM when its standard input ends: the supervisor holds the other end, and is gone then."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor-watch", daemon=True).start()
