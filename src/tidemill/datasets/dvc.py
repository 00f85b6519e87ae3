"""What a DVC repository holds, as datasets: each output is one, each content that it had along a Git branch a version. Needs no DVC."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tidemill.core.errors import Corrupt, Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.datasets.content import Content, Watch, store_files
from tidemill.datasets.dvc_cache import Cache, CacheFile, as_found
from tidemill.datasets.dvc_history import Commit, History, Moment, dvc_root, known_commits
from tidemill.datasets.marks import Mark, read_marks, write_marks
from tidemill.datasets.tables import is_table
from tidemill.datasets.tags import read_tags, tag_version
from tidemill.datasets.versions import DatasetVersion, Draft, find_newest, record_draft
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import read_tree, store_tree

_NAME_MAX = 128


class DvcVersion(Value, frozen=True, kw_only=True):
    """A content of an output, and the version that it is here: None for one that a dry run only plans. authored_at: as Git says it."""

    dataset: str
    version: int | None
    path: str
    commit: str
    author: str
    authored_at: str
    new: bool


class DvcLeftOut(Value, frozen=True, kw_only=True):
    """A content of an output that did not come, and why."""

    path: str
    commit: str
    reason: str


class DvcNote(Value, frozen=True, kw_only=True):
    """What is to be known of something beside the versions."""

    what: str
    reason: str


class DvcImport(Value, frozen=True, kw_only=True):
    """What came from a DVC repository: found is brought, there already and left out together. tags: those set now, as NAME@TAG.

    files, size_bytes: of what was brought; new_bytes: by how much the store grew for it.
    """

    repository: str
    branch: str
    dry_run: bool
    commits: int
    found: int
    brought: int
    there: int
    files: int
    size_bytes: int
    new_bytes: int
    versions: tuple[DvcVersion, ...]
    tags: tuple[str, ...]
    left_out: tuple[DvcLeftOut, ...]
    notes: tuple[DvcNote, ...]


class Change(NamedTuple):
    """The commit at which an output got another content."""

    path: str
    md5: str
    commit: Commit


def import_dvc(
    ws: Workspace, repository: Path, *, branch: str = "HEAD", caches: Sequence[Path] = (), dry_run: bool = False, reason: str = "",
    watch: Watch | None = None,
) -> DvcImport:  # fmt: skip
    """Bring every output that DVC caches, with its versions in the order of a branch's commits. Doing it again brings what is new.

    caches: folders to look into before those that the repository names. What is in none, or damaged, is left out and named. The commit, its
    author and its time are the reason of a version; a Git tag is a tag of the versions that it saw. dry_run: reads no data and changes
    nothing. Raises NotFound, Invalid, Unavailable.
    """
    root = dvc_root(repository)
    history = History(root, branch)
    moments = list(history.moments())
    coming = _Coming(ws, root, Cache(root, caches), moments, dry_run=dry_run, reason=reason)
    coming.bring(watch)
    made = coming.versions
    return DvcImport(
        repository=str(root), branch=branch, dry_run=dry_run, commits=len(moments), found=len(coming.changes),
        brought=sum(each.new for each in made), there=sum(not each.new for each in made), files=coming.files, size_bytes=coming.size_bytes,
        new_bytes=coming.new_bytes, versions=tuple(made), tags=tuple(coming.tags), left_out=tuple(coming.left_out),
        notes=tuple(DvcNote(what=what, reason=why) for what, why in [*history.notes, *coming.notes]),
    )  # fmt: skip


def changes_of(moments: Sequence[Moment]) -> list[Change]:
    """Return when each output got another content than it had before, in the order of the commits."""
    last: dict[str, str] = {}
    found = []
    for commit, outputs in moments:
        found += [Change(path, md5, commit) for path, md5 in outputs.items() if last.get(path) != md5]
        last |= outputs
    return found


def dataset_name(path: str) -> str:
    """Return the name that the dataset of an output has: its path, with a dash for what no name may hold. Raises Invalid."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path).strip("-").lstrip("._-")
    if not name or len(name) > _NAME_MAX:
        raise Invalid(f"no name can be made of the path {path!r}; expected 1 to {_NAME_MAX} letters, digits, dots, dashes or underscores")
    return name


class _Coming:
    """An import under way."""

    def __init__(
        self, ws: Workspace, root: Path, cache: Cache, moments: Sequence[Moment], *, dry_run: bool, reason: str
    ) -> None:  # fmt: skip
        self._ws, self._cache, self._moments, self._dry_run, self._reason = ws, cache, moments, dry_run, reason
        self.changes = changes_of(moments)
        self.versions: list[DvcVersion] = []
        self.left_out: list[DvcLeftOut] = []
        self.notes: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.files = self.size_bytes = self.new_bytes = 0
        self._names, self._refused = self._claim()
        self._marks = {path: read_marks(ws, name, _source(path)) for path, name in self._names.items()}
        self._digests: dict[str, Digest] = {}
        self._refuse_strangers(root)

    def bring(self, watch: Watch | None) -> None:
        """Go through the commits: make the versions of each, then set its tags."""
        last_there = {each.path: number for number, each in enumerate(self.changes) if each.commit.id in self._marks.get(each.path, ())}
        current: dict[str, DvcVersion | None] = {}
        number = 0
        for commit, outputs in self._moments:
            while number < len(self.changes) and self.changes[number].commit.id == commit.id:
                change = self.changes[number]
                current[change.path] = self._bring_one(change, late=number < last_there.get(change.path, -1))
                number += 1
                if watch is not None:
                    watch(number, len(self.changes))
            for tag in commit.tags:
                self._set_tag(tag, {path: current[path] for path in outputs})

    def _claim(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the datasets of paths, first come, first served, and why other paths get none."""
        owners: dict[str, str] = {}
        refused: dict[str, str] = {}
        for path in dict.fromkeys(change.path for change in self.changes):
            try:
                owner = owners.setdefault(dataset_name(path), path)
            except Invalid as error:
                refused[path] = f"{error}; move it with: dvc move"
                continue
            if owner != path:
                refused[path] = f"it would be dataset {dataset_name(path)!r}, which {owner} is; rename one of them with: dvc move"
        return {path: name for name, path in owners.items()}, refused

    def _refuse_strangers(self, root: Path) -> None:
        """Keep away from datasets that are here already and did not come from this repository."""
        commits = known_commits(root, {commit for marks in self._marks.values() for commit in marks})
        for path, name in self._names.items():
            if commits.isdisjoint(self._marks[path]) and (self._marks[path] or find_newest(self._ws, name) is not None):
                why = f"dataset {name!r} is here already and did not come from {path} of this repository"
                self._refused[path] = f"{why}; import into another project (--project)"

    def _bring_one(self, change: Change, *, late: bool) -> DvcVersion | None:
        """Make the version of a change, and return it; None, and the reason told, when it cannot be made."""
        try:
            if change.path in self._refused:
                raise Invalid(self._refused[change.path])
            name = self._names[change.path]
            number: int | None
            told = self._marks[change.path].get(change.commit.id)
            if told is not None:
                number, new = int(told), False
            elif late:
                raise Invalid(
                    f"a later version of {name!r} came already, and versions keep the order of commits; import into another project"
                )
            else:
                number, new = self._make(name, change)
        except (NotFound, Corrupt, Invalid) as error:
            self.left_out.append(DvcLeftOut(path=change.path, commit=change.commit.id, reason=str(error)))
            return None
        made = DvcVersion(
            dataset=name, version=number, path=change.path, commit=change.commit.id, author=change.commit.author,
            authored_at=change.commit.authored_at, new=new,
        )  # fmt: skip
        self.versions.append(made)
        return made

    def _make(self, name: str, change: Change) -> tuple[int | None, bool]:
        """Store the files of a change and make them a version; a dry run only finds them. Return its number, and whether it is new."""
        files = self._cache.files(PurePosixPath(change.path).name, change.md5)
        if not files:
            raise Invalid("the folder is empty, and a dataset needs at least one file")
        if self._dry_run:
            self._count(len(files), sum(file.path.stat().st_size for file in files.values()), 0)
            return None, True
        self._ws.require("datasets.write", name)
        for each, file in files.items():
            self._cache.check(each, file)
        before = find_newest(self._ws, name)
        content = self._store(change, files, before)
        version = self._record(name, change, content, before)
        self._digests |= {files[entry.path].md5: entry.digest for entry in content.tree.entries}
        new = before is None or version.version != before.version  # another md5 may be the same bytes: that of DVC 2 and of DVC 3
        if new:
            self._count(len(files), content.tree.size_bytes, content.new_bytes)
        return version.version, new

    def _store(self, change: Change, files: Mapping[str, CacheFile], before: DatasetVersion | None) -> Content:
        lying = {name: as_found(file) for name, file in files.items()}
        like = read_tree(self._ws.objects, before.digest) if before is not None else None
        known = {name: self._digests[file.md5] for name, file in files.items() if file.md5 in self._digests}
        try:
            return store_files(self._ws, lying, like=like, known=known)
        except Invalid as error:
            if not all(map(is_table, files)):
                raise
            self.notes.append((change.path, f"at commit {change.commit.id[:12]} it is kept as files, and is no table: {error}"))
            return store_files(self._ws, lying, like=like, known=known, as_table=False)

    def _record(self, name: str, change: Change, content: Content, before: DatasetVersion | None) -> DatasetVersion:
        """Make the version and mark its commit in one transaction. Raises Overtaken, AlreadyTaken when somebody else does the same."""
        commit = change.commit
        draft = Draft(
            name=name, digest=store_tree(self._ws.objects, content.tree), size_bytes=content.tree.size_bytes, rows=content.rows,
            new_rows=content.rows, columns=content.columns, files=len(content.tree.entries), new_bytes=content.new_bytes,
            before=before.version if before is not None else 0,
        )  # fmt: skip
        said = f"DVC: {change.path} at commit {commit.id} of {commit.author}, {commit.authored_at}: {commit.subject}"
        with self._ws.catalog.transaction() as tx:
            made = record_draft(tx, self._ws, draft, reason=f"{self._reason} ({said})" if self._reason else said)
            write_marks(tx, self._ws, name, [Mark(source=_source(change.path), mark=commit.id, before=None, told=str(made.version))])
        return made

    def _set_tag(self, tag: str, seen: Mapping[str, DvcVersion | None]) -> None:
        """Let a Git tag stand for the versions that it saw, where the name is free."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", tag)
        for path, version in seen.items():
            if version is None:
                self.notes.append((f"tag {tag}", f"the version of {path} that it stands for was left out"))
                continue
            there = read_tags(self._ws, version.dataset).get(name)
            if there is None:
                try:
                    if not self._dry_run:
                        tag_version(self._ws, f"{version.dataset}@{version.version}", name, reason=f"Git tag {tag}")
                    self.tags.append(f"{version.dataset}@{name}")
                except (Invalid, NotFound) as error:
                    self.notes.append((f"tag {tag}", str(error)))
            elif there != version.version:
                self.notes.append(
                    (f"tag {tag}", f"{version.dataset}@{name} is version {there} here already, not {version.version}; it stays")
                )

    def _count(self, files: int, size_bytes: int, new_bytes: int) -> None:
        self.files += files
        self.size_bytes += size_bytes
        self.new_bytes += new_bytes


def _source(path: str) -> str:
    return f"dvc:{path}"
