"""Files that come to a run, whole or in parts: a part is named by its content and kept until its file is whole, so that a cut
connection costs one part. Owns the folder in which parts wait.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, select

from tidemill.core.clock import wall
from tidemill.core.digest import CHUNK_BYTES, digest_file
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest, new_id
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.store.objects import check_digest, refusing
from tidemill.tracking import files
from tidemill.tracking.files import FILES, FileNotKept, StoredFile
from tidemill.tracking.runs import RunArtifact, find_run

PARTS_MAX = 20_000
# For how long parts of a file that never became whole are kept.
PART_KEEP_S = 24 * 3600.0
COPY_BYTES = 64 << 20


class Receipt(Value, frozen=True, kw_only=True):
    """What came of asking to keep a file: the file, or which of its parts are missing."""

    file: RunArtifact | None = None
    missing: tuple[Digest, ...] = ()


class ArtifactNotFound(NotFound):
    """The run is there; it has no such file."""

    def __init__(self, run: str, path: str) -> None:
        self.run, self.path = run, path
        super().__init__(f"run {run} has no artifact {path!r}; see which it has with: tidemill run show {run}")


class PartDiffers(Invalid):
    """The bytes of a part, or of all parts together, are not what they were said to be."""

    def __init__(self, what: str, said: str, found: str) -> None:
        self.said, self.found = said, found
        super().__init__(
            f"{what} has the digest {found[:12]}… and not {said[:12]}…; it changed on its way, or while it was read: send it again"
        )


def keep_artifact(ws: Workspace, run: str, path: str, body: Path) -> RunArtifact:
    """Keep a file of the caller's own, which is taken away, under a path of a run.

    Raises RunNotFound, RunInTrash, PathRefused, FileInTheWay.
    """
    ws.require("tracking.write", run)
    files.check_path(path)
    made = RunArtifact(path=path, digest=digest_file(body), size_bytes=body.stat().st_size)
    ws.objects.adopt(body, made.digest)
    with ws.catalog.transaction() as tx:
        _write(ws, tx, run, made)
    return made


def find_artifact(ws: Workspace, run: str, path: str) -> StoredFile:
    """Return the file under a path of a run, deleted or not. Raises RunNotFound, PathRefused, ArtifactNotFound."""
    try:
        return files.find_file(ws, artifact_path(ws, run, path))
    except FileNotKept:
        raise ArtifactNotFound(run, path) from None


def artifact_path(ws: Workspace, run: str, path: str) -> str:
    """Return where a path of a run lies among all files. Raises RunNotFound, PathRefused."""
    ws.require("tracking.read", run)
    files.check_path(path)
    with ws.catalog.reading() as tx:
        found = find_run(tx, ws.project, run, deleted=True)
    return f"{files.run_folder(found.experiment_id, run)}/{path.rstrip('/')}"


def keep_part(ws: Workspace, digest: str, body: Path) -> None:
    """Keep a part of a file, a file of the caller's own that is taken away. Raises PartDiffers."""
    ws.require("tracking.write")
    check_digest(digest)
    found = digest_file(body)
    if found != digest:
        raise PartDiffers("a part", digest, found)
    folder = _folder(ws)
    with refusing(str(folder)):
        body.replace(folder / digest)


def keep_whole(ws: Workspace, run: str, path: str, digest: str, size_bytes: int, parts: Sequence[str]) -> Receipt:
    """Keep a file that came in parts, in this order, under a path of a run; or say which parts are missing.

    A file that this project has already needs no parts. Raises RunNotFound, RunInTrash, PathRefused, FileInTheWay, PartDiffers.
    """
    ws.require("tracking.write", run)
    files.check_path(path)
    made = RunArtifact(path=path, digest=check_digest(digest), size_bytes=size_bytes)
    if not 1 <= len(parts) <= PARTS_MAX:
        raise Invalid(f"a file of {len(parts)} parts cannot be kept; expected 1 to {PARTS_MAX}")
    wanted = [check_digest(part) for part in parts]
    with _alone(_folder(ws), digest):
        with ws.catalog.transaction() as tx:
            if _known(ws, tx, made):
                _write(ws, tx, run, made)
                return Receipt(file=made)
            find_run(tx, ws.project, run)
        missing = [part for part in dict.fromkeys(wanted) if not (_folder(ws) / part).exists()]
        if missing or not _join(ws, made, wanted):
            return Receipt(missing=tuple(missing or wanted))
        with ws.catalog.transaction() as tx:
            _write(ws, tx, run, made)
    for part in set(wanted):
        (_folder(ws) / part).unlink(missing_ok=True)
    return Receipt(file=made)


def sweep_parts(ws: Workspace, *, older_than_s: float = PART_KEEP_S) -> int:
    """Remove what is left of files that never became whole, of all projects; return the bytes that were freed.

    These are parts that nobody asked to join, and files that a server was writing when it was killed.
    """
    ws.require("tracking.admin")
    freed, oldest, folder = 0, wall() - older_than_s, ws.state / "tmp"
    for path in (*folder.glob("*"), *(folder / "parts").glob("*/*")):
        with suppress(FileNotFoundError):
            stat = path.stat()
            if path.is_file() and stat.st_mtime < oldest:
                path.unlink()
                freed += stat.st_size
    return freed


def _write(ws: Workspace, tx: Connection, run: str, made: RunArtifact) -> None:
    found = find_run(tx, ws.project, run)
    files.write_file(ws, tx, f"{files.run_folder(found.experiment_id, run)}/{made.path}", made.digest, made.size_bytes)


def _known(ws: Workspace, tx: Connection, made: RunArtifact) -> bool:
    """Return whether this project has the bytes. Its row is locked, so that `gc` does not take them meanwhile."""
    if not ws.objects.has(made.digest):
        return False
    mine = (FILES.c.project == ws.project) & (FILES.c.digest == made.digest) & (FILES.c.size_bytes == made.size_bytes)
    return tx.execute(select(FILES.c.path).where(mine).limit(1).with_for_update(read=True)).first() is not None


def _join(ws: Workspace, made: RunArtifact, parts: Sequence[Digest]) -> bool:
    """Store the file that parts make; return False when one of them has just gone. Raises PartDiffers."""
    scratch = ws.state / "tmp" / f"joined-{new_id()}"
    try:
        with refusing(str(scratch.parent)), scratch.open("xb", buffering=0) as target:
            for part in parts:
                with (_folder(ws) / part).open("rb", buffering=0) as source:
                    _append(source.fileno(), target.fileno())
        size, found = scratch.stat().st_size, digest_file(scratch)
        if (found, size) != (made.digest, made.size_bytes):
            raise PartDiffers(f"the file of {size:,} bytes that the parts make", made.digest, found)
        ws.objects.adopt(scratch, made.digest)
    except FileNotFoundError:
        return False
    finally:
        scratch.unlink(missing_ok=True)
    return True


def _append(source: int, target: int) -> None:
    """Copy a file behind another: within the kernel where it can, which on some file systems shares the blocks instead."""
    try:
        while os.copy_file_range(source, target, COPY_BYTES):
            pass
    except (AttributeError, OSError):  # macOS, and file systems that do not know it: on from where it stopped
        while chunk := os.read(source, CHUNK_BYTES):
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]


def _folder(ws: Workspace) -> Path:
    folder = ws.state / "tmp" / "parts" / ws.project
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _alone(folder: Path, digest: str) -> Iterator[None]:
    """Hold a file's name: a request that is sent again while the first one still joins waits for it, instead of joining too."""
    path = folder / f"{digest}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
