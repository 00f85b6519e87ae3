"""What DVC tracked at each commit of a Git branch, read from its `.dvc` files and `dvc.lock`. Needs Git, and no DVC."""

import posixpath
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.core.settings import child_environment

LOCK, PIPELINE = "dvc.lock", "dvc.yaml"
_METAFILES = ("*.dvc", LOCK, f"*/{LOCK}", PIPELINE, f"*/{PIPELINE}")
_GONE = "0" * 40
# What a user's configuration of Git could change of what is read here.
_SETTINGS = ("-c", "log.showSignature=false", "-c", "log.showRoot=true", "-c", "i18n.logOutputEncoding=UTF-8")


class Commit(NamedTuple):
    """A commit of the branch. authored_at: as Git says it, ISO 8601; tags: Git's, that stand on it."""

    id: str
    author: str
    authored_at: str
    subject: str
    tags: tuple[str, ...]


class Moment(NamedTuple):
    """What DVC tracked at one commit: the md5 of each output by its path from the repository (of a folder it ends with `.dir`)."""

    commit: Commit
    outputs: Mapping[str, str]


class History:
    """The commits of a branch from the first to the last, merges as one step, and what could not be understood of them."""

    def __init__(self, folder: Path, branch: str) -> None:
        self.notes: list[tuple[str, str]] = []
        self._commits = _read_commits(folder, branch)
        if _git(folder, "rev-parse", "--is-shallow-repository").strip() == b"true":
            self._note(str(folder), "it is a shallow clone, so older commits are not looked at; for all of them run: git fetch --unshallow")
        blobs = sorted({blob for _, changes in self._commits for _, blob in changes if blob != _GONE})
        self._texts = _read_blobs(folder, blobs)

    def moments(self) -> Iterator[Moment]:
        """Yield each commit with all that was tracked then."""
        texts: dict[str, bytes] = {}
        units: dict[str, dict[str, str]] = {}
        outputs: dict[str, str] = {}
        for commit, changes in self._commits:
            for path, blob in changes:
                if blob == _GONE:
                    texts.pop(path, None)
                else:
                    texts[path] = self._texts[blob]
            for unit in sorted({_unit(path) for path, _ in changes}):
                try:
                    units[unit] = self._outputs(unit, texts)
                except Invalid as error:  # as with the marks of a merge in it: what was known before stays
                    self._note(unit, f"at commit {commit.id[:12]}: {error}")
            if changes:
                outputs = {path: md5 for unit in sorted(units) for path, md5 in sorted(units[unit].items())}
            yield Moment(commit, outputs)

    def _outputs(self, unit: str, texts: Mapping[str, bytes]) -> dict[str, str]:
        """Return the outputs of a .dvc file, or of the pipeline of a folder, that DVC caches."""
        folder = posixpath.dirname(unit)
        if PurePosixPath(unit).name != LOCK:
            stage = _mapping(unit, texts.get(unit))
            return self._cached(unit, posixpath.join(folder, str(stage.get("wdir") or "")), stage.get("outs"), skip=set())
        lock = _mapping(unit, texts.get(unit))
        plans = _mapping(posixpath.join(folder, PIPELINE), texts.get(posixpath.join(folder, PIPELINE))).get("stages")
        stages = lock.get("stages", {}) if "schema" in lock else lock
        found: dict[str, str] = {}
        for name, stage in stages.items() if isinstance(stages, dict) else ():
            plan = _plan(plans, str(name))
            if isinstance(stage, dict):
                base = posixpath.join(folder, str(plan.get("wdir") or ""))
                found |= self._cached(unit, base, stage.get("outs"), skip=_uncached(plan))
        return found

    def _cached(self, unit: str, base: str, outs: Any, *, skip: set[str]) -> dict[str, str]:
        found = {}
        for out in outs if isinstance(outs, list) else ():
            if not isinstance(out, dict) or "path" not in out or out.get("cache") is False or str(out["path"]) in skip:
                continue
            given = str(out["path"])
            path = posixpath.normpath(posixpath.join(base, given))
            if "://" in given or path.startswith(("../", "/")):
                self._note(given, f"{unit} tracks it outside of the repository; add it by hand: tidemill data add")
            elif not isinstance(out.get("md5"), str):
                self._note(path, f"{unit} names no md5 of it, so it is not in DVC's cache; add it by hand: tidemill data add")
            else:
                found[path] = out["md5"]
        return found

    def _note(self, what: str, reason: str) -> None:
        if (what, reason) not in self.notes:
            self.notes.append((what, reason))


def dvc_root(repository: Path) -> Path:
    """Return the folder of the DVC repository that a path is in. Raises NotFound, Invalid."""
    if not repository.exists():
        raise NotFound(f"there is no {repository}; give the folder of a Git repository that DVC is used in")
    start = repository.resolve()
    root = next((each for each in (start, *start.parents) if (each / ".dvc").is_dir()), None)
    if root is None:
        raise Invalid(f"{repository} is no DVC repository: there is no folder .dvc in it; give the folder where `dvc init` was run")
    return root


def known_commits(folder: Path, commits: Iterable[str]) -> set[str]:
    """Return those commits that a repository has, on whatever branch."""
    asked = "".join(f"{commit}\n" for commit in sorted(commits)).encode()
    told = _git(folder, "cat-file", "--batch-check", given=asked).decode() if asked else ""
    return {line.split()[0] for line in told.splitlines() if line.split()[1] == "commit"}


def _unit(path: str) -> str:
    """Return what tells the outputs that a file is about: itself, or the lock beside a pipeline."""
    return path if path.endswith(".dvc") else posixpath.join(posixpath.dirname(path), LOCK)


def _plan(plans: Any, name: str) -> Mapping[str, Any]:
    """Return what dvc.yaml says of a stage of the lock: NAME@ITEM is one of many that a loop made."""
    stage = plans.get(name, plans.get(name.partition("@")[0])) if isinstance(plans, dict) else None
    stage = stage.get("do", stage) if isinstance(stage, dict) else None
    return stage if isinstance(stage, dict) else {}


def _uncached(plan: Mapping[str, Any]) -> set[str]:
    """Return the outputs that are in Git and not in DVC's cache."""
    listed = [each for kind in ("outs", "metrics", "plots") if isinstance(plan.get(kind), list) for each in plan[kind]]
    said = [(path, options) for each in listed if isinstance(each, dict) for path, options in each.items()]
    return {str(path) for path, options in said if isinstance(options, dict) and options.get("cache") is False}


def _mapping(path: str, text: bytes | None) -> Mapping[str, Any]:
    """Return what a file of YAML says, nothing for one that is not there. Raises Invalid."""
    try:
        said = yaml.safe_load(text.decode()) if text is not None else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} was not understood: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict | None):
        raise Invalid(f"{path} was not understood: expected keys and values")
    return said or {}


def _read_commits(folder: Path, branch: str) -> list[tuple[Commit, list[tuple[str, str]]]]:
    """Return the commits of a branch, each with the files of DVC that it changed and their blobs."""
    if branch.startswith("-"):
        raise Invalid(f"{branch!r} is no Git branch; give the name of a branch, a tag or a commit")
    tags: dict[str, list[str]] = {}
    for line in (
        _git(folder, "for-each-ref", "refs/tags", "--format=%(refname:lstrip=2) %(objectname) %(*objectname)").decode().splitlines()
    ):
        name, direct, *behind = line.split()
        tags.setdefault(behind[0] if behind else direct, []).append(name)
    changed = _changes(folder, branch)
    told = _git(folder, "log", "--first-parent", "--reverse", "-z", "--format=%H%x1f%aN <%aE>%x1f%aI%x1f%s", branch, "--").decode(
        errors="replace"
    )
    commits = []
    for record in told.split("\0")[:-1] if told.endswith("\0") else told.split("\0"):
        commit, author, authored_at, subject = record.split("\x1f", 3)
        commits.append((Commit(commit, author, authored_at, subject, tuple(tags.get(commit, ()))), changed.get(commit, [])))
    return commits


def _changes(folder: Path, branch: str) -> dict[str, list[tuple[str, str]]]:
    """Return by commit the paths of DVC's files that it changed against its first parent, with their blobs."""
    told = _git(
        folder, "log", "--first-parent", "-m", "--raw", "--no-renames", "--no-abbrev", "-z", "--relative", "--format=commit %H", branch,
        "--", *_METAFILES,
    )  # fmt: skip
    found: dict[str, list[tuple[str, str]]] = {}
    commit = ""
    fields = iter(told.split(b"\0"))
    for field in fields:
        if field.startswith(b"commit "):
            commit = field.removeprefix(b"commit ").decode()
        elif field:  # a line of what changed, then the path
            found.setdefault(commit, []).append((next(fields).decode(errors="replace"), field.split()[3].decode()))
    return found


def _read_blobs(folder: Path, blobs: Sequence[str]) -> dict[str, bytes]:
    told = _git(folder, "cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode()) if blobs else b""
    found, at = {}, 0
    for blob in blobs:
        end = told.index(b"\n", at)
        head = told[at:end].split()
        if head[1:2] != [b"blob"]:
            raise Invalid(f"Git has no object {blob} of {folder}; bring the whole history: git fetch --unshallow, or git fsck to see why")
        size = int(head[2])
        found[blob] = told[end + 1 : end + 1 + size]
        at = end + size + 2
    return found


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """Return what a command of Git says. Raises Unavailable where Git is not installed, Invalid for what it refuses."""
    environment = child_environment({"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"})
    try:
        done = subprocess.run(["git", *_SETTINGS, *arguments], cwd=folder, env=environment, capture_output=True, input=given, check=False)
    except FileNotFoundError as error:
        raise Unavailable("Git is not installed here, and the history of a DVC repository is read by it; install git") from error
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip() or "nothing was said").splitlines()[0]
        raise Invalid(f"Git could not read the history of {folder}: {said}; give a Git repository with at least one commit, and its branch")
    return done.stdout
