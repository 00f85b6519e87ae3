"""The state of a repository: what differs from the commit and what Git does not know is kept, secrets and large files are not."""

import subprocess
from pathlib import Path

import pytest

from tidemill.client.code_state import DIFF_BYTES_MAX, FILE_BYTES_MAX, CodeState, read_code

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "tide")
    (folder / "train.py").write_text("rate = 1\n")
    (folder / ".gitignore").write_text("ignored/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "begin")
    git(folder, "remote", "add", "origin", "https://me:word@host/x.git")
    return folder


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def read(folder: Path) -> CodeState:
    found = read_code(folder)
    assert found is not None
    return found


def test_a_clean_repository_is_its_commit(repository: Path) -> None:
    found = read(repository)
    assert found.tags == {
        "git.commit": git(repository, "rev-parse", "HEAD").strip(), "git.branch": "tide", "git.remote": "https://me:***@host/x.git",
        "git.dirty": "false",
    }  # fmt: skip
    assert (found.root, found.files, found.left_out) == (str(repository), {}, {})


def test_what_differs_can_be_had_again(repository: Path, tmp_path: Path) -> None:
    (repository / "train.py").write_text("rate = 2\n")
    (repository / "deep").mkdir()
    (repository / "deep" / "größe.txt").write_text("new")
    (repository / "ignored").mkdir()
    (repository / "ignored" / "big").write_text("x")
    found = read(repository / "deep")
    assert found.dirty
    assert set(found.files) == {"code/diff.patch", "code/untracked/deep/größe.txt"}
    assert found.files["code/untracked/deep/größe.txt"] == b"new"
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(repository), str(copy))
    git(copy, "checkout", "-q", found.commit)
    (tmp_path / "diff.patch").write_bytes(found.diff)
    git(copy, "apply", str(tmp_path / "diff.patch"))
    assert (copy / "train.py").read_text() == "rate = 2\n"


def test_staged_changes_count_too(repository: Path) -> None:
    (repository / "train.py").write_text("rate = 3\n")
    (repository / "more.py").write_text("x = 1\n")
    git(repository, "add", ".")
    found = read(repository)
    assert found.dirty
    assert b"+rate = 3" in found.diff
    assert b"+x = 1" in found.diff


def test_what_looks_like_a_secret_is_left_out(repository: Path) -> None:
    (repository / "settings.py").write_text("x = 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "settings")
    (repository / "settings.py").write_text('api_key = "0123456789abcdef"\n')
    (repository / "train.py").write_text("rate = 2\n")
    (repository / ".env").write_text("A=1")
    (repository / "notes.txt").write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    (repository / "fine.txt").write_text("fine")
    found = read(repository)
    assert b"rate = 2" in found.diff
    assert b"0123456789abcdef" not in found.diff
    assert set(found.untracked) == {"fine.txt"}
    assert found.left_out == dict.fromkeys(("settings.py", ".env", "notes.txt"), "looks like a secret")


def test_what_is_too_large_is_left_out(repository: Path) -> None:
    (repository / "train.py").write_text("x" * (DIFF_BYTES_MAX + 1))
    (repository / "big.bin").write_bytes(bytes(FILE_BYTES_MAX + 1))
    (repository / "link").symlink_to("train.py")
    found = read(repository)
    assert found.dirty
    assert found.files == {}
    assert found.left_out == {"train.py": "too large", "big.bin": "too large, or one too many"}


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "tide")
    (tmp_path / "a.py").write_text("a")
    git(tmp_path, "add", "a.py")
    found = read(tmp_path)
    assert (found.commit, found.branch, found.remote) == ("", "tide", "")
    assert b"+a" in found.diff


def test_a_folder_outside_of_any_repository_has_no_state(tmp_path: Path) -> None:
    assert read_code(tmp_path) is None
    assert read_code(tmp_path / "nowhere") is None
