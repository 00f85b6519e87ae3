"""What a run keeps of where it came from: code, environment, command line, seed. Found out in the background."""

import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Thread
from typing import Any

from tidemill.client.code_state import program_folder, read_code
from tidemill.client.environment import read_environment
from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid, TidemillError

LOG = logging.getLogger("tidemill.run")
ENVIRONMENT_FILE = "environment.json"
COMMAND_LONGEST = 5000
WAIT_S = 30.0


class Capture:
    """Finds out what a run comes from and hands it to tags and files."""

    def __init__(self, tags: Callable[[Mapping[str, str]], None], file: Callable[[bytes, str], None]) -> None:
        self._tags, self._file = tags, file
        self._thread = Thread(target=self._work, name="tidemill-capture", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until it is done."""
        self._thread.join(WAIT_S)

    def _work(self) -> None:
        try:
            self._find_out()
        except (OSError, TidemillError) as error:
            LOG.warning("where the run comes from could not be kept: %s", error)

    def _find_out(self) -> None:
        found: dict[str, Any] = read_environment([sys.executable, *sys.argv])
        tags = {"python": found["python"]["version"], "host": found["host"]["name"], "user": found["host"]["user"]}
        tags["command"] = shlex.join(found["command"])[:COMMAND_LONGEST]
        code = read_code(program_folder())
        if code is not None:
            found["code"] = {"root": code.root, **code.tags, "left_out": code.left_out}
            tags.update(code.tags)
        self._tags({key: value for key, value in tags.items() if value})
        self._file(encode_text(found, indent=2).encode(), ENVIRONMENT_FILE)
        if code is not None:
            for path, data in code.files.items():
                with suppress(Invalid):  # a name that no run's file may have
                    self._file(data, path)
