"""MLflow's API in front of the app: who may come in, which project, and how what goes wrong is told."""

import json
from base64 import b64encode
from typing import Any

import pytest

from tests import world
from tidemill.client.transport import Response
from tidemill.core.settings import load_settings
from tidemill.govern.keys import issue_key, revoke_key
from tidemill.govern.workspace import Workspace, create_project, grant_role
from tidemill.server.app import create_app
from tidemill.server.inprocess import InProcessTransport
from tidemill.tracking.experiments import create_experiment, find_experiment

API = "/api/2.0/mlflow"


def ask(transport: InProcessTransport, method: str, path: str, body: Any = None, **headers: str) -> Response:
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    return transport.request(method, path, body=data, headers=sent)


def told(answer: Response) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error_code"]


def test_health_and_version_are_mlflows(transport: InProcessTransport) -> None:
    assert [(a.status, a.body) for a in (ask(transport, "GET", "/health"), ask(transport, "GET", "/version"))] == [
        (200, b"OK"), (200, b"3.17.2"),
    ]  # fmt: skip
    assert [ask(transport, "GET", path).status for path in ("/livez", "/readyz", "/api/v1/status")] == [200, 200, 200]


@pytest.mark.parametrize("prefix", ["/api/2.0/mlflow", "/ajax-api/2.0/mlflow"])
def test_each_prefix_leads_to_the_same(transport: InProcessTransport, prefix: str) -> None:
    answer = ask(transport, "GET", prefix + "/experiments/get-by-name?experiment_name=Default")
    assert json.loads(answer.body)["experiment"]["experiment_id"] == "0"


def test_what_the_server_offers_is_told(transport: InProcessTransport) -> None:
    told = json.loads(ask(transport, "GET", "/api/3.0/mlflow/server-info").body)
    assert told["store_type"] == "SqlStore"
    assert told["workspaces_enabled"] is True
    assert told["multipart_uploads_enabled"] is False


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("GET", "/api/2.0/mlflow/gateway/endpoints", "the AI gateway"), ("GET", "/api/2.0/mlflow/webhooks", "webhooks"),
        ("POST", "/api/3.0/mlflow/scorers/register", "scorers"), ("POST", "/api/3.0/mlflow/datasets/create", "evaluation datasets"),
        ("GET", "/api/3.0/mlflow/label-schemas/list", "label schemas"), ("POST", "/api/3.0/mlflow/issues", "issues of traces"),
        ("POST", "/api/3.0/mlflow/prompt-optimization/jobs", "prompt optimisation"),
        ("POST", "/api/3.0/mlflow/traces/metrics", "metrics of traces"),
    ],
)  # fmt: skip
def test_parts_that_are_not_there_say_so_by_name(transport: InProcessTransport, method: str, path: str, what: str) -> None:
    answer = ask(transport, method, path, {} if method == "POST" else None)
    assert told(answer) == (501, "NOT_IMPLEMENTED")
    assert json.loads(answer.body)["message"].startswith(f"Tidemill does not support {what};")


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/api/2.0/mlflow/nothing", 404, "there is no GET /api/2.0/mlflow/nothing in the MLflow API"),
        ("PUT", "/api/2.0/mlflow/experiments/create", 405, "PUT is not possible on /api/2.0/mlflow/experiments/create; it takes: POST"),
        ("DELETE", "/api/2.0/mlflow/logged-models/m-1/none", 404, "there is no DELETE"),
    ],
)
def test_paths_that_are_not_there_are_told(transport: InProcessTransport, method: str, path: str, status: int, sentence: str) -> None:
    answer = ask(transport, method, path)
    assert told(answer) == (status, "ENDPOINT_NOT_FOUND")
    assert sentence in json.loads(answer.body)["message"]


def test_other_paths_are_not_mlflows(transport: InProcessTransport) -> None:
    assert json.loads(ask(transport, "GET", "/api/v1/nothing").body)["status"] == 404
    assert "error_code" not in json.loads(ask(transport, "GET", "/nothing").body)


def test_foreign_pages_are_kept_out(transport: InProcessTransport) -> None:
    assert told(ask(transport, "POST", API + "/experiments/create", {"name": "x"}, origin="https://evil.example"))[0] == 403
    assert told(ask(transport, "GET", API + "/experiments/get?experiment_id=0", host="evil.example"))[0] == 403
    answer = ask(transport, "PUT", "/api/2.0/mlflow-artifacts/artifacts/0/a/artifacts/x", b"x", origin="https://evil.example")
    assert told(answer)[0] == 403


def test_the_body_has_a_limit(ws: Workspace) -> None:
    ws.loaded = load_settings(ws.home, arguments={"body_limit_bytes": 1 << 20})
    transport = InProcessTransport(create_app(ws))
    answer = ask(transport, "POST", API + "/experiments/create", {"name": "x" * (2 << 20)})
    assert told(answer) == (413, "INVALID_PARAMETER_VALUE")
    chunked = ask(transport, "POST", API + "/experiments/create", b" " * (2 << 20), content_length="5")
    assert told(chunked) == (413, "INVALID_PARAMETER_VALUE")
    transport.close()


def test_what_nobody_foresaw_is_told_by_the_id_in_the_log(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(ws)
    monkeypatch.setattr("tidemill.server.mlflow.app.ensure_default", lambda _: 1 / 0)
    transport = InProcessTransport(app)
    answer = ask(transport, "GET", API + "/experiments/get?experiment_id=0")
    assert told(answer) == (500, "INTERNAL_ERROR")
    message = json.loads(answer.body)["message"]
    assert "division" not in message
    assert message.rpartition(" ")[2] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    transport.close()


def test_a_project_is_named_by_the_header(ws: Workspace, transport: InProcessTransport) -> None:
    create_project(ws, "other")
    made = ask(transport, "POST", API + "/experiments/create", {"name": "there"}, x_mlflow_workspace="other")
    assert made.status == 200
    assert find_experiment(ws, "there") is None
    found = ask(transport, "GET", API + "/experiments/get-by-name?experiment_name=there", x_mlflow_workspace="other")
    assert json.loads(found.body)["experiment"]["name"] == "there"
    default = ask(transport, "GET", API + "/experiments/get-by-name?experiment_name=Default", x_mlflow_workspace="other")
    assert default.status == 200
    assert told(ask(transport, "GET", API + "/experiments/get?experiment_id=0", x_mlflow_workspace="none")) == (
        404, "RESOURCE_DOES_NOT_EXIST",
    )  # fmt: skip


def test_workspaces_are_projects(ws: Workspace, transport: InProcessTransport) -> None:
    path = "/api/3.0/mlflow/workspaces"
    assert ask(transport, "POST", path, {"name": "team-a"}).status == 201
    assert json.loads(ask(transport, "GET", path).body) == {"workspaces": [{"name": "default"}, {"name": "team-a"}]}
    assert json.loads(ask(transport, "GET", path + "/team-a").body) == {"workspace": {"name": "team-a"}}
    assert told(ask(transport, "GET", path + "/none")) == (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.fixture
def keyed(ws: Workspace) -> Workspace:
    """A workspace whose callers must show a key."""
    ws.loaded = load_settings(ws.home, arguments={"authentication": "keys"})
    return ws


def test_a_key_comes_as_bearer_or_as_password(keyed: Workspace) -> None:
    issued, transport = issue_key(keyed, "dora", role="developer"), InProcessTransport(create_app(keyed))
    path = API + "/experiments/create"
    assert told(ask(transport, "POST", path, {"name": "x"})) == (401, "UNAUTHENTICATED")
    for shown in ("Bearer nonsense", "Basic nonsense", "Basic " + b64encode(b"dora:wrong").decode(), "Basic /w==", "Digest x"):
        assert told(ask(transport, "POST", path, {"name": "x"}, authorization=shown)) == (401, "UNAUTHENTICATED")
    basic = b64encode(f"whoever:{issued.token}".encode()).decode()
    for number, shown in enumerate((f"Bearer {issued.token}", f"bearer {issued.token}", f"Basic {basic}", f"BASIC {basic}")):
        assert ask(transport, "POST", path, {"name": f"x{number}"}, authorization=shown).status == 200
    run = json.loads(ask(transport, "POST", API + "/runs/create", {"experiment_id": "0"}, authorization=f"Basic {basic}").body)
    assert run["run"]["info"]["user_id"] == "dora"
    revoke_key(keyed, issued.key.id)
    assert told(ask(transport, "POST", path, {"name": "y"}, authorization=f"Basic {basic}")) == (401, "UNAUTHENTICATED")
    assert ask(transport, "GET", "/health").status == 200
    transport.close()


def test_a_role_opens_what_it_covers_in_its_project(keyed: Workspace) -> None:
    create_project(keyed, "other")
    viewer, transport = issue_key(keyed, "eve", role="viewer"), InProcessTransport(create_app(keyed))
    create_experiment(keyed, "mine")
    shown = f"Bearer {viewer.token}"
    assert ask(transport, "GET", API + "/experiments/get-by-name?experiment_name=mine", authorization=shown).status == 200
    for method, path, body in (
        ("POST", "/api/2.0/mlflow/experiments/create", {"name": "x"}),
        ("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "1"}),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/x", b"x"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/x", b"x" * (3 << 20)),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/a/artifacts", {"path": "x", "num_parts": 1}),
        ("POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": "a" * 32}),
        ("PATCH", "/api/3.0/mlflow/traces/tr-1/tags", {"key": "a", "value": "b"}),
    ):
        assert told(ask(transport, method, path, body, authorization=shown)) == (403, "PERMISSION_DENIED"), path
    elsewhere = ask(transport, "GET", API + "/experiments/get?experiment_id=0", authorization=shown, x_mlflow_workspace="other")
    assert told(elsewhere) == (403, "PERMISSION_DENIED")
    transport.close()


def test_an_address_without_a_key_has_the_role_of_who_asked_for_it(keyed: Workspace) -> None:
    issued, transport = issue_key(keyed, "dora", role="developer"), InProcessTransport(create_app(keyed))
    shown = f"Bearer {issued.token}"
    run = json.loads(ask(transport, "POST", API + "/runs/create", {"experiment_id": "0"}, authorization=shown).body)["run"]["info"][
        "run_id"
    ]
    body = {"run_id": run, "path": "x"}
    path = API + "/artifacts/presigned-upload-url"
    assert told(ask(transport, "POST", path, body)) == (401, "UNAUTHENTICATED")
    address = json.loads(ask(transport, "POST", path, body, authorization=shown).body)["presigned_url"].removeprefix("http://localhost")
    assert ask(transport, "PUT", address, b"data").status == 200
    grant_role(keyed, "dora", "viewer")
    assert told(ask(transport, "PUT", address, b"data")) == (403, "PERMISSION_DENIED")
    world.tick(keyed, days=1)
    transport.close()
