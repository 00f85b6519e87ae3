"""Artifact paths as they come over the wire: what leads out of where files lie is refused, however it is written."""

import re
from mimetypes import guess_type
from urllib.parse import quote, unquote

from tidemill.tracking.files import PathRefused, check_path

_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_ROUNDS = 10


def safe_path(path: str) -> str:
    """Return a path that names a file or folder. Raises PathRefused, also for one that would be bad if it were decoded once more."""
    seen = path
    for _ in range(_ROUNDS):
        _check(path, seen)
        decoded = unquote(seen)
        if decoded == seen:
            return check_path(path)
        seen = decoded
    raise PathRefused(path, "it is encoded over and over")


def folder_path(path: str) -> str:
    """Return a path that names a folder, "" for the topmost. Raises PathRefused."""
    return safe_path(path) if path.strip("/") or path.startswith("/") else ""


def media_type(path: str) -> bytes:
    """Return what a file is by its name; text for what MLflow writes as text."""
    name = path.rpartition("/")[2]
    if name in ("MLmodel", "MLproject") or name.endswith((".log", ".yaml", ".yml", ".txt", ".py", ".err", ".cfg", ".conf", ".ini", ".md")):
        return b"text/plain"
    return (guess_type(name)[0] or "application/octet-stream").encode("ascii", "replace")


def attachment(path: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a browser save a file under its name and never show it as a page."""
    name = path.rpartition("/")[2]
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return [(b"content-disposition", disposition.encode("ascii")), (b"x-content-type-options", b"nosniff")]


def _check(path: str, seen: str) -> None:
    if "#" in seen or "\\" in seen or seen.startswith("/") or _DRIVE.match(seen):
        raise PathRefused(path, "it is absolute, or has '#' or backslashes")
    if ".." in seen.split("/") or "\0" in seen:
        raise PathRefused(path, "it has '..' or a NUL character")
