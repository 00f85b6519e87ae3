"""The journal as rows: by time, with labels, and by queries that see nothing else."""

from datetime import timedelta

import pytest

from tests.deploy import worlds
from tests.deploy.worlds import Ledger
from tests.world import START
from tidemill.deploy.endpoints import EndpointNotFound, create_endpoint
from tidemill.deploy.journal_log import JournalQueryRefused, read_log
from tidemill.govern.workspace import Workspace


@pytest.fixture
def answered(ws: Workspace):
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    ledger = Ledger(ws)
    ledger.predict({"a": 0.2}, at=START, carrier="UA")
    ledger.predict({"b": 0.8}, at=START + timedelta(hours=2), carrier="AA")
    ledger.predict({"b": 0.1}, at=START + timedelta(hours=2), variant="v2", shadow=True)
    ledger.label({"a": 1.0, "elsewhere": 0.0})
    yield ws
    ledger.close()


def test_the_log_is_what_callers_were_told_newest_first(answered: Workspace) -> None:
    found = read_log(answered, "delay")
    told = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert [(row["id"], row["score"], row["input.carrier"], row["label"]) for row in told] == [
        ("b", 0.8, "AA", None),
        ("a", 0.2, "UA", 1.0),
    ]
    assert not found.more
    assert read_log(answered, "delay", limit=1).more
    since = read_log(answered, "delay", since=START + timedelta(hours=1), sql="SELECT id, shadow FROM predictions ORDER BY shadow")
    assert since.rows == (("b", False), ("b", True))
    joined = "SELECT avg(value) FROM predictions JOIN labels USING (id)"
    assert read_log(answered, "delay", until=START + timedelta(hours=1), sql=joined).rows == ((1.0,),)


@pytest.mark.parametrize(
    "sql",
    ["DROP VIEW predictions", "SELECT 1; SELECT 2", "SELEC", "SELECT * FROM read_csv('/etc/passwd')", "COPY predictions TO '/tmp/x'",
     "SELECT * FROM labels_of_others", "SELECT CAST(id AS INT) FROM predictions", "SET enable_external_access = true"],
)  # fmt: skip
def test_a_query_sees_the_journal_and_nothing_else(answered: Workspace, sql: str) -> None:
    with pytest.raises(JournalQueryRefused, match="write a SELECT of DuckDB over the tables predictions and labels"):
        read_log(answered, "delay", sql=sql)


def test_an_endpoint_that_is_not_there_is_told_of(ws: Workspace) -> None:
    with pytest.raises(EndpointNotFound):
        read_log(ws, "nothing")
