"""Upkeep gives disk back, and nothing that anybody still needs."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests import world
from tests.automate.projects import project
from tidemill.automate.upkeep import ask_upkeep, collect, count_objects, roots, upkeep_due
from tidemill.automate.worker import ask_pipeline, run_pipeline_job
from tidemill.checks.check import CheckResult
from tidemill.core.clock import parse_moment
from tidemill.core.ids import Digest
from tidemill.datasets.versions import add, open_table
from tidemill.deploy.endpoints import create_endpoint
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace, create_project
from tidemill.pipelines.artifacts import put_table
from tidemill.registry.cards import attach_card
from tidemill.registry.trash import delete_model
from tidemill.registry.versions import list_versions, register
from tidemill.store.trees import read_tree
from tidemill.tracking.runs import delete_run, end_run, log_artifact, read_run, start_run
from tidemill.tracking.trash import delete_runs
from tidemill.tracking.uploads import find_artifact

AT_ONCE = timedelta(0)


def run_with_file(ws: Workspace, data: bytes, *, name: str = "r") -> str:
    run = start_run(ws, "delay", name=name).id
    log_artifact(ws, run, "data.bin", data)
    end_run(ws, run)
    return run


def test_what_a_purged_run_alone_had_is_freed_and_counted(any_ws: Workspace) -> None:
    shared, own = b"s" * 5000, b"o" * 7000
    kept, gone = run_with_file(any_ws, shared), run_with_file(any_ws, own)
    log_artifact(any_ws, gone, "shared.bin", shared)
    delete_runs(any_ws, [gone])
    waiting = collect(any_ws, grace=AT_ONCE)
    assert (waiting.runs, waiting.before, waiting.freed_bytes) == ((), waiting.after, 0)
    done = collect(any_ws, now=True, grace=AT_ONCE)
    assert done.runs == (gone,)
    assert (done.before.objects - done.after.objects, done.before.size_bytes - done.after.size_bytes) == (1, 7000)
    assert done.after == count_objects(any_ws.objects)
    assert any_ws.objects.get(find_artifact(any_ws, kept, "data.bin").digest) == shared


def test_what_was_stored_a_moment_ago_is_left_for_its_writer(ws: Workspace) -> None:
    loose = ws.objects.put(b"stored, and about to be recorded")
    done = collect(ws, now=True)
    assert (done.young, done.before) == (1, done.after)
    assert ws.objects.has(loose)
    assert collect(ws, now=True, grace=AT_ONCE).freed_bytes == len(b"stored, and about to be recorded")


def test_all_that_is_alive_stays_readable(any_ws: Workspace) -> None:
    ws = any_ws
    add(ws, "flights", world.flights(5))
    add(ws, "flights", world.flights(9))
    reference = put_table(ws.objects, pa.table({"score": np.zeros(10)}))
    checked = CheckResult(name="quality", verdict="pass", summary="fine")
    version = register(ws, "late", world.bundle(ws), checks=[checked], tags={"reference": reference})
    version = attach_card(ws, version, "# A card")
    run = run_with_file(ws, b"kept")
    for _ in range(2):
        collect(ws, now=True, grace=AT_ONCE)
    assert open_table(ws, "flights@1").num_rows == 5
    assert open_table(ws, "flights@2").num_rows == 9
    for entry in read_tree(ws.objects, version.bundle or Digest("")).entries:
        assert ws.objects.get(entry.digest)
    assert ws.objects.has(Digest(reference))
    assert ws.objects.get(version.card or Digest("")) == b"# A card"
    assert read_run(ws, run).artifacts[0].size_bytes == 4
    with ws.catalog.reading() as tx:
        assert all(ws.objects.has(digest) for digest in set(roots(tx)) if digest != version.bundle)


def test_what_a_registered_version_came_of_stays(ws: Workspace) -> None:
    run = run_with_file(ws, b"weights")
    register(ws, "late", world.bundle(ws), run=read_run(ws, run).id)
    delete_run(ws, run)
    done = collect(ws, now=True, grace=AT_ONCE)
    assert (done.runs, done.kept) == ((), (f"run:{run}",))
    delete_model(ws, "late")
    done = collect(ws, now=True, grace=AT_ONCE)
    assert done.runs == (run,)
    assert done.models
    assert done.after.objects == 0


def test_a_version_behind_an_endpoint_stays_though_it_was_deleted(ws: Workspace) -> None:
    version = world.model(ws, "late")
    create_endpoint(ws, "late", "late@1")
    delete_model(ws, "late")
    done = collect(ws, now=True, grace=AT_ONCE)
    assert done.models == ()
    assert ws.objects.has(version.bundle or Digest(""))


def test_trash_is_emptied_in_every_project(ws: Workspace) -> None:
    create_project(ws, "north")
    north = ws.acting(ws.actor, "north")
    gone = [run_with_file(ws, b"1"), run_with_file(north, b"2")]
    stays = run_with_file(north, b"3")
    delete_runs(ws, gone[:1])
    delete_runs(north, gone[1:])
    assert set(collect(ws, now=True, grace=AT_ONCE).runs) == set(gone)
    assert north.objects.get(find_artifact(north, stays, "data.bin").digest) == b"3"


@pytest.mark.slow
def test_what_steps_of_a_purged_pipeline_left_goes_with_it(ws: Workspace) -> None:
    job = ask_pipeline(ws, project(ws.home))
    run = run_pipeline_job(ws, job)["run"]
    collect(ws, now=True, grace=AT_ONCE)
    before = count_objects(ws.objects)
    assert before.objects > 0
    delete_runs(ws, [run])
    done = collect(ws, now=True, grace=AT_ONCE)
    assert run in done.runs
    assert len(done.runs) > 1
    assert done.after.objects < before.objects
    assert run_pipeline_job(ws, job)["run"] != run  # and it can be run again


@pytest.mark.slow
def test_compacting_gives_the_catalogs_disk_back(ws: Workspace, tmp_path: Path) -> None:
    run = start_run(ws, "delay", name="r", tags={f"t{n}": "x" * 4000 for n in range(500)}).id
    delete_runs(ws, [run])
    grown = collect(ws, now=True)
    done = collect(ws, compact=True)
    assert done.catalog_bytes_after < grown.catalog_bytes_before / 2
    assert done.freed_bytes > 1_000_000


def test_what_upkeep_freed_is_told_in_the_audit_log(ws: Workspace) -> None:
    run = run_with_file(ws, b"o" * 7000)
    delete_runs(ws, [run])
    done = collect(ws, now=True, grace=AT_ONCE)
    told = list_events(ws, subject="workspace", limit=1)[0]
    assert (told.kind, told.actor) == ("upkeep.done", "owner")
    assert told.body == {
        "experiments": 0,
        "runs": 1,
        "logged_models": 0,
        "models": 0,
        "datasets": 0,
        "objects": 1,
        "freed_bytes": done.freed_bytes,
    }
    assert done.freed_bytes >= 7000


@pytest.mark.parametrize(
    ("since", "now", "due"),
    [
        ("2026-05-02T23:59Z", "2026-05-03T00:00Z", "2026-05-03"),
        ("2026-05-03T00:00Z", "2026-05-03T23:59Z", None),
        ("2026-04-01T12:00Z", "2026-05-03T12:00Z", "2026-05-03"),  # after a month away: once
    ],
)
def test_daily_upkeep_is_due_at_midnight(since: str, now: str, due: str | None) -> None:
    found = upkeep_due(timedelta(days=1), since=parse_moment(since), now=parse_moment(now))
    assert found == (None if due is None else parse_moment(due))


def test_upkeep_that_waits_is_not_asked_for_again(any_ws: Workspace) -> None:
    ws = any_ws
    since, day = ws.clock.now(), timedelta(days=1)
    job = ask_upkeep(ws, since=since, now=since + day)
    assert job is not None
    assert (job.kind, job.state) == ("upkeep", "queued")
    assert ask_upkeep(ws, since=since + day, now=since + 2 * day) is None


def test_upkeep_by_schedule_can_be_turned_off(tmp_path: Path) -> None:
    with world.workspace(tmp_path / "home", gc_every_hours=0) as ws:
        assert ask_upkeep(ws, since=ws.clock.now(), now=ws.clock.now() + timedelta(days=30)) is None


def test_only_an_admin_cleans_up(ws: Workspace) -> None:
    with pytest.raises(ActionRefused, match=r"tracking\.admin"):
        collect(world.acting(ws, "dev", "developer"))


@pytest.mark.slow
def test_a_bucket_is_swept_too(tmp_path: Path, s3_url: str) -> None:
    with world.workspace(tmp_path / "home", objects=s3_url) as ws:
        before = count_objects(ws.objects)
        kept, gone = run_with_file(ws, b"kept in a bucket"), run_with_file(ws, b"gone from the bucket")
        world.model(ws, "late")
        delete_runs(ws, [gone])
        done = collect(ws, now=True, grace=AT_ONCE)
        assert done.before.objects - done.after.objects >= 1
        assert ws.objects.get(find_artifact(ws, kept, "data.bin").digest) == b"kept in a bucket"
        assert done.after.objects >= before.objects
        assert list_versions(ws, "late")[0].bundle is not None
        assert all(ws.objects.has(entry.digest) for entry in read_tree(ws.objects, list_versions(ws, "late")[0].bundle).entries)  # type: ignore[arg-type]
