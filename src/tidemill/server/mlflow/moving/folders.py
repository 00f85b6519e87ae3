"""Artifact locations of MLflow that lie on this machine: which folder one means, and what lies in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tidemill.server.mlflow.moving.store import File

PROXY = "mlflow-artifacts"


class Folders:
    """Finds the folders of artifact locations. Reads nothing that lies outside of the folder that a location means."""

    def __init__(self, *, base: Path, proxied: Path | None) -> None:
        """base: what relative paths begin at; proxied: the folder behind `mlflow-artifacts:`, if it was told."""
        self._base, self._proxied = base, proxied

    def find(self, location: str) -> Path | None:
        """Return the folder that a location means, None for one that cannot be reached from here."""
        parts = urlsplit(location)
        scheme = parts.scheme.lower()
        if scheme == PROXY:
            path = unquote(parts.path).lstrip("/")
            if self._proxied is None or ".." in path.split("/"):
                return None
            return self._proxied / path
        if scheme == "file":
            return Path(unquote(parts.path)) if parts.netloc in ("", "localhost") else None
        if not scheme:
            return self._base / location if location else None
        return None

    def list(self, location: str) -> list[File] | None:
        """Return the files of a location and below, by path; None when it cannot be reached from here."""
        folder = self.find(location)
        return None if folder is None else [*_files(folder)]


@contextmanager
def as_it_lies(file: File) -> Iterator[Path]:
    """Give a file of this machine."""
    yield Path(file.where)


def _files(folder: Path) -> Iterator[File]:
    for root, names, files in os.walk(folder):  # does not follow links to folders
        names.sort()
        for name in sorted(files):
            path = Path(root) / name
            # A link may lead anywhere: only what lies in the folder is the run's.
            if path.is_symlink() or not path.is_file():
                continue
            seen = path.stat()
            yield File(path.relative_to(folder).as_posix(), seen.st_size, f"{seen.st_size}-{seen.st_mtime_ns}", str(path))
