"""What comes over from a DVC repository: made by hand in DVC's layouts, and once by DVC itself."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tidemill.catalog.events import read_events
from tidemill.core.errors import Invalid, NotFound
from tidemill.datasets.checkout import check_out
from tidemill.datasets.dvc import DvcImport, dataset_name, import_dvc
from tidemill.datasets.tags import read_tags, tag_version
from tidemill.datasets.versions import add, list_datasets, list_versions, open_table, read_version
from tidemill.govern.workspace import Workspace

DVC = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill-peers" / "dvc_peer" / "bin" / "dvc"


class Repository:
    """A Git repository with DVC's files in it, written as DVC writes them."""

    def __init__(self, folder: Path, *, layout: str = "files/md5") -> None:
        self.folder, self.cache, self.layout = folder, folder / ".dvc" / "cache", layout
        (folder / ".dvc").mkdir(parents=True)
        (folder / ".dvc" / "config").write_text("")
        (folder / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n")
        self.git("init", "-q", "-b", "tide")

    def git(self, *words: str) -> str:
        settings = ("-c", "user.name=Ann", "-c", "user.email=ann@x", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *settings, *words], cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, subject: str) -> str:
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def put(self, data: bytes, *, md5: str = "", suffix: str = "") -> str:
        md5 = md5 or hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.place(md5 + suffix).parent.mkdir(parents=True, exist_ok=True)
        self.place(md5 + suffix).write_bytes(data)
        return md5 + suffix

    def place(self, md5: str) -> Path:
        return self.cache / self.layout / md5[:2] / md5[2:]

    def folder_of(self, **files: bytes) -> str:
        listed = [{"md5": self.put(data), "relpath": name.replace("__", "/")} for name, data in files.items()]
        return self.put(json.dumps(listed).encode(), suffix=".dir")

    def track(self, path: str, md5: str) -> None:
        target = self.folder / f"{path}.dvc"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump({"outs": [{"md5": md5, "hash": "md5", "path": target.name.removesuffix(".dvc")}]}))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def three_revisions(repository: Repository) -> list[str]:
    """A folder that changes twice, a table that changes once."""
    repository.track("data/images", repository.folder_of(a=b"a1", deep__b=b"b1"))
    repository.track("rows.csv", repository.put(b"x,y\n1,2\n"))
    first = repository.commit("begin")
    repository.git("tag", "-a", "v1.0", "-m", "one")
    repository.track("data/images", repository.folder_of(a=b"a2", deep__b=b"b1"))
    second = repository.commit("better images")
    repository.track("data/images", repository.folder_of(a=b"a2"))
    repository.track("rows.csv", repository.put(b"x,y\n1,2\n3,4\n"))
    third = repository.commit("fewer images, more rows")
    repository.git("tag", "last")
    return [first, second, third]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reasons(found: DvcImport) -> list[str]:
    return [each.reason for each in found.left_out]


def test_versions_come_in_the_order_of_commits(ws: Workspace, repository: Repository, tmp_path: Path) -> None:
    commits = three_revisions(repository)
    found = import_dvc(ws, repository.folder)
    assert (found.commits, found.found, found.brought, found.there, found.left_out, found.notes) == (3, 5, 5, 0, (), ())
    assert [(each.dataset, each.version) for each in found.versions] == [
        ("data-images", 1), ("rows.csv", 1), ("data-images", 2), ("data-images", 3), ("rows.csv", 2),
    ]  # fmt: skip
    assert [each.commit for each in found.versions if each.dataset == "data-images"] == commits
    assert {each.author for each in found.versions} == {"Ann <ann@x>"}
    assert (found.files, found.size_bytes) == (7, 2 + 2 + 8 + 2 + 2 + 2 + 12)
    check_out(ws, "data-images@1", tmp_path / "one")
    assert content(tmp_path / "one") == {"a": b"a1", "deep/b": b"b1"}
    check_out(ws, "data-images", tmp_path / "three")
    assert content(tmp_path / "three") == {"a": b"a2"}
    assert open_table(ws, "rows.csv").to_pydict() == {"x": [1, 3], "y": [2, 4]}
    assert read_tags(ws, "data-images") == {"last": 3, "v1.0": 1}
    assert read_tags(ws, "rows.csv") == {"last": 2, "v1.0": 1}
    with ws.catalog.reading() as tx:
        event = read_events(tx, ws.project, kinds=["dataset.added"])[0]
    assert event.reason.startswith(f"DVC: data/images at commit {commits[0]} of Ann <ann@x>, 20")
    assert event.reason.endswith(": begin")


def test_a_second_run_adds_only_what_is_new(ws: Workspace, repository: Repository) -> None:
    three_revisions(repository)
    import_dvc(ws, repository.folder)
    add(ws, "rows.csv", repository.folder / "rows.csv.dvc")  # somebody goes on by hand
    again = import_dvc(ws, repository.folder)
    assert (again.brought, again.there, again.tags, again.notes) == (0, 5, (), ())
    repository.track("rows.csv", repository.put(b"x,y\n9,9\n"))
    repository.commit("other rows")
    more = import_dvc(ws, repository.folder)
    assert (more.found, more.brought, more.there) == (6, 1, 5)
    assert [version.version for version in list_versions(ws, "rows.csv")] == [4, 3, 2, 1]


def test_what_was_interrupted_goes_on(ws: Workspace, repository: Repository) -> None:
    three_revisions(repository)

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dvc(ws, repository.folder, watch=stop)
    found = import_dvc(ws, repository.folder)
    assert (found.brought, found.there) == (2, 3)
    assert (read_tags(ws, "rows.csv"), read_tags(ws, "data-images")) == ({"last": 2, "v1.0": 1}, {"last": 3, "v1.0": 1})
    assert [len(list_versions(ws, name)) for name in ("rows.csv", "data-images")] == [2, 3]


def test_history_is_read_whatever_git_is_set_to(ws: Workspace, repository: Repository) -> None:
    for name in ("log.showRoot", "core.quotePath"):
        repository.git("config", name, "false")
    repository.track('odd "nàme"\n\x02', repository.put(b"1"))
    repository.commit("begin \x02\x1f")
    repository.git("checkout", "-q", "-b", "side")
    repository.track("side", repository.put(b"2"))
    repository.commit("aside")
    repository.git("checkout", "-q", "tide")
    repository.commit("empty")
    repository.git("merge", "-q", "--no-ff", "-m", "merged", "side")
    found = import_dvc(ws, repository.folder)
    assert (found.commits, [each.dataset for each in found.versions]) == (3, ["odd-n-me", "side"])
    assert [import_dvc(ws, repository.folder, branch="side").there for _ in range(2)] == [2, 2]
    assert [version.version for version in list_versions(ws, "side")] == [1]


def test_a_shallow_clone_is_told(ws: Workspace, repository: Repository, tmp_path: Path) -> None:
    three_revisions(repository)
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(tmp_path / "copy"))
    found = import_dvc(ws, tmp_path / "copy", caches=[repository.cache])
    assert (found.commits, found.brought) == (1, 2)
    assert "it is a shallow clone" in found.notes[0].reason


def test_a_dry_run_only_tells(ws: Workspace, repository: Repository) -> None:
    three_revisions(repository)
    planned = import_dvc(ws, repository.folder, dry_run=True)
    assert list_datasets(ws) == []
    done = import_dvc(ws, repository.folder)
    assert (planned.found, planned.brought, planned.files, planned.size_bytes) == (done.found, done.brought, done.files, done.size_bytes)
    assert planned.tags == done.tags


def test_what_is_missing_is_named_and_the_rest_comes(ws: Workspace, repository: Repository) -> None:
    _, second, _ = three_revisions(repository)
    lost = repository.place(hashlib.md5(b"a1", usedforsecurity=False).hexdigest())
    kept = lost.read_bytes()
    lost.unlink()
    found = import_dvc(ws, repository.folder)
    assert (found.found, found.brought, len(found.left_out)) == (5, 4, 1)
    assert "a not found in" in reasons(found)[0]
    assert "dvc fetch --all-commits" in reasons(found)[0]
    assert [(note.what, note.reason) for note in found.notes] == [
        ("tag v1.0", "the version of data/images that it stands for was left out")
    ]
    assert found.versions[1].commit == second
    lost.write_bytes(kept)
    late = import_dvc(ws, repository.folder)
    assert (late.brought, late.there) == (0, 4)
    assert "a later version of 'data-images' came already" in reasons(late)[0]


def test_what_is_damaged_is_left_out(ws: Workspace, repository: Repository) -> None:
    three_revisions(repository)
    repository.place(hashlib.md5(b"b1", usedforsecurity=False).hexdigest()).write_bytes(b"B1")
    found = import_dvc(ws, repository.folder)
    assert (found.brought, len(found.left_out)) == (3, 2)
    assert all("deep/b is damaged: the md5 of" in reason for reason in reasons(found))


def test_the_layout_of_dvc_2(ws: Workspace, tmp_path: Path) -> None:
    old = Repository(tmp_path / "old", layout="")
    text = b"one\r\ntwo\r\n"
    unix = hashlib.md5(text.replace(b"\r\n", b"\n"), usedforsecurity=False).hexdigest()
    (old.folder / "notes.txt.dvc").write_text(f"outs:\n- md5: {old.put(text, md5=unix)}\n  size: 10\n  path: notes.txt\n")
    long = b"x\r\n" + b"x" * ((1 << 20) - 4) + b"\r\n"  # the last line end lies across the border of what DVC reads at once
    old.track("long.txt", old.put(long, md5=hashlib.md5(long.replace(b"\r\n", b"\n", 1), usedforsecurity=False).hexdigest()))
    old.track("images", old.folder_of(a=b"a1"))
    old.commit("begin")
    found = import_dvc(ws, old.folder)
    assert (found.brought, found.left_out) == (3, ())
    check_out(ws, "notes.txt", tmp_path / "out")
    assert content(tmp_path / "out") == {"notes.txt": text}
    old.layout = "files/md5"
    old.track("notes.txt", old.put(text))
    old.commit("DVC 3")
    again = import_dvc(ws, old.folder)
    assert (again.found, again.brought, again.there, again.files) == (4, 0, 4, 0)


def test_the_line_ends_of_dvc_2_do_not_count_in_dvc_3(ws: Workspace, repository: Repository) -> None:
    md5 = hashlib.md5(b"one\n", usedforsecurity=False).hexdigest()
    repository.track("notes.txt", repository.put(b"one\r\n", md5=md5))
    repository.commit("begin")
    assert "notes.txt is damaged" in reasons(import_dvc(ws, repository.folder))[0]


def test_pipelines_and_a_cache_and_a_remote_elsewhere(ws: Workspace, repository: Repository, tmp_path: Path) -> None:
    repository.cache = tmp_path / "cache"
    near = repository.put(b"near")
    repository.cache = tmp_path / "remote"
    far = repository.put(b"far")
    (repository.folder / ".dvc" / "config").write_text(
        "[core]\n    remote = store\n[cache]\n    dir = ../../cache\n"
        "['remote \"bucket\"']\n    url = s3://bucket/x\n['remote \"store\"']\n    url = ../../remote\n"
    )
    work = repository.folder / "work"
    work.mkdir()
    stage = {"cmd": "fit", "wdir": "sub", "outs": ["near.bin", "far.bin"], "metrics": [{"score.json": {"cache": False}}]}
    (work / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"fit": stage}}))
    made = {"near.bin": near, "far.bin": far, "score.json": far}
    outs = [{"path": name, "hash": "md5", "md5": md5} for name, md5 in made.items()]
    (work / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"fit": {"cmd": "fit", "outs": outs}}}))
    repository.commit("fit")
    found = import_dvc(ws, work)  # a folder within it will do
    assert [each.path for each in found.versions] == ["work/sub/far.bin", "work/sub/near.bin"]
    assert found.left_out == ()


def test_a_revert_is_a_version_and_an_output_may_go(ws: Workspace, repository: Repository) -> None:
    for data in (b"1", b"2", b"1"):
        repository.track("x", repository.put(data))
        repository.commit("x")
    (repository.folder / "x.dvc").unlink()
    repository.commit("gone")
    repository.git("tag", "after")
    found = import_dvc(ws, repository.folder)
    assert (found.brought, found.tags) == (3, ())
    assert read_version(ws, "x@1").digest == read_version(ws, "x@3").digest != read_version(ws, "x@2").digest


def test_names_that_clash_or_are_taken_are_named(ws: Workspace, repository: Repository) -> None:
    for number, path in enumerate(("a/b", "a-b", "mine", "..strange/é")):
        repository.track(path, repository.put(b"%d" % number))
    repository.commit("begin")
    add(ws, "mine", repository.folder / "mine.dvc")
    found = import_dvc(ws, repository.folder)
    assert [each.dataset for each in found.versions] == ["strange", "a-b"]
    assert reasons(found) == [
        "it would be dataset 'a-b', which a-b is; rename one of them with: dvc move",
        "dataset 'mine' is here already and did not come from mine of this repository; import into another project (--project)",
    ]
    assert len(list_versions(ws, "mine")) == 1


def test_tables_that_do_not_fit_together_are_kept_as_files(ws: Workspace, repository: Repository) -> None:
    repository.track("mixed", repository.folder_of(**{"a.csv": b"x\n1\n", "b.csv": b"other\n1\n"}))
    repository.commit("begin")
    found = import_dvc(ws, repository.folder)
    assert (found.brought, read_version(ws, "mixed").columns) == (1, {})
    assert "is kept as files, and is no table" in found.notes[0].reason


def test_a_tag_that_stands_elsewhere_or_cannot_be_stays(ws: Workspace, repository: Repository) -> None:
    three_revisions(repository)
    repository.git("tag", "v7")
    import_dvc(ws, repository.folder)
    tag_version(ws, "rows.csv@1", "last")
    again = import_dvc(ws, repository.folder)
    assert read_tags(ws, "rows.csv")["last"] == 1
    told = {note.reason for note in again.notes}
    assert "rows.csv@last is version 1 here already, not 2; it stays" in told
    assert any("'v7' reads as a version number" in reason for reason in told)


def test_what_is_not_understood_is_named(ws: Workspace, repository: Repository) -> None:
    repository.track("good", repository.put(b"good"))
    repository.track("odd", "../../etc/passwd")
    repository.track("escapes", repository.put(json.dumps([{"md5": repository.put(b"x"), "relpath": "../x"}]).encode(), suffix=".dir"))
    repository.track("list", repository.put(b'{"no": "list"}', suffix=".dir"))
    (repository.folder / "merge.dvc").write_text("<<<<<<< HEAD\nouts:\n- md5: a\n")
    (repository.folder / "far.dvc").write_text("outs:\n- etag: a\n  path: s3://bucket/far\n")
    repository.commit("begin")
    found = import_dvc(ws, repository.folder)
    assert [each.path for each in found.versions] == ["good"]
    assert {each.path: each.reason.split(";")[0] for each in found.left_out}["odd"] == "'../../etc/passwd' is no md5"
    assert {each.path for each in found.left_out} == {"odd", "escapes", "list"}
    assert {note.what for note in found.notes} == {"merge.dvc", "s3://bucket/far"}


def test_what_is_no_repository_is_refused(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no .*nothing"):
        import_dvc(ws, tmp_path / "nothing")
    with pytest.raises(Invalid, match=r"is no DVC repository: there is no folder \.dvc in it"):
        import_dvc(ws, tmp_path)
    (tmp_path / "bare" / ".dvc").mkdir(parents=True)
    with pytest.raises(Invalid, match=r"Git could not read the history of .*not a git repository"):
        import_dvc(ws, tmp_path / "bare")
    made = Repository(tmp_path / "made")
    made.commit("begin")
    with pytest.raises(Invalid, match="bad revision 'nothing'"):
        import_dvc(ws, made.folder, branch="nothing")
    with pytest.raises(Invalid, match="'--all' is no Git branch"):
        import_dvc(ws, made.folder, branch="--all")
    with pytest.raises(NotFound, match=r"there is no folder .* to look for DVC's files in"):
        import_dvc(ws, made.folder, caches=[tmp_path / "nowhere"])
    (made.folder / ".dvc" / "config").write_text("cache\n")
    with pytest.raises(Invalid, match=r"config was not understood"):
        import_dvc(ws, made.folder)


def test_another_repository_does_not_mix_in(ws: Workspace, repository: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    for number, each in enumerate((repository, other)):
        each.track("x", each.put(b"%d" % number))
        each.commit(f"begin {number}")
    assert import_dvc(ws, repository.folder).brought == 1
    found = import_dvc(ws, other.folder)
    assert (found.brought, len(found.left_out)) == (0, 1)
    assert "dataset 'x' is here already and did not come from x of this repository" in reasons(found)[0]


def test_names_are_made_of_paths() -> None:
    assert dataset_name("data/raw images/x.csv") == "data-raw-images-x.csv"
    with pytest.raises(Invalid, match="no name can be made of the path 'é'"):
        dataset_name("é")


@pytest.mark.slow
@pytest.mark.skipif(not DVC.exists(), reason="DVC is not installed in ~/.cache/tidemill-peers/dvc_peer")
def test_what_dvc_itself_made(ws: Workspace, repository: Repository, tmp_path: Path) -> None:
    home = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "PATH": f"{DVC.parent}:{os.environ['PATH']}",
    }

    def dvc(*words: str) -> None:
        subprocess.run([str(DVC), *words, "--quiet"], cwd=repository.folder, check=True, capture_output=True, env=home)

    dvc("init", "--force")
    images = repository.folder / "data" / "images"
    images.mkdir(parents=True)
    for number in range(3):
        (images / "a.bin").write_bytes(b"%d" % number)
        (images / f"{number}.txt").write_text("text\r\n")
        (repository.folder / "rows.csv").write_text("x\n" + "1\n" * (number + 1))
        dvc("add", "data/images", "rows.csv")
        repository.commit(f"revision {number}")
    found = import_dvc(ws, repository.folder)
    assert (found.commits, found.brought, found.left_out, found.notes) == (3, 6, (), ())
    check_out(ws, "data-images", tmp_path / "out")
    assert content(tmp_path / "out") == content(images)
    assert [version.rows for version in list_versions(ws, "rows.csv")] == [3, 2, 1]
