"""The MLflow store that an export writes: a database under a name of its own until it is whole, and a folder of files."""

import math
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidemill.core.digest import CHUNK_BYTES
from tidemill.core.errors import Conflict
from tidemill.core.ids import Digest
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.moving import schema
from tidemill.server.mlflow.moving.store import COUNTED, LARGEST

DATABASE, FILES = "mlflow.db", "artifacts"
HERE = "mlflow-artifacts:/"


class Outgoing:
    """Takes rows and files, and counts what it was given."""

    def __init__(self, ws: Workspace, folder: Path) -> None:
        """Raises Conflict for a folder in which there is a store already."""
        self.ws, self.folder = ws, folder.resolve()
        if (self.folder / DATABASE).exists():
            raise Conflict(f"{folder} holds an MLflow store already; name a folder that is new or empty")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._partial = self.folder / f"{DATABASE}.partial"
        self._partial.unlink(missing_ok=True)
        self._db = sqlite3.connect(self._partial, isolation_level=None)
        for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", *schema.statements(), "BEGIN"):
            self._db.execute(statement)
        self.counts = dict.fromkeys(COUNTED, 0)
        self.datasets: dict[str, str] = {}  # which id each dataset has there
        self.notes: list[str] = []

    def write(self, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> int:
        """Write rows; return how many were new: MLflow knows no two points of equal key, time, step and value."""
        before = self._db.total_changes
        marks = ",".join("?" * len(columns.split(",")))
        self._db.executemany(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", rows)
        return self._db.total_changes - before

    def counted(self, kind: str, count: int) -> None:
        """Count what was written of a kind."""
        self.counts[kind] += count

    def place(self, path: str) -> str:
        """Return the address of a file or folder below the folder of files, as MLflow's clients open it on this machine."""
        return (self.folder / FILES / path).as_uri()

    def moved(self, location: str) -> str:
        """Return where clients find what lay at a location: what this server kept lies in the folder now."""
        return self.place(location.removeprefix(HERE)) if location.startswith(HERE) else location

    def put(self, path: str, digest: Digest) -> None:
        """Write an object as a file below the folder of files."""
        target = self.folder / FILES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.ws.objects.open(digest) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    def put_bytes(self, path: str, data: bytes) -> None:
        """Write bytes as a file below the folder of files."""
        target = self.folder / FILES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def finish(self) -> Path:
        """Give the database its name, whole; return its path."""
        self._db.execute("COMMIT")
        self._db.close()
        return self._partial.rename(self.folder / DATABASE)

    def close(self) -> None:
        """Let go of what was not finished."""
        self._db.close()
        self._partial.unlink(missing_ok=True)


def told_number(value: float) -> tuple[float, int]:
    """Return a value as MLflow's tables hold it, and whether it is none."""
    if math.isnan(value):
        return 0.0, 1
    return (math.copysign(LARGEST, value) if math.isinf(value) else value), 0


def folder_name(name: str) -> str:
    """Return a name as one safe part of a path."""
    return quote(name, safe=" ")
