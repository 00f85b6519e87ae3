"""Files on their way to a run: streamed, several at once, large ones in parts by content, so that what was cut off is not sent again."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, BinaryIO, TypeVar

from tidemill.client.call import Caller, Doc, segment, subpath
from tidemill.client.courier import Courier
from tidemill.client.folders import WriterFolder
from tidemill.core.codec import pack, unpack
from tidemill.core.digest import CHUNK_BYTES, Hasher
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.core.ids import Digest, new_id
from tidemill.core.values import Value

T = TypeVar("T")
PART_BYTES = 8 << 20
PARTS_MAX = 10_000
WORKERS = 4
ROUNDS = 3
# A file of up to this size is copied when it is logged; a larger one is sent from where it lies.
COPIED_BYTES_MAX = 64 << 20


class FileChanged(Invalid):
    """A file was written to while it was sent."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"file {path} changed while it was sent; log it when nobody writes to it any more")


class Waiting(Value, frozen=True, kw_only=True, tag="file", tag_field="kind"):
    """A file that is to go to a run. digest: the name of its copy in the run's folder; source: where it lies when it was not copied."""

    id: str
    path: str
    size_bytes: int
    digest: Digest | None = None
    source: str | None = None


class Registration(Value, frozen=True, kw_only=True, tag="model", tag_field="kind"):
    """A model that files of a run are to be registered as, behind them in their lane. body: as the API takes it."""

    name: str
    body: dict[str, Any]


class FileLane:
    """The files that one process gives to a run. Safe from several threads."""

    def __init__(self, folder: WriterFolder, place: str, caller: Caller | None) -> None:
        self._folder, self._place, self._caller = folder, place, caller
        self._lock = Lock()
        self._open: dict[str, BinaryIO] = {}
        self._copies: Counter[Digest] = Counter()
        self.courier = Courier(folder.path / "files", self._deliver if caller is not None else None, workers=WORKERS)

    def put(self, source: bytes | Path, path: str) -> None:
        """Take bytes, or a file as it is now, for a path of the run. Raises NotFound, Invalid, Unavailable."""
        check_path(path)
        if isinstance(source, Path):
            waiting = self._of_file(source, path)
        else:
            waiting = self._copied(path, len(source), lambda: keep_bytes(self._folder.objects, source))
        self.courier.put(pack(waiting))

    def register(self, name: str, body: dict[str, Any]) -> None:
        """Have a model registered once the files that were put before have arrived."""
        self.courier.put(pack(Registration(name=name, body=body)))

    def close(self) -> None:
        """Let go of files that were not sent."""
        with self._lock:
            left, self._open = self._open, {}
        for file in left.values():
            file.close()

    def _of_file(self, source: Path, path: str) -> Waiting:
        try:
            file = source.open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound(f"there is no file {source} to log as {path!r}; a folder is logged with run.folder(...)") from error
        size = os.fstat(file.fileno()).st_size
        if self._caller is not None and size > COPIED_BYTES_MAX:
            return self._from_there(file, source, path, size)
        try:
            waiting = self._copied(path, size, lambda: keep_file(self._folder.objects, file))
        except Unavailable:
            if self._caller is not None:  # no room for a copy: a training does not end for that
                return self._from_there(file, source, path, size)
            file.close()
            raise
        file.close()
        return waiting

    def _from_there(self, file: BinaryIO, source: Path, path: str, size: int) -> Waiting:
        waiting = Waiting(id=new_id(), path=path, size_bytes=size, source=str(source.absolute()))
        with self._lock:
            self._open[waiting.id] = file  # open from now on, so that it may be replaced or deleted
        return waiting

    def _copied(self, path: str, size: int, keep: Callable[[], Digest]) -> Waiting:
        while True:
            digest = keep()
            with self._lock:
                if (self._folder.objects / digest).exists():  # else its twin arrived in this moment and took it along
                    self._copies[digest] += 1
                    return Waiting(id=new_id(), path=path, size_bytes=size, digest=digest)

    def _deliver(self, record: bytes) -> None:
        waiting = read_errand(record)
        if self._caller is None:
            return
        if isinstance(waiting, Registration):
            register(self._caller, self._place, waiting.name, waiting.body)
            return
        with self._lock:
            file = self._open.get(waiting.id)
        if file is None:
            deliver_file(self._caller, self._place, waiting, self._folder.objects)
        else:
            send_file(self._caller, self._place, waiting.path, file)
        self._arrived(waiting)

    def _arrived(self, waiting: Waiting) -> None:
        with self._lock:
            file = self._open.pop(waiting.id, None)
            if waiting.digest is not None:
                self._copies[waiting.digest] -= 1
                if not self._copies[waiting.digest]:
                    del self._copies[waiting.digest]
                    (self._folder.objects / waiting.digest).unlink(missing_ok=True)
        if file is not None:
            file.close()


def read_errand(record: bytes) -> Waiting | Registration:
    """Return what the lane of files kept. Raises Invalid."""
    return unpack(record, Waiting | Registration)  # type: ignore[arg-type]  # a tagged union is no class


def register(caller: Caller, place: str, name: str, body: Mapping[str, Any]) -> Doc:
    """Make files of the run at place a version of a model; the same files again are the same version."""
    made: Doc = caller.post(f"{place}/models/{segment(name)}", body, once=new_id())
    return made


def deliver_file(caller: Caller, place: str, waiting: Waiting, objects: Path) -> None:
    """Send a file that waits: its copy, or what lies where it came from. Raises NotFound, FileChanged when that cannot be any more."""
    path = objects / waiting.digest if waiting.digest is not None else Path(waiting.source or "")
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(f"file {waiting.path!r} of a run is lost: {path} cannot be read any more ({error.strerror})") from error
    with file:
        if os.fstat(file.fileno()).st_size != waiting.size_bytes:
            raise FileChanged(str(path))
        send_file(caller, place, waiting.path, file)


def send_file(caller: Caller, place: str, path: str, file: BinaryIO) -> Doc:
    """Send an open file to a path of the run at place. Raises FileChanged.

    A large one goes in parts that are named by their content, several at once; a part that the server has is not sent again.
    """
    size = os.fstat(file.fileno()).st_size
    if size <= PART_BYTES:
        return caller.upload("PUT", f"{place}/artifacts/{subpath(path)}", os.pread(file.fileno(), size, 0))
    whole, parts, part_bytes = digests(file, size)
    body = {"path": path, "digest": whole, "size_bytes": size, "parts": [digest for digest, _ in parts]}
    for _ in range(ROUNDS):
        answer = caller.post(f"{place}/files", body, once=f"{whole}-{path}")
        missing = set(answer["missing"])
        if not missing:
            return answer["file"]
        wanted = [(digest, number * part_bytes, length) for number, (digest, length) in enumerate(parts) if digest in missing]
        at_once(wanted, lambda part: _send_part(caller, path, file, *part))
    raise Unavailable(f"the parts of {path!r} do not stay at the server: {len(missing)} of {len(parts)} are missing after {ROUNDS} rounds")


def digests(file: BinaryIO, size: int) -> tuple[Digest, list[tuple[Digest, int]], int]:
    """Return the digest of a file, those of its parts with their lengths, and how long parts are."""
    part_bytes = max(PART_BYTES, -(-size // PARTS_MAX))
    whole, parts = Hasher(), []
    for start in range(0, size, part_bytes):
        part = Hasher()
        for at in range(start, min(start + part_bytes, size), CHUNK_BYTES):
            chunk = os.pread(file.fileno(), min(CHUNK_BYTES, start + part_bytes - at), at)
            whole.update(chunk)
            part.update(chunk)
        parts.append((part.digest(), part.size_bytes))
    return whole.digest(), parts, part_bytes


def at_once(items: Sequence[T], act: Callable[[T], None]) -> None:
    """Do something with each item, in some threads; after the first error nothing new is begun, and it is raised."""
    queue: SimpleQueue[T] = SimpleQueue()
    errors: list[BaseException] = []
    for item in items:
        queue.put(item)

    def work() -> None:
        while not errors:
            try:
                act(queue.get_nowait())
            except Empty:
                return
            except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
                errors.append(error)

    threads = [Thread(target=work, name="tidemill-upload", daemon=True) for _ in range(min(WORKERS, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _send_part(caller: Caller, path: str, file: BinaryIO, digest: Digest, start: int, length: int) -> None:
    try:
        caller.upload("PUT", f"/file-parts/{digest}", os.pread(file.fileno(), length, start))
    except Invalid as error:  # the server looks whether the bytes are what their name says
        raise FileChanged(path) from error


def check_path(path: str) -> str:
    """Return a path that a file of a run may have. Raises Invalid."""
    parts = path.split("/")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Invalid(f"path {path!r} is not usable for a file of a run: it is no text; name it by yourself") from None
    if not path or "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise Invalid(f"path {path!r} is not usable for a file of a run; expected a relative one, such as 'plots/roc.png'")
    return path


def keep_bytes(objects: Path, data: bytes) -> Digest:
    """Keep bytes under their digest and return it."""
    return _keep(objects, iter((data,)))


def keep_file(objects: Path, file: BinaryIO) -> Digest:
    """Keep a copy of an open file under its digest and return it."""
    file.seek(0)
    return _keep(objects, iter(lambda: file.read(CHUNK_BYTES), b""))


def _keep(objects: Path, chunks: Iterator[bytes]) -> Digest:
    hasher = Hasher()
    scratch = objects / f".{new_id()}"
    try:
        objects.mkdir(exist_ok=True)
        with scratch.open("wb") as target:
            for chunk in chunks:
                hasher.update(chunk)
                target.write(chunk)
        scratch.replace(objects / hasher.digest())
    except OSError as error:
        raise Unavailable(f"a file could not be kept in {objects}: {error.strerror}; free some space, or log fewer files") from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    return hasher.digest()
