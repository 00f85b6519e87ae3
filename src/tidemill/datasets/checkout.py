"""Versions written out: as files, byte for byte as they were given."""

from pathlib import Path
from time import time_ns

from tidemill.core.errors import Conflict
from tidemill.core.values import Value
from tidemill.datasets.content import Watch
from tidemill.datasets.places import Held, find_files, note_places, read_places, unchanged
from tidemill.datasets.versions import DatasetVersion, read_version
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import Tree, checkout, read_tree, write_tree


class CheckedOut(Value, frozen=True, kw_only=True):
    """A version that was written out. written: how many of its files; the others were there already."""

    version: DatasetVersion
    folder: str
    written: int


def check_out(ws: Workspace, reference: str, folder: Path | None = None, *, force: bool = False, watch: Watch | None = None) -> CheckedOut:
    """Write the files of a version into a folder, `./NAME` unless told. A folder that is not there yet appears whole or not at all.

    Into one that is there, each file is replaced by itself, those that are right already are left, and files of the version that was there
    and that this one lacks are removed. Raises Conflict when files there were changed by hand, unless forced; ObjectCorrupt.
    """
    version = read_version(ws, reference)
    target = (folder or Path(version.name)).absolute()
    tree = read_tree(ws.objects, version.digest)
    held = read_places(ws.state, version.name)
    written = len(tree.entries)
    if target.is_dir() and any(target.iterdir()):
        there = find_files([target])
        mine = held if held is not None and held.places == (str(target),) else None
        right = unchanged(mine, there)
        strange = [name for name in there if name not in right and (mine is None or name in mine.files)]
        if strange and not force:
            what = "was changed since it was written" if mine is not None else "is not of this dataset"
            raise Conflict(f"{target / strange[0]} {what} ({len(strange)} such files); move it away, or write over it with --force")
        wanted = {entry.path: entry.digest for entry in tree.entries}
        missing = tuple(entry for entry in tree.entries if right.get(entry.path) != entry.digest)
        write_tree(ws.objects, Tree(entries=missing), target, flush=False, watch=watch)
        for name in right:
            if name not in wanted:
                (target / name).unlink()
        written = len(missing)
    else:
        if target.is_dir():
            target.rmdir()
        checkout(ws.objects, version.digest, target, flush=False, watch=watch)
    files = find_files([target]) if tree.entries else {}
    digests = {entry.path: str(entry.digest) for entry in tree.entries}
    known = {name: (file.stamp, digests[name]) for name, file in files.items() if name in digests}
    note_places(ws.state, Held(name=version.name, version=version.version, places=(str(target),), noted_ns=time_ns(), files=known))
    return CheckedOut(version=version, folder=str(target), written=written)
