"""What an import carries along: under which ids things are kept here, where folders went, what could not be brought."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import new_id, new_run_id
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.moving.store import File, Store
from tidemill.store.trees import TreeEntry
from tidemill.tracking import batches, files, logged_models, moves, runs
from tidemill.tracking.moves import Move

FILES_AT_ONCE = 64
NOTES_MAX = 50
HERE = "mlflow-artifacts:/"
T = TypeVar("T")


class Luggage:
    """The state of one import."""

    def __init__(self, ws: Workspace, origin: str, store: Store, watch: Callable[[str, int], None]) -> None:
        self.ws, self.origin, self.store = ws, origin, store
        self.fresh = 0
        self._watch, self._looked = watch, 0
        self._known = {(move.kind, move.theirs): move for move in moves.read_moves(ws, origin)}
        self._met: set[tuple[str, str]] = set()
        self._folders: dict[str, str] = {}
        self._notes: list[str] = []
        self._unreachable: dict[str, int] = {}

    def looked_at(self, what: str) -> None:
        """Say that one more thing was looked at."""
        self._looked += 1
        self._watch(what, self._looked)

    # What things are called here.

    def ours(self, kind: str, theirs: str) -> str | None:
        """Return what something is called here, None while it has not come."""
        self._met.add((kind, theirs))
        known = self._known.get((kind, theirs))
        return None if known is None else known.ours

    def mark(self, kind: str, theirs: str) -> str:
        """Return what something looked like when all of it had come, "" before."""
        known = self._known.get((kind, theirs))
        return "" if known is None else known.mark

    def remember(self, kind: str, theirs: str, ours: str, mark: str = "") -> None:
        """Write down what something is called here, and what it looks like."""
        move = Move(kind=kind, theirs=theirs, ours=ours, mark=mark)
        if self._known.get((kind, theirs)) != move:
            moves.write_move(self.ws, self.origin, move)
        self._met.add((kind, theirs))
        self._known[kind, theirs] = move

    def run(self, theirs: str) -> str:
        """Return the id of a run here: theirs if it is free."""
        return self._claimed("run", theirs, runs.read_run, lambda: str(new_run_id()))

    def model(self, theirs: str) -> str:
        """Return the id of a logged model here: theirs if it is free."""
        return self._claimed(
            "logged model", theirs, lambda ws, model: logged_models.read_logged_model(ws, model, deleted=True), lambda: f"m-{new_id()}"
        )

    def known(self, kind: str, theirs: str | None) -> str | None:
        """Return what something that may not have come is called here: else its own id."""
        move = self._known.get((kind, theirs or ""))
        return move.ours if move is not None else theirs or None

    def forget_the_gone(self) -> None:
        """Let go of what came before and is not there any more: it stays here, and is compared no longer."""
        gone = [move for place, move in self._known.items() if place not in self._met]
        if gone:
            moves.forget_moves(self.ws, self.origin, gone)
            kinds = sorted({move.kind for move in gone})
            told = ", ".join(f"{sum(move.kind == kind for move in gone)} of kind {kind!r}" for kind in kinds)
            self.note(f"what came before and is gone there stays here: {told}")

    # Where folders went.

    def placed(self, location: str, folder: str) -> None:
        """Say that what lay at a location of theirs lies in this folder here."""
        self._folders[_plain(location)] = folder

    def place_of(self, location: str) -> str | None:
        """Return the path here of a location of theirs, or of one below it; None for what was not brought."""
        at, below = _plain(location), ""
        while at and at not in self._folders:
            at, slash, name = at.rpartition("/")
            if not slash:
                return None
            below = f"{name}/{below}" if below else name
        return f"{self._folders[at]}/{below}".rstrip("/") if at else None

    def keep(self, folder: str, given: Sequence[File], *, again: bool) -> None:
        """Keep files below a folder, some at a time. again: they came before, and may have changed or gone since."""
        there = {file.path.removeprefix(f"{folder}/"): file.size_bytes for file in files.files_below(self.ws, folder)}
        for path in set(there) - {file.path for file in given} if again else ():
            files.delete_files(self.ws, f"{folder}/{path}")
        missing = [file for file in given if again or there.get(file.path) != file.size_bytes]
        if not missing:
            return
        state = self.ws.state / "tmp"
        state.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=state, prefix="import-") as scratch:
            for start in range(0, len(missing), FILES_AT_ONCE):
                entries = [self._stored(file, Path(scratch)) for file in missing[start : start + FILES_AT_ONCE]]
                self.trying(folder, partial(files.keep_tree, self.ws, folder, entries))

    def _stored(self, file: File, scratch: Path) -> TreeEntry:
        with self.store.fetched(file, scratch) as path:
            return TreeEntry(path=file.path, digest=self.ws.objects.put_file(path), size_bytes=path.stat().st_size)

    # What could not be brought.

    def note(self, text: str) -> None:
        """Write down what there is to know at the end."""
        self._notes.append(text)

    def cannot_reach(self, location: str) -> None:
        """Write down that the files of something lie where this machine cannot read them."""
        scheme = urlsplit(location).scheme or "a path"
        self._unreachable[scheme] = self._unreachable.get(scheme, 0) + 1

    def trying(self, label: str, act: Callable[[], T]) -> T | None:
        """Do something; what is refused is written down, and the import goes on."""
        try:
            return act()
        except (Invalid, Conflict) as error:
            self.note(f"{label}: {error}")
            return None

    def write(self, run: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Write params and tags of a run at once; if one of them is refused, one by one."""
        try:
            batches.log_batch(self.ws, run, params=params, tags=tags)
        except (Invalid, Conflict):
            for key, value in params.items():
                self.trying(f"run {run}", partial(batches.log_batch, self.ws, run, params={key: value}))
            for key, value in tags.items():
                self.trying(f"run {run}", partial(batches.log_batch, self.ws, run, tags={key: value}))

    def notes(self) -> list[str]:
        """Return what was written down, at most so much that somebody reads it."""
        told = self._notes[:NOTES_MAX]
        if len(self._notes) > NOTES_MAX:
            told.append(f"and {len(self._notes) - NOTES_MAX} more of such")
        hint = "; give the folder behind it with --artifacts DIR"
        for scheme, count in sorted(self._unreachable.items()):
            told.append(
                f"the files of {count} runs and models lie at {scheme}, which cannot be read from here"
                + (hint * (scheme == HERE.rstrip(":/")))
            )
        return told

    def _claimed(self, kind: str, theirs: str, read: Callable[[Workspace, str], object], fresh: Callable[[], str]) -> str:
        known = self.ours(kind, theirs)
        if known is not None:
            return known
        try:
            read(self.ws, theirs)
            known = fresh()  # the id is somebody else's
        except NotFound:
            known = theirs
        self.remember(kind, theirs, known)
        return known


def _plain(location: str) -> str:
    """Return a location in one spelling: a file of this machine as its path, others without the last slash."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return unquote(parts.path).rstrip("/") if parts.scheme else location.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
