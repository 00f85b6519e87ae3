"""What every long-lived process of Tidemill does: stop when told, stop when its supervisor is gone, say so in the log."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from tidemill.core.clock import elapsed
from tidemill.core.codec import encode_text
from tidemill.core.settings import mask

STEADY_S, PAUSE_MAX_S = 10.0, 5.0
STOP_LOOK_S = 0.2
_TOLD = ("endpoint", "trace_id")  # what a record may bring along, as `extra`
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_KEY = re.compile(r"\btm_([^\s_]+)_[^\s\"',;]+")  # an API key: its id may be told, its secret may not


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={value}" for name in _TOLD if (value := getattr(record, name, "")))
        parts = [f"{_time(record)} {record.levelname:<7} {record.name}: {_message(record)}{facts}"]
        if record.exc_info:
            parts.append(without_secrets(self.formatException(record.exc_info)))
        return "\n".join(parts)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": _message(record),
        }
        line |= {name: value for name in _TOLD if (value := getattr(record, name, ""))}
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        return encode_text(line)


_FORMS: dict[str, type[logging.Formatter]] = {"json": _JsonLines, "text": _TextLines}


def start_logging(level: str, *, form: Literal["json", "text"] = "json") -> None:
    """Write log records to standard error: a JSON object each, or text. Secrets in URLs and API keys are masked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMS[form]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("alembic", "sqlalchemy", "uvicorn.access", "botocore"):
        logging.getLogger(noisy).setLevel("WARNING")


def without_secrets(text: str) -> str:
    """Return a text with the passwords of its URLs and the secrets of its API keys masked."""
    return _KEY.sub(r"tm_\1_***", _URL.sub(lambda found: mask(found[0]), text))


def _message(record: logging.LogRecord) -> str:
    return without_secrets(record.getMessage())


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class Revival:
    """When a process that is kept alive may be started: at once, then after ever longer pauses while it keeps dying young."""

    def __init__(self) -> None:
        self.started_s, self._pause_s = 0.0, 0.0

    def begin(self) -> None:
        """The process is started now."""
        self.started_s = elapsed()

    def due(self) -> bool:
        """Return whether it may be started, now that it is dead; ask once for each start."""
        lived = elapsed() - self.started_s
        if lived > STEADY_S:
            self._pause_s = 0.0
        if lived < self._pause_s:
            return False
        self._pause_s = min(PAUSE_MAX_S, max(0.1, self._pause_s * 2))
        return True


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
