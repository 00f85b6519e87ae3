"""Files and folders outside the workspace that hold a dataset: which files those are, and which of them changed since it was added or got.

Told by sizes and times, so that twenty thousand files are looked at in a moment; none is read. Needs neither catalog nor tables.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tidemill.core.codec import pack, unpack
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.core.ids import Digest
from tidemill.core.values import Value

_FOLDER = "places"
_SURE_NS = 100_000_000  # a file may change twice within one tick of its clock, so what is as young as this is not trusted


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    mtime_ns: int
    inode: int


class Found(NamedTuple):
    """A file outside, and its stamp."""

    path: str
    stamp: Stamp


class Held(Value, frozen=True, kw_only=True):
    """What of a dataset lies outside: the paths that were given, the version, and each of its files as it was. noted_ns: when that was."""

    name: str
    version: int
    places: tuple[str, ...]
    noted_ns: int
    files: dict[str, tuple[Stamp, str]]


class PlaceStatus(Value, frozen=True, kw_only=True):
    """How files outside differ from the version that they were: paths within the dataset."""

    name: str
    version: int
    places: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    gone: tuple[str, ...]
    same: int

    @property
    def clean(self) -> bool:
        return not (self.changed or self.added or self.gone)


def find_files(places: Sequence[str | Path]) -> dict[str, Found]:
    """Return the files of paths, folders and globs by the names that they have in a dataset, sorted.

    A file keeps its name, one in a folder its path from there; of several folders each begins with its folder's name. A link to a file is
    that file, one to a folder is left out. Raises NotFound, Invalid for two files of one name, Unavailable.
    """
    found: dict[str, Found] = {}
    given = [path for place in places for path in _expanded(Path(place))]
    if not given:
        raise Invalid("a dataset needs at least one file, got none")
    for path in given:
        for name, file in _files_of(path, within=path.resolve().name if len(given) > 1 else ""):
            if name in found:
                raise Invalid(f"{found[name].path} and {file.path} would both be {name!r} in the dataset; give the folder that they are in")
            found[name] = file
    if not found:
        raise Invalid(f"{', '.join(map(str, places))} holds no file; a dataset needs at least one")
    return dict(sorted(found.items()))


def note_places(state: Path, held: Held) -> None:
    """Remember what of a dataset lies outside, in place of what was known before."""
    path = _place(state, held.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}~")
    scratch.write_bytes(pack(held))
    scratch.replace(path)


def read_places(state: Path, name: str) -> Held | None:
    """Return what of a dataset lies outside, None when nothing is known of it."""
    try:
        return unpack(_place(state, name).read_bytes(), Held)
    except FileNotFoundError:
        return None


def list_places(state: Path) -> list[Held]:
    """Return all that is known to lie outside, by name."""
    folder = state / _FOLDER
    files = [path for path in folder.iterdir() if not path.name.endswith("~")] if folder.is_dir() else []
    return sorted((unpack(path.read_bytes(), Held) for path in files), key=lambda held: held.name)


def unchanged(held: Held | None, files: Mapping[str, Found], *, surely: bool = False) -> dict[str, Digest]:
    """Return the digests of files whose stamps are as they were; surely: but for those so young that a change might not show."""
    if held is None:
        return {}
    sure = held.noted_ns - _SURE_NS
    return {
        name: Digest(held.files[name][1])
        for name, file in files.items()
        if name in held.files and held.files[name][0] == file.stamp and (not surely or file.stamp.mtime_ns < sure)
    }


def status(held: Held) -> PlaceStatus:
    """Compare files outside with what they were. Raises NotFound when a path is gone altogether."""
    files = find_files(held.places)
    before = held.files
    changed = tuple(name for name, file in files.items() if name in before and before[name][0] != file.stamp)
    added = tuple(name for name in files if name not in before)
    gone = tuple(name for name in before if name not in files)
    same = len(files) - len(changed) - len(added)
    return PlaceStatus(
        name=held.name, version=held.version, places=held.places, changed=changed, added=added, gone=gone, same=same
    )  # fmt: skip


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file. Raises OSError."""
    told = path.stat()
    return Stamp(told.st_size, told.st_mtime_ns, told.st_ino)


def _expanded(place: Path) -> list[Path]:
    try:
        if place.exists():
            return [place]
    except OSError:
        pass  # a link in a circle
    found = []
    if any(sign in str(place) for sign in "*?["):
        found = sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
    if not found:
        what = "a link that leads nowhere, or in a circle" if place.is_symlink() else "not there"
        raise NotFound(f"there is no file {place}: it is {what}; give the path of a file or a folder, or a pattern that some files match")
    return found


def _files_of(path: Path, *, within: str) -> Iterator[tuple[str, Found]]:
    if not path.is_dir():
        yield path.name, Found(str(path), stamp_of(path))
        return
    folders = [(str(path), f"{within}/" if within else "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise Unavailable(f"folder {folder} cannot be read ({error.strerror}); check its permissions") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{prefix}{entry.name}/"))
                continue
            try:
                if entry.is_symlink() and entry.is_dir():
                    continue
                told = entry.stat()
            except OSError as error:
                raise Invalid(f"{entry.path} is a link that leads nowhere, or in a circle; remove it, or mend it") from error
            yield f"{prefix}{entry.name}", Found(entry.path, Stamp(told.st_size, told.st_mtime_ns, told.st_ino))


def _place(state: Path, name: str) -> Path:
    return state / _FOLDER / digest_value(name)[:32]
