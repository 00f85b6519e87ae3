"""Batch jobs through the SDK: a worker scores the table, as the one who asked."""

import pyarrow as pa
import pytest

from tests import world
from tidemill.automate.worker import work_once
from tidemill.client.client import Client
from tidemill.core.errors import Invalid
from tidemill.datasets.versions import add
from tidemill.govern.workspace import Workspace


def test_a_table_is_scored_by_a_worker(client: Client, ws: Workspace) -> None:
    world.model(ws)
    add(ws, "rows", pa.table({"id": [1, 2], "x": [0.0, 1.0]}))
    job = client.batches.score("scores", model="delay@1", sql="SELECT * FROM rows ORDER BY id DESC", key="id", reason="for the report")
    assert (job["kind"], job["state"]) == ("batch", "queued")
    done = work_once(ws, worker="w")
    assert done is not None
    assert (done.id, done.state, done.error) == (job["id"], "done", None)
    result = client.jobs.get(job["id"])["result"]
    assert (result["dataset"], result["version"], result["rows"]) == ("scores", 1, 2)
    assert client.datasets.get("scores@1")["rows"] == 2


def test_what_cannot_be_scored_fails_the_job_with_its_sentence(client: Client, ws: Workspace) -> None:
    world.model(ws)
    add(ws, "rows", pa.table({"x": ["a"]}))
    job = client.batches.score("scores", model="delay@1", data="rows")
    work_once(ws, worker="w")
    assert "column 'x' is of type string" in client.jobs.get(job["id"])["error"]


@pytest.mark.parametrize("named", [{"data": "/etc/rows.parquet"}, {"data": "rows", "executor": "local:500"}])
def test_files_and_processes_of_the_server_are_its_own(client: Client, named: dict[str, str]) -> None:
    with pytest.raises(Invalid, match="a job of the server reads datasets"):
        client.batches.score("scores", model="delay@1", **named)


def test_a_request_that_is_none_is_refused(client: Client) -> None:
    with pytest.raises(Invalid, match="scored by one thing"):
        client.batches.score("scores", data="rows")
