"""The code that runs: Git commit, branch, what differs from the commit, files that Git does not know. Secrets are left out."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tidemill.client.secrets import secret_content, secret_path
from tidemill.core.settings import child_environment, mask
from tidemill.core.values import Value

GIT_S = 20.0
DIFF_BYTES_MAX = 5 << 20
FILE_BYTES_MAX = 1 << 20
FILES_BYTES_MAX = 10 << 20
FILES_MAX = 500
_SECTION = re.compile(rb"^(?=diff --git )", re.MULTILINE)
_PATHS = re.compile(rb"diff --git a/(.*) b/(.*)\n")


class CodeState(Value, frozen=True, kw_only=True):
    """A repository as it was. diff: against the commit; untracked: path -> content; left_out: path -> why."""

    root: str
    commit: str
    branch: str
    remote: str
    dirty: bool
    diff: bytes
    untracked: dict[str, bytes]
    left_out: dict[str, str]

    @property
    def tags(self) -> dict[str, str]:
        """What a run's tags say of it."""
        said = {"git.commit": self.commit, "git.branch": self.branch, "git.remote": self.remote, "git.dirty": str(self.dirty).lower()}
        return {key: value for key, value in said.items() if value}

    @property
    def files(self) -> dict[str, bytes]:
        """What a run keeps of it, by path."""
        return {
            **({"code/diff.patch": self.diff} if self.diff else {}),
            **{f"code/untracked/{path}": data for path, data in self.untracked.items()},
        }


def program_folder() -> Path:
    """Return the folder of the script that runs; the current one in a notebook, and for a program that was installed."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(script).resolve().parent if script else Path.cwd()
    return Path.cwd() if folder.is_relative_to(Path(sys.prefix).resolve()) else folder


def read_code(folder: Path) -> CodeState | None:
    """Return the state of the Git repository that a folder lies in, None when there is none, or no Git."""
    root = _git(folder, "rev-parse", "--show-toplevel")
    if root is None:
        return None
    top = Path(os.fsdecode(root.strip()))
    lines = (_git(top, "status", "--porcelain=v2", "--branch", "--untracked-files=all", "-z") or b"").split(b"\0")
    heads = dict(line[2:].split(b" ", 1) for line in lines if line.startswith(b"# "))
    commit, branch = heads.get(b"branch.oid", b"").decode(), heads.get(b"branch.head", b"").decode("utf-8", "replace")
    commit = "" if commit == "(initial)" else commit
    dirty = any(line[:2] in (b"1 ", b"2 ", b"u ") for line in lines)
    left_out: dict[str, str] = {}
    return CodeState(
        root=str(top),
        commit=commit,
        branch="" if branch == "(detached)" else branch,
        remote=mask((_git(top, "config", "--get", "remote.origin.url") or b"").decode("utf-8", "replace").strip()),
        dirty=dirty,
        diff=_diff(top, commit, left_out) if dirty else b"",
        untracked=_untracked(top, [line[2:] for line in lines if line.startswith(b"? ")], left_out),
        left_out=left_out,
    )


def _diff(top: Path, commit: str, left_out: dict[str, str]) -> bytes:
    whole = _git(top, "diff", "--no-color", "--no-ext-diff", "--no-textconv", *(["HEAD"] if commit else ["--cached"]), "--") or b""
    kept, size = [], 0
    for section in _SECTION.split(whole):
        if not section:
            continue
        found = _PATHS.match(section)
        path = found[2].decode("utf-8", "replace") if found else "?"
        size += len(section)
        why = _why_not(path, section, size, DIFF_BYTES_MAX)
        if why:
            left_out[path] = why
        else:
            kept.append(section)
    return b"".join(kept)


def _untracked(top: Path, names: list[bytes], left_out: dict[str, str]) -> dict[str, bytes]:
    kept: dict[str, bytes] = {}
    size = 0
    for name in names:
        path = os.fsdecode(name)
        shown = path.encode("utf-8", "replace").decode()
        file = top / path
        if file.is_symlink() or not file.is_file():
            continue
        length = file.stat().st_size
        if length > FILE_BYTES_MAX or size + length > FILES_BYTES_MAX or len(kept) >= FILES_MAX:
            left_out[shown] = "too large, or one too many"
            continue
        data = file.read_bytes()
        why = _why_not(shown, data, 0, 1)
        if why:
            left_out[shown] = why
            continue
        kept[shown] = data
        size += length
    return kept


def _why_not(path: str, data: bytes, size: int, size_max: int) -> str:
    if secret_path(path) or secret_content(data):
        return "looks like a secret"
    return "too large" if size > size_max else ""


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Run Git without asking anybody anything and without touching its locks; None when it says no, or is not there."""
    environment = child_environment({"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"})
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=GIT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
