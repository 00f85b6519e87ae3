"""Trees: a stored list of named files, so that one digest stands for a folder."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tidemill.core.codec import canonical, decode
from tidemill.core.digest import CHUNK_BYTES
from tidemill.core.errors import Conflict, Invalid
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.store.journal import flush_disk, write_all
from tidemill.store.objects import ObjectStore, refusing

# What the stored form begins with: how `gc` knows a tree among objects.
MAGIC = b'{"kind":"tree",'
_NOT_NAMES = frozenset({"", ".", ".."})


class TreeEntry(Value, frozen=True, kw_only=True):
    """One file of a tree: its path with forward slashes, and the object that holds its bytes."""

    path: str
    digest: Digest
    size_bytes: int

    def __post_init__(self) -> None:
        if "\0" in self.path or not _NOT_NAMES.isdisjoint(self.path.split("/")):
            raise Invalid(f"path {self.path!r} cannot stand in a tree; expected a relative path like 'data/part-0.parquet'")


class Tree(Value, frozen=True, kw_only=True, tag="tree", tag_field="kind"):
    """Files by path, sorted by it. Equal files give equal trees, equal trees one digest."""

    entries: tuple[TreeEntry, ...]

    def __post_init__(self) -> None:
        paths = [entry.path for entry in self.entries]
        if paths != sorted(set(paths)):
            raise Invalid("a tree's paths must be sorted and each stand once")
        files, folders = set(paths), {""}
        for path in paths:
            folder = path.rpartition("/")[0]
            while folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        if clash := files & folders:
            raise Invalid(f"tree has {min(clash)!r} both as a file and as a folder")

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.entries)

    def entry(self, path: str) -> TreeEntry:
        """Return the entry of a path. Raises Invalid when there is none."""
        for entry in self.entries:
            if entry.path == path:
                return entry
        raise Invalid(f"tree has no file {path!r} (it has: {', '.join(entry.path for entry in self.entries)})")


def put_tree(store: ObjectStore, files: Mapping[str, Path | bytes]) -> Digest:
    """Store files and the tree that names them; return the tree's digest. Raises Invalid for a path that escapes."""
    entries = []
    for path in sorted(files):
        source = files[path]
        digest = store.put(source) if isinstance(source, bytes) else store.put_file(source)
        entries.append(TreeEntry(path=path, digest=digest, size_bytes=len(source) if isinstance(source, bytes) else store.size(digest)))
    return store_tree(store, Tree(entries=tuple(entries)))


def store_tree(store: ObjectStore, tree: Tree) -> Digest:
    """Store a tree whose files are stored already; return its digest."""
    return store.put(canonical(tree))


def read_tree(store: ObjectStore, digest: Digest) -> Tree:
    """Return the tree of a digest. Raises Invalid when the object is no tree."""
    return decode(store.get(digest), Tree, what=f"tree {digest}")


def checkout(
    store: ObjectStore, digest: Digest, folder: Path, *, flush: bool = True, watch: Callable[[int, int], None] | None = None
) -> Path:  # fmt: skip
    """Write a tree's files, verified, into a folder and return it. watch: is told how many bytes of how many are written.

    flush: have them on disk before they get their names. A copy that can be made again may go without, as `cp` does.

    A folder that is not there yet appears whole or not at all, also when several processes check the same tree out at once.
    Into one that is there, each file is replaced atomically; other files in it stay.
    """
    tree = read_tree(store, digest)
    with refusing(str(folder)):
        if folder.exists():
            if not folder.is_dir():
                raise Conflict(f"{folder} is a file; expected a folder, or a name that is free")
            write_tree(store, tree, folder, flush=flush, watch=watch)
            return folder
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            scratch.mkdir(parents=True)
            _write_all(store, tree, scratch, watch, mark="", flush=flush)
            try:
                scratch.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first, with the same files
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_tree(
    store: ObjectStore, tree: Tree, folder: Path, *, flush: bool = True, watch: Callable[[int, int], None] | None = None
) -> None:  # fmt: skip
    """Write a tree's files, verified, into a folder that is there; each is replaced atomically."""
    with refusing(str(folder)):
        _write_all(store, tree, folder, watch, mark=f".{os.getpid()}-{secrets.token_hex(4)}~", flush=flush)


def _write_all(store: ObjectStore, tree: Tree, folder: Path, watch: Callable[[int, int], None] | None, *, mark: str, flush: bool) -> None:
    """Write files under names that end with mark, flush them together, then name them, so that no name stands for half a file."""
    places: dict[Digest, list[str]] = {}
    for entry in tree.entries:
        places.setdefault(entry.digest, []).append(entry.path)
    large = {entry.digest for entry in tree.entries if entry.size_bytes > CHUNK_BYTES}
    for parent in sorted({(folder / entry.path).parent for entry in tree.entries}):
        parent.mkdir(parents=True, exist_ok=True)
    done = 0
    try:
        for digest, data in store.get_many(digest for digest in places if digest not in large):
            for path in places[digest]:
                with _new(f"{folder}/{path}{mark}") as descriptor:
                    write_all(descriptor, data)
                done += len(data)
            if watch is not None:
                watch(done, tree.size_bytes)
        for digest in large:
            for path in places[digest]:
                with store.open(digest) as source, _new(f"{folder}/{path}{mark}") as descriptor:
                    while chunk := source.read(CHUNK_BYTES):
                        write_all(descriptor, chunk)
                        done += len(chunk)
                        if watch is not None:
                            watch(done, tree.size_bytes)
        if flush:
            flush_disk(folder)
        for entry in tree.entries if mark else ():
            Path(f"{folder}/{entry.path}{mark}").replace(folder / entry.path)
    except BaseException:
        for entry in tree.entries:
            Path(f"{folder}/{entry.path}{mark}").unlink(missing_ok=True)
        raise


@contextmanager
def _new(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
