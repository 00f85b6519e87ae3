"""A dataset that grows by itself: 10,000 events, some twice, some late, and a consumer that is killed, make exactly the distinct ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import world
from tests.services import kafka_cluster
from tidemill.checks.check import list_checks
from tidemill.core.clock import wait_until
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.datasets.contracts import ColumnRule, Contract
from tidemill.datasets.intake import add, append, set_contract
from tidemill.datasets.keys import KeySet, set_key
from tidemill.datasets.marks import read_marks
from tidemill.datasets.versions import find_newest, list_versions, open_table, paths
from tidemill.deploy.folder import Folder
from tidemill.deploy.ingest import IngestCounts, IngestRequest, ingest
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.store.table import open_flow, open_topic

EVENTS = 10_000


@pytest.fixture(params=["file", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("redis", "kafka"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for topics of each kind, with none in it."""
    if request.param == "file":
        yield f"file:{tmp_path}/log"
    elif request.param == "kafka":
        with kafka_cluster() as url:
            yield url
    else:
        redis = pytest.importorskip("redis")
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as connection:
            connection.flushdb()
        yield request.getfixturevalue("redis_url")


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"E{number:05}", "at": (world.START + timedelta(seconds=number)).isoformat(), "x": number / 8, **fields}


def put(url: str, *records: Any) -> None:
    topic = open_topic(url)
    topic.append([("m", record if isinstance(record, bytes) else json.dumps(record).encode()) for record in records])
    topic.close()


def found(url: str) -> list[dict[str, Any]]:
    topic = open_topic(url)
    messages = topic.messages()
    topic.close()
    return [json.loads(message.data) for message in messages]


def request(source: str, **named: Any) -> IngestRequest:
    return IngestRequest(**{"dataset": "events", "source": source, "key": ("id",), "once": True, "claim_after_s": 0.2, **named})


def rows(ws: Workspace, reference: str = "events") -> list[dict[str, Any]]:
    return open_table(ws, reference).to_pylist()


def ids(ws: Workspace) -> list[str]:
    return [row["id"] for row in rows(ws)]


@contextmanager
def started(ws: Workspace, source: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command; it is gone when the block ends."""
    command = [sys.executable, "-m", "tidemill", "data", "ingest", "events", "--from", source, "--home", str(ws.home), "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_messages_become_rows_once_and_bad_ones_are_put_aside_with_the_reason(ws: Workspace, place: str) -> None:
    bad = [b"{", b"\xff", [1], {"id": "E9"}, event(9, more=1), event(9, x="high"), event(9, id=None), event(9, at="noon")]
    put(f"{place}/in", event(1), event(2), *bad, event(1, x=-1.0), event(3))
    told: list[IngestCounts] = []
    done = ingest(ws, request(f"{place}/in"), watch=told.append)
    assert (done.read, done.new, done.duplicates, done.set_aside) == (12, 3, 1, 8)
    assert told[-1].read == 12
    assert sorted(rows(ws), key=lambda row: str(row["id"])) == [
        {"id": f"E0000{n}", "at": world.START + timedelta(seconds=n), "x": n / 8} for n in (1, 2, 3)
    ]
    reasons = " | ".join(sorted(each["reason"] for each in found(f"{place}/in.refused")))
    for says in (
        "not valid JSON",
        "it is list",
        "it lacks at, x",
        "it has more",
        "column 'x' is \"high\"",
        "'id' is null",
        "column 'at' is",
    ):
        assert says in reasons
    assert find_newest(ws, "events.quarantine") is None
    put(f"{place}/in", event(3), event(4))
    assert ingest(ws, request(f"{place}/in", key=())).new == 1


@pytest.mark.slow
def test_killed_twice_every_event_is_a_row_once(ws: Workspace, place: str) -> None:
    rng = np.random.default_rng(7)
    events = EVENTS // 3 if place.startswith("kafka") else EVENTS  # the mock cluster takes its time for each transaction
    order = np.arange(events)
    late = rng.choice(events // 2, events // 20, replace=False)  # they come at the very end, long behind their time
    order = np.concatenate([np.setdiff1d(order, late), rng.permutation(late)])
    sent = order.tolist()
    for number in rng.choice(events, events // 20, replace=False).tolist():
        sent.insert(int(rng.integers(len(sent))), number)
    options = ("--key", "id", "--rows", "200", "--every", "0.05", "--claim-after", "0.2")
    third = len(sent) // 3
    for part in (sent[:third], sent[third : 2 * third]):
        put(f"{place}/in", *map(event, part))
        before = count(ws)
        with started(ws, f"{place}/in", *options) as process:
            assert wait_until(lambda before=before: count(ws) > before or process.poll() is not None, timeout_s=60)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
    put(f"{place}/in", *map(event, sent[2 * third :]))
    with started(ws, f"{place}/in", *options, "--once") as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert json.loads(out)["set_aside"] == 0
    assert sorted(rows(ws), key=lambda row: str(row["id"])) == [
        {"id": f"E{n:05}", "at": world.START + timedelta(seconds=n), "x": n / 8} for n in range(events)
    ]
    assert len(paths(ws, "events")) < 40


def count(ws: Workspace) -> int:
    newest = find_newest(ws, "events")
    return newest.rows if newest is not None else 0


def test_killed_between_the_rows_and_the_topic_nothing_is_doubled(ws: Workspace, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/log/in"
    put(source, event(1), b"{", event(2))
    set_key(ws, "events", ["id"])
    flow = open_flow(source, None, group="ingest-events")
    messages = flow.read(10, wait_s=0)
    append(
        ws,
        "events",
        pa.table({"id": ["E00001", "E00002"], "at": pa.array([world.START] * 2, pa.timestamp("us", tz="UTC")), "x": [0.0, 1.0]}),
    )
    flow.close()  # as a kill would, behind the transaction
    done = ingest(ws, request(source))
    assert (len(messages), done.new, done.duplicates, done.set_aside) == (3, 0, 2, 1)
    assert len(found(f"{source}.refused")) == 1
    assert len(list_versions(ws, "events")) == 1


def test_rows_that_break_the_contract_stop_no_stream(ws: Workspace, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/log/in"
    rules = (ColumnRule(column="x", high=1.0),)
    for policy, taken in (("block", 2), ("quarantine", 2), ("warn", 3)):
        set_contract(ws, policy, Contract(columns=rules, rows_min=9, on_violation=policy))  # type: ignore[arg-type]
        put(f"{source}-{policy}", event(1), event(80), event(2))
        assert ingest(ws, request(f"{source}-{policy}", dataset=policy)).new == taken
        assert len(found(f"{source}-{policy}.refused")) == 3 - taken
    assert {record.result.name for record in list_checks(ws, "dataset:block@1")} == {"x <= 1"}  # a portion may be small
    assert "it breaks the contract: x <= 1" in found(f"{source}-block.refused")[0]["reason"]


def test_two_consumers_share_out_or_the_second_is_told(ws: Workspace, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/log/in"
    put(source, event(1))
    first = open_flow(source, None, group="ingest-events")
    with pytest.raises(Conflict, match="another consumer of group 'ingest-events' reads"):
        ingest(ws, request(source))
    first.close()
    assert ingest(ws, request(source, group="others")).new == 1


@pytest.mark.slow
def test_two_consumers_of_redis_double_nothing(ws: Workspace, redis_url: str) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushdb()
    put(f"{redis_url}/in", *(event(n % 900) for n in range(1000)))
    options = ("--key", "id", "--rows", "50", "--every", "0.01", "--once")
    with started(ws, f"{redis_url}/in", *options) as one, started(ws, f"{redis_url}/in", *options) as other:
        told = [json.loads(process.communicate(timeout=60)[0]) for process in (one, other)]
    assert sorted(ids(ws)) == [f"E{n:05}" for n in range(900)]
    assert sum(each["new"] for each in told) == 900


def test_versions_are_no_more_than_one_in_a_span(ws: Workspace, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/log/in"
    stop: list[bool] = []

    def watch(done: IngestCounts) -> None:
        put(source, event(done.new + 1))
        stop.extend([True] if done.new == 3 else [])

    put(source, event(1))
    began = time.perf_counter()
    done = ingest(ws, request(source, once=False, every_s=0.1), stopping=lambda: bool(stop), watch=watch)
    assert done.portions == 3
    assert time.perf_counter() - began > 0.2


@pytest.mark.slow
def test_told_to_stop_it_finishes_what_it_has_begun(ws: Workspace, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/log/in"
    put(source, *map(event, range(50)))
    with started(ws, source, "--key", "id") as process:
        assert wait_until(lambda: count(ws) == 50, timeout_s=60)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert (json.loads(out)["new"], json.loads(out)["lag"]) == (50, 0)


def test_what_cannot_be_taken_is_told(ws: Workspace, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/log/in"
    with pytest.raises(Invalid, match=r"tells the rows of dataset 'events' apart.* name the columns that do: --key"):
        ingest(ws, request(source, key=()))
    with pytest.raises(NotFound, match="there is no folder"):
        ingest(ws, request(str(tmp_path / "nothing"), key=()))
    ingest(ws, request(source))
    with pytest.raises(KeySet, match="are told apart by id"):
        ingest(ws, request(source, key=("at",)))
    with pytest.raises(ActionRefused, match=r"datasets\.write"):
        ingest(world.acting(ws, "vic", "viewer"), request(source))


# Folders


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def write(path: Path, text: str, *, age_s: float = 10.0) -> Path:
    path.write_text(text)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def lines(*records: Any) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def test_each_file_is_taken_once_when_it_is_whole(ws: Workspace, inbox: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "x": [1.0, 2.0]}), inbox / "a.parquet")
    whole = (inbox / "a.parquet").read_bytes()
    write(inbox / "b.csv", "id,x\n3,3.5\n")
    write(inbox / "c.jsonl", lines({"id": 4, "x": 4}))
    (inbox / "d.parquet").write_bytes(whole[: len(whole) // 2])
    write(inbox / "e.jsonl", '{"id": 5, "x"')
    write(inbox / "f.csv", "id,x\n6,1\n", age_s=0.5)
    write(inbox / ".g.csv", "id,x\n7,1\n")
    write(inbox / "notes.txt", "id,x\n8,1\n")
    folder = Folder(ws, "events", inbox, rows=100)
    assert sum(taken.new for taken, _ in folder.take()) == 4
    assert (folder.waiting, folder.growing, folder.refused) == (3, True, [])
    assert [row["id"] for row in rows(ws)] == [1, 2, 3, 4]
    (inbox / "d.parquet").write_bytes(whole)
    write(inbox / "e.jsonl", '{"id": 5, "x": 5}', age_s=60)
    os.utime(inbox / "f.csv", (0, 0))
    assert [taken.new for taken, _ in Folder(ws, "events", inbox, rows=100).take()] == [2, 1, 1]
    assert [row["id"] for row in rows(ws)] == [1, 2, 3, 4, 1, 2, 5, 6]  # no key: another name is another file
    assert list(Folder(ws, "events", inbox, rows=100).take()) == []
    (inbox / "a.parquet").touch()
    assert list(Folder(ws, "events", inbox, rows=100).take()) == []


def test_small_files_are_taken_together_and_a_large_one_in_portions(ws: Workspace, inbox: Path) -> None:
    for number in range(20):
        pq.write_table(pa.table({"id": [number]}), inbox / f"{number:02}.parquet")
    pq.write_table(pa.table({"id": list(range(100, 1100))}), inbox / "large.parquet")
    assert [taken.new for taken, _ in Folder(ws, "events", inbox, rows=300).take()] == [20, 300, 300, 300, 100]
    assert len(list_versions(ws, "events")) == 5


def test_killed_in_the_middle_of_a_file_the_rest_is_taken(ws: Workspace, inbox: Path) -> None:
    write(inbox / "a.jsonl", lines(*({"id": n} for n in range(10))))
    taking = Folder(ws, "events", inbox, rows=4).take()
    assert next(taking)[0].new == 4
    taking.close()
    assert [taken.new for taken, _ in Folder(ws, "events", inbox, rows=3).take()] == [2, 3, 1]
    assert [row["id"] for row in rows(ws)] == list(range(10))
    (told,) = read_marks(ws, "events", f"folder {inbox}").values()
    assert told == "whole"


def test_two_who_watch_one_folder_double_nothing(ws: Workspace, inbox: Path) -> None:
    for number in range(3):
        write(inbox / f"{number}.jsonl", lines({"id": number}))
    one, other = (Folder(ws, "events", inbox, rows=1) for _ in range(2))
    first = one.take()
    assert next(first)[0].new == 1
    second = other.take()
    assert next(second)[0].new == 1
    for taking in (first, second, one.take(), other.take()):
        list(taking)
    assert sorted(row["id"] for row in rows(ws)) == [0, 1, 2]


def test_bad_lines_are_set_aside_with_the_reason_and_bad_files_refused(ws: Workspace, inbox: Path) -> None:
    write(inbox / "a.jsonl", lines({"id": 1, "x": 1.5}) + "{\n" + lines({"id": 2}, {"id": 3, "x": "high"}, {"id": 4, "x": 4.0}))
    write(inbox / "b.csv", "id,y\n1,2\n")
    write(inbox / "c.csv", "id,x\n1,2,3\n")
    write(inbox / "d.csv", "id,x\n9,high\n")
    done = ingest(ws, request(str(inbox)))
    assert (done.new, done.set_aside, done.lag) == (2, 3, 0)
    aside = rows(ws, "events.quarantine")
    assert [row["quarantine_reason"].split(";")[0] for row in aside] == [
        "it is not valid JSON: Input data was truncated", "it lacks x", "column 'x' is \"high\"",
    ]  # fmt: skip
    assert [row["quarantine_row"] for row in aside] == ["{\n", '{"id":2}', '{"id":3,"x":"high"}']
    assert sorted(refused.split(":")[0] for refused in done.refused) == ["b.csv", "c.csv", "d.csv"]
    for says in ("have other columns than version", "Expected 2 columns, got 3", "invalid value 'high'"):
        assert says in " | ".join(done.refused)
    again = ingest(ws, request(str(inbox)))
    assert (again.read, again.refused, len(rows(ws, "events.quarantine"))) == (0, (), 3)


def test_rows_set_aside_of_other_columns_begin_anew_and_the_others_stay_behind(ws: Workspace) -> None:
    set_contract(ws, "events", Contract(columns=(ColumnRule(column="id", low=1),), on_violation="quarantine"))
    append(ws, "events", pa.table({"id": [0, 1]}))
    add(ws, "events", pa.table({"id": [1], "y": [2]}))
    append(ws, "events", pa.table({"id": [0], "y": [3]}))
    reason = {"quarantine_reason": "it breaks the contract: id >= 1", "quarantine_row": None}
    assert rows(ws, "events.quarantine") == [{"id": 0, "y": 3, **reason}]
    assert rows(ws, "events.quarantine@1") == [{"id": 0, **reason}]
