"""Refs: small named documents beside the objects of a store, each written once, by which others find what is there."""

import os
import secrets
from pathlib import Path
from typing import Protocol

from tidemill.store.journal import sync_directory
from tidemill.store.objects import refusing


class Refs(Protocol):
    """Documents by name (`datasets/default/flights/000001.json`). The law: put_new is atomic and durable; nothing is ever changed."""

    def names(self, prefix: str) -> list[str]:
        """Return the names below a folder, sorted."""
        ...

    def get(self, name: str) -> bytes | None:
        """Return a document, None when there is none."""
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a document; return False when there is one of that name already, which stays."""
        ...


class LocalRefs:
    """Refs as files `refs/NAME` beside a local store."""

    def __init__(self, root: Path) -> None:
        self._root, self._where = root / "refs", f"file:{root}"

    def names(self, prefix: str) -> list[str]:
        folder = self._root / prefix
        return sorted(str(path.relative_to(self._root)) for path in folder.rglob("*") if path.is_file() and not path.name.endswith("~"))

    def get(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def put_new(self, name: str, data: bytes) -> bool:
        path = self._root / name
        scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}~")
        with refusing(self._where):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with scratch.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                path.hardlink_to(scratch)  # unlike a rename it fails when there is one
            except FileExistsError:
                return False
            finally:
                scratch.unlink(missing_ok=True)
            sync_directory(path.parent)
        return True


def open_local_refs(place: str, *, base: Path) -> LocalRefs:
    """Open the refs of `file:FOLDER`; a relative folder lies under base."""
    return LocalRefs(base / place.removeprefix("//"))
