"""What an import carries along: under which ids things are kept here, where folders went, what could not be brought."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import new_id, new_run_id
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow.moving.store import File, Store
from tidemill.store.trees import TreeEntry
from tidemill.tracking import batches, files, logged_models, moves, runs
from tidemill.tracking.batches import Series
from tidemill.tracking.moves import Move

FILES_AT_ONCE = 64
MARKS_AT_ONCE = 200
NOTES_MAX = 50
HERE = "mlflow-artifacts:/"
T = TypeVar("T")


class Luggage:
    """The state of one import. scratch: a folder for files on their way."""

    def __init__(self, ws: Workspace, origin: str, store: Store, scratch: Path, watch: Callable[[str, int], None]) -> None:
        self.ws, self.origin, self.store = ws, origin, store
        self._scratch = scratch
        self.fresh = 0
        self._watch, self._looked = watch, 0
        self._known = {(move.kind, move.theirs): move for move in moves.read_moves(ws, origin)}
        self._met: set[tuple[str, str]] = set()
        self._unwritten: list[Move] = []
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
        """Keep what something is called here, and what it looks like. Names are written at once, marks some at a time.

        A kill may cost marks: what they stood for is looked at once more, and found to be here.
        """
        move = Move(kind=kind, theirs=theirs, ours=ours, mark=mark)
        if self._known.get((kind, theirs)) != move:
            self._unwritten.append(move)
            if not mark or len(self._unwritten) >= MARKS_AT_ONCE:
                self.settle()
        self._met.add((kind, theirs))
        self._known[kind, theirs] = move

    def settle(self) -> None:
        """Write down what has not been yet."""
        if self._unwritten:
            moves.write_moves(self.ws, self.origin, self._unwritten)
            self._unwritten = []

    def claim_runs(self, theirs: Sequence[str]) -> None:
        """Say what runs will be called here, all at once: theirs where their ids are free."""
        new = [Move(kind="run", theirs=run, ours=self._free_run(run)) for run in theirs if self.ours("run", run) is None]
        self._unwritten += new
        self.settle()
        self._known |= {(move.kind, move.theirs): move for move in new}

    def run(self, theirs: str) -> str:
        """Return the id of a run here."""
        if self.ours("run", theirs) is None:
            self.claim_runs([theirs])
        return self._known["run", theirs].ours

    def model(self, theirs: str) -> str:
        """Return the id of a logged model here: theirs if it is free."""
        known = self.ours("logged model", theirs)
        if known is None:
            known = self._free_model(theirs)
            self.remember("logged model", theirs, known)
        return known

    def known(self, kind: str, theirs: str | None) -> str | None:
        """Return what something that may not have come is called here: else its own id."""
        move = self._known.get((kind, theirs or ""))
        return move.ours if move is not None else theirs or None

    def bring_again(self, removed: Sequence[Move]) -> None:
        """Let go of what came before and was removed here, so that it comes anew."""
        if removed:
            moves.forget_moves(self.ws, self.origin, removed)
            for move in removed:
                del self._known[move.kind, move.theirs]

    def came(self, kind: str) -> list[Move]:
        """Return all of a kind that came before."""
        return [move for move in self._known.values() if move.kind == kind]

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
        for start in range(0, len(missing), FILES_AT_ONCE):
            entries = [self._stored(file) for file in missing[start : start + FILES_AT_ONCE]]
            self.trying(folder, partial(files.keep_tree, self.ws, folder, entries))

    def _stored(self, file: File) -> TreeEntry:
        with self.store.fetched(file, self._scratch) as path:
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
        except (Invalid, Conflict, NotFound) as error:
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

    def add_points(self, run: str, series: Sequence[Series], total: int) -> None:
        """Add points to a run, which then has so many; if a key is refused, the others come alone."""
        try:
            batches.log_series(self.ws, run, series, writer="import", number=total)
        except Invalid:
            for item in series:
                alone = partial(batches.log_series, self.ws, run, [item], writer=f"import:{item.key}", number=total)
                self.trying(f"run {run}", alone)

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

    def _free_run(self, theirs: str) -> str:
        try:
            runs.read_run(self.ws, theirs)
        except NotFound:
            return theirs
        return str(new_run_id())

    def _free_model(self, theirs: str) -> str:
        try:
            logged_models.read_logged_model(self.ws, theirs, deleted=True)
        except NotFound:
            return theirs
        return f"m-{new_id()}"


def _plain(location: str) -> str:
    """Return a location in one spelling: a file of this machine as its path, others without the last slash."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return unquote(parts.path).rstrip("/") if parts.scheme else location.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
