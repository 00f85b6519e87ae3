"""Uploads in parts: in any order, each as often as it takes, over connections that may break. Parts lie in the state folder until done."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tidemill.core.clock import wall
from tidemill.core.codec import decode, encode
from tidemill.core.digest import CHUNK_BYTES, Hasher
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.core.values import Value, replace
from tidemill.server.mlflow.bodies import Taken

FOLDER = "uploads"
LIFETIME_S = 7 * 24 * 3600
PARTS_MAX = 10_000
_ID = re.compile(r"[0-9a-f]{32}")
_HEAD = "upload.json"


class Upload(Value, frozen=True, kw_only=True):
    """An upload under way, or one that is done (digest). parts: how many were announced."""

    id: str
    project: str
    path: str
    parts: int
    ends: float
    digest: Digest | None = None
    size_bytes: int = 0


class UploadNotFound(NotFound):
    """No upload of that id for that path: never begun, aborted, or over."""

    def __init__(self, upload: str) -> None:
        self.upload = upload
        super().__init__(f"there is no upload {upload[:80]!r} for this path; it was done, aborted or given up; begin a new one")


class PartsRefused(Invalid):
    """What is to be put together is not what arrived."""

    def __init__(self, upload: str, problem: str) -> None:
        self.upload = upload
        super().__init__(f"upload {upload} cannot be put together: {problem}; send the part again, then complete the upload again")


def begin(state: Path, project: str, path: str, parts: int) -> Upload:
    """Begin an upload; forget those whose time is over. Raises Invalid."""
    if not 1 <= parts <= PARTS_MAX:
        raise Invalid(f"num_parts must be between 1 and {PARTS_MAX}, got {parts}; choose larger parts")
    _sweep(state / FOLDER)
    made = Upload(id=secrets.token_hex(16), project=project, path=path, parts=parts, ends=wall() + LIFETIME_S)
    folder = state / FOLDER / made.id
    folder.mkdir(parents=True, mode=0o700)
    _write_head(folder, made)
    return made


def find(state: Path, upload: str, *, project: str, path: str) -> Upload:
    """Return an upload. Raises UploadNotFound."""
    if not _ID.fullmatch(upload):
        raise UploadNotFound(upload)
    try:
        found = decode((state / FOLDER / upload / _HEAD).read_bytes(), Upload, what="an upload's record")
    except FileNotFoundError:
        raise UploadNotFound(upload) from None
    if (found.project, found.path) != (project, path) or found.ends < wall():
        raise UploadNotFound(upload)
    return found


def folder_of(state: Path, upload: str) -> Path:
    """Return the folder that parts of an upload are received in. Raises UploadNotFound."""
    folder = state / FOLDER / upload
    if not _ID.fullmatch(upload) or not folder.is_dir():
        raise UploadNotFound(upload)
    return folder


def keep_part(folder: Path, number: int, taken: Taken) -> str:
    """Keep a part that arrived whole, in place of an earlier one; return its tag, which completing names again."""
    hasher = Hasher()
    if taken.data is not None:
        hasher.update(taken.data)
        scratch = folder / f"part-{secrets.token_hex(8)}"
        scratch.write_bytes(taken.data)
    else:
        assert taken.path is not None
        scratch = taken.path
    tag = taken.digest or hasher.digest()
    place = folder / f"{number:05d}-{tag}"
    try:
        scratch.replace(place)
    except FileNotFoundError:
        raise UploadNotFound(folder.name) from None  # it was aborted meanwhile
    for older in folder.glob(f"{number:05d}-*"):
        if older != place:
            older.unlink(missing_ok=True)
    return tag


def put_together(folder: Path, upload: Upload, tags: Mapping[int, str]) -> Taken:
    """Join the parts, in the order of their numbers, into one file. Raises PartsRefused naming what is missing or other than named."""
    parts = {int(path.name[:5]): path for path in folder.glob("[0-9]" * 5 + "-*")}
    wanted = tags or dict.fromkeys(range(1, upload.parts + 1), "")
    if sorted(wanted) != list(range(1, len(wanted) + 1)):
        raise PartsRefused(upload.id, "its parts are not numbered 1, 2, 3 and so on")
    for number, tag in wanted.items():
        if number not in parts:
            raise PartsRefused(upload.id, f"part {number} did not arrive")
        if tag and parts[number].name[6:] != tag.strip('"'):
            raise PartsRefused(upload.id, f"part {number} has the tag {parts[number].name[6:]}, not {tag[:80]}")
    whole, hasher = folder / f"whole-{secrets.token_hex(8)}", Hasher()
    with whole.open("xb") as file:
        for number in sorted(wanted):
            part = Hasher()
            for piece in _pieces(parts[number]):
                part.update(piece)
                hasher.update(piece)
                file.write(piece)
            if part.digest() != parts[number].name[6:]:
                whole.unlink()
                parts[number].unlink()
                raise PartsRefused(upload.id, f"part {number} is not on the disk as it arrived")
    return Taken(None, whole, hasher.digest(), hasher.size_bytes)


def finish(folder: Path, upload: Upload, digest: Digest, size_bytes: int) -> None:
    """Note that an upload is done, so that completing it again says so; give back what its parts took."""
    _write_head(folder, replace(upload, digest=digest, size_bytes=size_bytes))
    for path in folder.iterdir():
        if path.name != _HEAD:
            path.unlink(missing_ok=True)


def abort(state: Path, upload: Upload) -> None:
    """Forget an upload and its parts."""
    shutil.rmtree(state / FOLDER / upload.id, ignore_errors=True)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _write_head(folder: Path, upload: Upload) -> None:
    scratch = folder / f"head-{secrets.token_hex(8)}"
    scratch.write_bytes(encode(upload))
    scratch.replace(folder / _HEAD)


def _sweep(root: Path) -> None:
    """Remove uploads that nobody has touched for as long as one may take."""
    with suppress(FileNotFoundError):
        for entry in os.scandir(root):
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < wall() - LIFETIME_S:
                    shutil.rmtree(entry.path, ignore_errors=True)
