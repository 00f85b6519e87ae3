"""The nouns of the API, through the SDK, on the app in this process."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests import world
from tidemill.client.client import Client
from tidemill.core.codec import decode_any
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.govern.workspace import Workspace
from tidemill.registry.cards import attach_card
from tidemill.server.inprocess import InProcessTransport


def test_status_names_the_world(client: Client, ws: Workspace) -> None:
    status = client.status()
    assert status["home"] == str(ws.home)
    assert status["now"] == "2013-06-01T00:00:00Z"
    assert status["actor"]["role"] == "admin"
    assert status["serving_url"] == "http://127.0.0.1:7701"


def test_settings_mask_secrets_and_name_their_origin(client: Client) -> None:
    settings = {setting["name"]: setting for setting in client.settings()}
    assert settings["port"] == {"name": "port", "value": 7700, "origin": "default"}


def test_a_dataset_is_sent_as_a_file_a_frame_or_text(client: Client, tmp_path: Path) -> None:
    table = world.flights(10)
    parquet.write_table(table, tmp_path / "f.parquet")
    first = client.datasets.add("flights", tmp_path / "f.parquet", description="all flights")
    assert (first["version"]["version"], first["version"]["rows"], first["set_aside"]) == (1, 10, 0)
    second = client.datasets.append("flights", world.flights(5))
    assert (second["version"]["version"], second["version"]["rows"]) == (2, 15)
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    assert client.datasets.add("text", tmp_path / "t.csv")["version"]["columns"] == {"a": "int64", "b": "string"}
    assert [version["version"] for version in client.datasets.versions("flights")] == [2, 1]
    assert client.datasets.get("flights@1")["digest"] == first["version"]["digest"]
    assert [dataset["name"] for dataset in client.datasets.list()] == ["flights", "text"]


def test_what_is_not_a_table_is_refused_and_nothing_stays_behind(client: Client, ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(Invalid, match="could not be read as parquet"):
        client.datasets.add("bad", tmp_path / "bad.parquet")
    with pytest.raises(Invalid, match=r"is not a \.parquet, \.csv or \.tsv file"):
        client.datasets.add("bad", tmp_path / "missing.parquet")
    with pytest.raises(Invalid, match="a dict cannot be sent"):
        client.datasets.add("bad", {"a": [1]})
    client.datasets.add("flights", world.flights())
    with pytest.raises(Invalid, match="have other columns than version 1: missing carrier"):
        client.datasets.append("flights", pa.table({"x": [1]}))
    assert client.datasets.list()[0]["name"] == "flights"
    assert not list((ws.state / "tmp").iterdir())


def test_rows_arrive_once_by_key_or_by_what_the_caller_calls_them(client: Client, transport: InProcessTransport) -> None:
    rows = [{"id": 1, "x": 0.5}, {"id": 2, "x": 1}]
    first = client.datasets.append("events", rows, once="a")
    assert (first["new"], first["duplicates"], first["set_aside"]) == (2, 0, 0)
    assert client.datasets.append("events", rows, once="a") == first
    assert client.datasets.append("events", rows)["version"]["rows"] == 4
    assert client.datasets.key("events") is None
    assert client.datasets.set_key("other", ["id"], reason="they come twice")["columns"] == ["id"]
    assert client.datasets.append("other", [*rows, rows[0]])["duplicates"] == 1
    assert client.datasets.append("other", pa.table({"id": [2, 3], "x": [1.0, 2.0]}))["new"] == 1
    with pytest.raises(Conflict, match="are told apart by id"):
        client.datasets.set_key("other", ["x"])
    with pytest.raises(Invalid, match=r"1 of 1 rows cannot be rows .* column 'x' is \"high\"; expected double"):
        client.datasets.append("other", [{"id": 4, "x": "high"}])
    place = "/api/v1/projects/default/datasets/other/rows"
    headers = {"Content-Type": "application/json", "Idempotency-Key": "b"}
    told = [transport.request("POST", place, body=b'{"id": 5, "x": 1}\n{"id": 6, "x": 1}\n', headers=headers) for _ in range(2)]
    assert [answer.status for answer in told] == [201, 201]
    assert told[0].body == told[1].body
    for body, says in (
        (b"{", "line 1 is not valid JSON"),
        (b"[1,", "the body is not valid JSON"),
        (b"\xff\xfe", "line 1 is not valid JSON"),
        (b"17", "row 1: it is int; expected an object"),
        (b"", "there are no rows"),
        (b'[{"id": 7}]', "row 1: it lacks x"),
    ):
        answer = transport.request("POST", place, body=body, headers={"Content-Type": "application/json"})
        assert (answer.status, says in answer.body.decode()) == (400, True)
    assert transport.request("POST", place, body=b"[1]", headers={"Idempotency-Key": "x" * 256}).status == 400
    assert client.datasets.get("other")["rows"] == 5


def test_rows_that_arrive_are_described_with_their_header(transport: InProcessTransport) -> None:
    paths = decode_any(transport.request("GET", "/openapi.json").body)["paths"]
    told = paths["/api/v1/projects/{project}/datasets/{name}/rows"]["post"]
    assert {each["in"] for each in told["parameters"] if each["name"] == "Idempotency-Key"} == {"header"}
    assert set(told["requestBody"]["content"]) == {"application/json", "application/octet-stream"}


def test_a_run_is_logged_and_read_back(client: Client) -> None:
    run = client.runs.start("delay", "first", params={"depth": 3}, tags={"team": "ops"})["id"]
    client.runs.log_params(run, {"rate": 0.1})
    for step, loss in enumerate((0.9, 0.5)):
        client.runs.log_metrics(run, {"loss": loss, "a/b": 1.0}, step=step)
    client.runs.set_tags(run, {"team": "dev"})
    client.runs.log_artifact(run, "plots/roc curve.txt", b"bytes")
    ended = client.runs.end(run, message="done")
    assert ended["params"] == {"depth": "3", "rate": "0.1"}
    assert ended["metrics"] == {"a/b": 1.0, "loss": 0.5}
    assert (ended["status"], ended["tags"]) == ("finished", {"team": "dev"})
    assert [point["value"] for point in client.runs.history(run, "loss")] == [0.9, 0.5]
    assert len(client.runs.history(run, "a/b")) == 2
    assert client.runs.artifact(run, "plots/roc curve.txt") == b"bytes"
    with pytest.raises(NotFound, match="has no artifact 'nothing'"):
        client.runs.artifact(run, "nothing")
    with pytest.raises(Conflict, match="param 'depth' of run"):
        client.runs.log_params(run, {"depth": 4})
    assert client.runs.list(experiment="delay", kinds=["run", "pipeline"])[0]["id"] == run
    assert client.runs.list(kinds=["trial"]) == []


def test_a_run_that_is_asked_for_twice_starts_once(client: Client) -> None:
    body = {"experiment": "e", "name": "n", "id": "0" * 32}
    first = client.caller.post("/runs", body)
    assert client.caller.post("/runs", body)["started_at"] == first["started_at"]
    assert len(client.runs.list()) == 1


def test_models_are_read_and_promoted(client: Client, ws: Workspace) -> None:
    version = attach_card(ws, world.model(ws), "# The delay model")
    assert client.models.list()[0]["name"] == "delay"
    assert client.models.get("delay@1")["bundle"] == version.bundle
    client.models.promote("delay", 1, reason="first")
    world.tick(ws, hours=1)
    world.model(ws, slope=2.0)
    client.models.promote("delay", 2)
    assert client.models.aliases("delay") == {"champion": 2}
    assert client.models.aliases("delay", at=world.START) == {"champion": 1}
    assert [span["version"] for span in client.models.alias_history("delay")] == [2, 1]
    assert client.models.get("delay@champion")["version"] == 2
    assert client.models.card("delay@1") == "# The delay model"
    with pytest.raises(NotFound, match="has no card"):
        client.models.card("delay@2")
    assert client.models.checks("delay@1") == []
    with pytest.raises(NotFound, match="there is no model 'delay@9'"):
        client.models.promote("delay", 9)


def test_an_endpoint_is_made_rolled_out_and_rolled_back(client: Client, ws: Workspace) -> None:
    world.model(ws)
    world.model(ws, slope=2.0)
    made = client.endpoints.create("delay", "delay@1", sticky_by="tailnum", reason="first")
    assert made["route"]["shares"] == {"v1": 1.0}
    with pytest.raises(Conflict, match="is there already"):
        client.endpoints.create("delay", "delay@1")
    world.tick(ws, hours=1)
    rollout = client.endpoints.rollout("delay", "delay@2", reason="newer")
    assert rollout["plan"]["policy"] == "canary"
    assert client.endpoints.get("delay")["route"]["shares"] == pytest.approx({"v1": 0.95, "v2": 0.05})
    assert client.endpoints.get("delay", at=world.START)["route"]["shares"] == {"v1": 1.0}
    with pytest.raises(Conflict, match="is in a rollout of v2 already"):
        client.endpoints.rollout("delay", "delay@2")
    world.tick(ws, hours=1)
    assert client.endpoints.roll_back("delay", reason="enough")["route"]["shares"] == {"v1": 1.0}
    assert [r["state"] for r in client.endpoints.rollouts("delay")] == ["rolled_back"]
    assert len(client.endpoints.routes("delay")) == 3
    assert [e["name"] for e in client.endpoints.list()] == ["delay"]


def test_rules_are_set_and_listed(client: Client) -> None:
    rule = {"name": "monthly", "when": {"on": "schedule", "cron": "0 6 1 * *"}, "do": {"do": "run_pipeline", "pipeline": "train"}}
    client.rules.set(rule, reason="keep it fresh")
    assert [found["name"] for found in client.rules.list()] == ["monthly"]
    assert client.rules.firings() == []
    with pytest.raises(Invalid, match=r"schedule 'never' was not understood.*\$\.rule\.when"):
        client.rules.set({**rule, "when": {"on": "schedule", "cron": "never"}})
    assert client.controller()["open_jobs"] == 0
    assert client.jobs.list(states=["queued"]) == []
    with pytest.raises(NotFound, match="there is no job"):
        client.jobs.get("nothing")


def test_features_are_planned_and_applied(client: Client) -> None:
    table = pa.table({"origin": ["JFK"], "at": pa.array([world.START], pa.timestamp("us", tz="UTC")), "wind": [3.0]})
    client.datasets.add("weather", table)
    view = {
        "name": "wind",
        "entity": ["origin"],
        "source": "weather",
        "event_timestamp": "at",
        "features": [{"name": "wind", "column": "wind"}],
    }
    planned = client.features.plan([view])
    assert [change["action"] for change in planned["changes"]] == ["create"]
    client.features.apply([view], [{"name": "delay", "features": ["wind:wind"]}], reason="first")
    assert [found["name"] for found in client.features.views()] == ["wind"]
    assert [found["name"] for found in client.features.services()] == ["delay"]
    assert client.features.views(search="nobody") == []
    client.features.apply([{**view, "owner": "ops"}], [{"name": "delay", "features": ["wind:wind"]}])
    assert [found["version"] for found in client.features.versions("wind")] == [2, 1]
    assert [(use["view"], use["service"]) for use in client.features.usage("wind")] == [("wind@2", "delay@2"), ("wind@1", "delay@1")]
    assert [change["what"] for change in client.features.rollback("delay", 1)["changes"]] == [["owner"], ["view wind is now version 3"]]
    assert client.features.materialize("wind")["stored"] == 1
    (known,) = client.features.get("delay", [{"origin": "JFK"}])["rows"]
    assert (list(known["features"]), list(known["newest"]), known["missing"]) == (["wind"], ["wind@3"], [])
    with pytest.raises(Invalid, match="row 1 has no wind"):
        client.features.get("delay", [{"origin": "XXX"}], missing="fail")


def test_the_audit_log_tells_and_proves(client: Client) -> None:
    client.datasets.add("flights", world.flights(), reason="a start")
    event = client.audit.list(kinds=["dataset.added"])[0]
    assert (event["actor"], event["reason"], event["subject"]) == ("owner", "a start", "dataset:flights")
    assert [e["seq"] for e in client.audit.list(newest_first=False, after=1)] == [2]
    assert client.audit.verify()["verified"] is True
    client.datasets.append("flights", world.flights())
    assert client.audit.lineage("dataset:flights@2")[0]["source"] == "dataset:flights@1"
    assert client.audit.lineage("dataset:flights@1", direction="downstream")[0]["relation"] == "succeeded"


def test_limits_are_bounded(transport: InProcessTransport) -> None:
    for limit in ("0", "1001", "-1", "many"):
        assert transport.request("GET", f"/api/v1/projects/default/runs?limit={limit}").status == 400
