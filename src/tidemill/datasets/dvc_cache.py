"""Where DVC keeps bytes: the caches and local remotes of a repository, in the layouts of DVC 3 and DVC 2. Reads them, writes none."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from configparser import ConfigParser, Error
from pathlib import Path
from typing import NamedTuple

from tidemill.core.errors import Corrupt, Invalid, NotFound
from tidemill.datasets.places import Found, stamp_of
from tidemill.store.objects import chunks_of

DIR = ".dir"
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_NEW = "files/md5"


class CacheFile(NamedTuple):
    """A file of a cache. legacy: it lies as DVC 2 put it, whose md5 of a text has the line ends of Unix."""

    md5: str
    path: Path
    legacy: bool


class NotCached(NotFound):
    """Bytes that DVC tracks are in no cache here."""

    def __init__(self, names: Sequence[str], places: Sequence[Path]) -> None:
        self.names, self.places = tuple(names), tuple(places)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        super().__init__(
            f"{', '.join(names[:3])}{more} not found in {', '.join(map(str, places)) or 'any cache'}; "
            "bring it with: dvc fetch --all-commits, or name its folder with --cache"
        )


class DamagedCache(Corrupt):
    """The bytes of a file in a cache are not those that its name says."""

    def __init__(self, name: str, file: CacheFile) -> None:
        self.name, self.file = name, file
        super().__init__(f"{name} is damaged: the md5 of {file.path} is not {file.md5}; remove that file, and bring it with: dvc fetch")


class Cache:
    """The places where a repository's bytes may lie, looked into one after the other."""

    def __init__(self, root: Path, more: Sequence[Path] = ()) -> None:
        for each in more:
            if not each.is_dir():
                raise NotFound(f"there is no folder {each} to look for DVC's files in; give a cache of DVC, or a folder that is its remote")
        self.places = [*more, *_configured(root)]
        self._sound: set[str] = set()

    def find(self, md5: str) -> CacheFile | None:
        """Return where the bytes of an md5 lie, None when they are in no place. Raises Invalid for what is none."""
        if not _MD5.fullmatch(md5):
            raise Invalid(f"{md5[:80]!r} is no md5; expected 32 hexadecimal digits, with .dir behind them for a folder")
        for place in self.places:
            for legacy, base in ((False, place / _NEW), (True, place)):
                path = base / md5[:2] / md5[2:]
                if path.is_file():
                    return CacheFile(md5, path, legacy)
        return None

    def files(self, name: str, md5: str) -> dict[str, CacheFile]:
        """Return the files of an output by their names in it, sorted; that of a file is name. Raises NotCached, DamagedCache, Invalid."""
        listed = {name: md5} if not md5.endswith(DIR) else self._listed(name, md5)
        found = {each: self.find(of) for each, of in sorted(listed.items())}
        if missing := [each for each, file in found.items() if file is None]:
            raise NotCached(missing, self.places)
        return {each: file for each, file in found.items() if file is not None}

    def check(self, name: str, file: CacheFile) -> None:
        """Read a file, and raise DamagedCache if it is not what its name says. What was found whole is not read again."""
        if file.md5 not in self._sound:
            if not _is_sound(file):
                raise DamagedCache(name, file)
            self._sound.add(file.md5)

    def _listed(self, name: str, md5: str) -> dict[str, str]:
        file = self.find(md5)
        if file is None:
            raise NotCached([f"the list of the files of {name}"], self.places)
        self.check(f"the list of the files of {name}", file)
        try:
            return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(file.path.read_bytes())}
        except (ValueError, TypeError, KeyError) as error:
            raise Invalid(f"{file.path} was not understood; expected a list of objects with md5 and relpath, as DVC writes it") from error


def as_found(file: CacheFile) -> Found:
    """Return a file of a cache as one that is to be stored."""
    return Found(str(file.path), stamp_of(file.path))


def _is_sound(file: CacheFile) -> bool:
    wanted = file.md5.removesuffix(DIR)
    if _md5(chunks_of(file.path)) == wanted:
        return True
    # Our chunks are as large as DVC's, 1 MiB: DVC 2 sees no line end that lies across the border of two.
    return file.legacy and _md5(chunk.replace(b"\r\n", b"\n") for chunk in chunks_of(file.path)) == wanted


def _md5(chunks: Iterator[bytes]) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()


def _configured(root: Path) -> list[Path]:
    """Return the cache that a repository's configuration names and its remotes that are folders, the default one first."""
    told = ConfigParser(interpolation=None, strict=False)
    for name in ("config", "config.local"):
        path = root / ".dvc" / name
        try:
            told.read(path, encoding="utf-8")
        except (Error, UnicodeDecodeError) as error:
            raise Invalid(
                f"{path} was not understood: {' '.join(str(error).split())}; mend it, `dvc config --list` should read it"
            ) from error
    first = told.get("core", "remote", fallback="")
    titles = {section.strip("'\"").removeprefix("remote ").strip('"'): section for section in told.sections() if "remote " in section}
    urls = [told.get(titles[name], "url", fallback="") for name in sorted(titles, key=lambda name: (name != first, name))]
    local = [url.removeprefix("file://") for url in urls if url and "://" not in url.removeprefix("file://")]
    places = [told.get("cache", "dir", fallback="cache"), *local]
    return [(root / ".dvc" / Path(place).expanduser()).resolve() for place in places]
