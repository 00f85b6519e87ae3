"""One table, one shape: every refusal of every route is a problem that a reader understands."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests import world
from tidemill.client.problems import MEDIA_TYPE, PROBLEMS, Problem, problem_name
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Conflict, Corrupt, ExtraMissing, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.govern.keys import KeyMissing, KeyRefused
from tidemill.govern.workspace import Workspace
from tidemill.server.app import create_app, openapi
from tidemill.server.errors import BodyTooLarge, problem_of, status_of
from tidemill.server.inprocess import InProcessTransport


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessTransport]:
    """One app for all the requests that are refused: none of them leaves anything behind."""
    with world.workspace(tmp_path_factory.mktemp("shared") / "home") as made:
        transport = InProcessTransport(create_app(made))
        yield transport
        transport.close()


def operations(*, with_json: bool = False) -> list[Any]:
    """Return the API's operations; with_json those that take JSON of a certain shape (rows of a dataset may have any)."""
    return [
        pytest.param(method.upper(), path, id=operation["operationId"])
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
        if not with_json or operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    ]


def filled(path: str) -> str:
    return path.replace("{project}", "default").replace("{", "").replace("}", "")


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (NotFound("x"), 404, "not-found"),
        (Conflict("x"), 409, "conflict"),
        (Invalid("x"), 400, "invalid"),
        (NotPermitted("x"), 403, "not-permitted"),
        (KeyMissing(), 401, "not-permitted"),
        (KeyRefused(), 401, "not-permitted"),
        (Unavailable("x"), 503, "unavailable"),
        (ExtraMissing("ray", "ray"), 503, "unavailable"),
        (Corrupt("x"), 500, "corrupt"),
        (BodyTooLarge(1), 413, "invalid"),
        (TidemillError("x"), 500, "internal"),
    ],
)
def test_the_nearest_class_counts(error: TidemillError, status: int, name: str) -> None:
    assert (status_of(error), problem_name(error)) == (status, name)


def test_every_error_class_has_a_status() -> None:
    def below(kind: type[TidemillError]) -> Iterator[type[TidemillError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    assert all(400 <= status_of(kind.__new__(kind)) <= 599 for kind in below(TidemillError))


def test_an_unforeseen_error_is_logged_under_the_id_that_the_caller_gets(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError("secret detail")
    except ZeroDivisionError as error:
        problem = problem_of(error, method="GET", path="/x")
    assert problem.status == 500
    assert problem.instance
    assert "secret" not in problem.detail
    assert problem.instance in caplog.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(("method", "path"), operations(with_json=True))
@pytest.mark.parametrize("body", [b"{", b"[1,", b'"text"', b"\xff\xfe", b'{"no_such_field": 1}', b"17", b""])
def test_a_malformed_body_is_one_sentence(shared: InProcessTransport, method: str, path: str, body: bytes) -> None:
    answer = shared.request(method, filled(path), body=body, headers={"content-type": "application/json"})
    problem = decode(answer.body, Problem)
    assert answer.headers["content-type"] == MEDIA_TYPE
    # a route may know first that what the path names is not there
    assert answer.status == problem.status
    assert answer.status in (400, 404)
    assert problem.type.removeprefix("/problems/") in PROBLEMS
    assert "\n" not in problem.detail
    assert len(problem.detail) > 20


@pytest.mark.parametrize(("method", "path"), operations())
def test_an_unknown_project_is_not_found(shared: InProcessTransport, method: str, path: str) -> None:
    if "{project}" not in path:
        return
    answer = shared.request(method, filled(path.replace("{project}", "nowhere")), body=b"{}")
    assert answer.status in (400, 404)
    assert answer.headers["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize(("method", "path"), operations())
def test_an_unknown_query_parameter_is_refused_with_the_nearest_name(shared: InProcessTransport, method: str, path: str) -> None:
    answer = shared.request(method, filled(path) + "?limitt=3", body=b"{}")
    assert answer.status == 400
    assert "unknown query parameter 'limitt'" in decode(answer.body, Problem).detail


def test_unknown_paths_and_methods_are_problems_too(transport: InProcessTransport) -> None:
    missing = transport.request("GET", "/api/v1/nothing")
    assert (missing.status, missing.headers["content-type"]) == (404, MEDIA_TYPE)
    wrong = transport.request("DELETE", "/api/v1/status")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert decode(wrong.body, Problem).detail.startswith("DELETE is not possible on /api/v1/status")


def test_an_oversized_body_is_refused_before_it_is_read(transport: InProcessTransport, ws: Workspace) -> None:
    body = b'"' + b"x" * ws.settings.body_limit_bytes + b'"'
    answer = transport.request("POST", "/api/v1/projects/default/runs", body=body, headers={"content-length": str(len(body))})
    assert answer.status == 413
    unannounced = transport.request("POST", "/api/v1/projects/default/runs", body=body)
    assert unannounced.status == 413
    assert "larger than 16,777,216 bytes" in decode(unannounced.body, Problem).detail


def test_another_content_type_is_refused(transport: InProcessTransport) -> None:
    answer = transport.request("POST", "/api/v1/projects/default/runs", body=b"{}", headers={"content-type": "text/csv"})
    assert (answer.status, decode(answer.body, Problem).status) == (415, 415)


def test_an_actor_without_the_right_is_told_who_has_it(ws: Workspace) -> None:
    viewer = InProcessTransport(create_app(world.acting(ws, "vera", "viewer")))
    answer = viewer.request("POST", "/api/v1/projects/default/runs", body=encode({"experiment": "e", "name": "n"}))
    viewer.close()
    assert answer.status == 403
    assert "'vera' may not do tracking.write on 'e'" in decode(answer.body, Problem).detail


def test_a_corrupt_catalog_is_unavailable_and_says_what_to_do(transport: InProcessTransport, ws: Workspace) -> None:
    ws.catalog.close()
    assert ws.catalog.path is not None
    for suffix in ("-wal", "-shm"):
        ws.catalog.path.with_name(ws.catalog.path.name + suffix).unlink(missing_ok=True)
    ws.catalog.path.write_bytes(b"this is no database" * 1000)
    answer = transport.request("GET", "/readyz")
    assert answer.status == 503
    assert "the file is damaged" in decode(answer.body, Problem).detail
