"""Which endpoint a method and a path mean."""

import pytest

from tidemill.server.mlflow.endpoint import PLACEHOLDER
from tidemill.server.mlflow.paths import attachment, folder_path, media_type, safe_path
from tidemill.server.mlflow.routing import Routing
from tidemill.server.mlflow.table import ENDPOINTS, STREAMS
from tidemill.tracking.files import PathRefused

ROUTING = Routing(ENDPOINTS, STREAMS)


def test_every_endpoint_is_found_where_it_says() -> None:
    for endpoint in ENDPOINTS:
        for version in endpoint.versions:
            for api in ("api", "ajax-api"):
                found = ROUTING.find(
                    endpoint.method, PLACEHOLDER.sub("some", f"/{api}/{version}.0{endpoint.path}").replace("{path:path}", "a/b")
                )
                assert found is not None, endpoint
                assert found[0] == endpoint


@pytest.mark.parametrize(
    ("method", "path", "places"),
    [
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/b", {"path": "1/a/artifacts/b"}),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts//etc\n", {"path": "/etc\n"}),
        ("GET", "/api/2.0/mlflow/logged-models/m-1", {"model_id": "m-1"}),
        ("PUT", "/api/2.0/mlflow-artifacts/signed/part/3/abc", {"number": "3", "ticket": "abc"}),
        ("GET", "/version", {}),
    ],
)
def test_paths_are_taken_apart(method: str, path: str, places: dict[str, str]) -> None:
    found = ROUTING.find(method, path)
    assert found is not None
    assert found[1] == places


def test_paths_that_are_mlflows() -> None:
    for path in ("/api/2.0/mlflow/x", "/ajax-api/3.0/mlflow/x", "/api/2.0/mlflow-artifacts/x", "/version", "/get-artifact", "/v1/traces"):
        assert ROUTING.serves(path), path
    for path in ("/", "/api/v1/status", "/health", "/api/2.0", "/versions", "/api/1.0/mlflow/x"):
        assert not ROUTING.serves(path), path
    assert ROUTING.methods("/api/2.0/mlflow/experiments/create") == ["POST"]
    assert ROUTING.methods("/api/2.0/mlflow-artifacts/artifacts/a") == ["DELETE", "GET", "PUT"]
    assert ROUTING.methods("/api/2.0/mlflow/nothing") == []


@pytest.mark.parametrize("path", ["a", "a/b.txt", "ü/ö ä", "100%", "a%20b", "a..b", "...", "a b", "C:", "x:y"])
def test_safe_paths_stay_as_they_are(path: str) -> None:
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["..", "a/..", "../a", "%2e%2e/a", "%252e%252e/a", "a/%2e%2e/b", "/etc", "%2fetc", "a\\b", "a%5cb", "C:/x", "c:\\x", "a#b", "a%23b",
        "a\0",
     "a%00", "a//b", "./a", "", "%25" * 9 + "25" * 9 + "41"],
)  # fmt: skip
def test_paths_that_lead_out_are_refused_however_they_are_written(path: str) -> None:
    with pytest.raises(PathRefused, match="is not usable"):
        safe_path(path)


def test_a_path_encoded_over_and_over_is_refused() -> None:
    path = "%41"
    for _ in range(12):
        path = path.replace("%", "%25")
    with pytest.raises(PathRefused, match="encoded over and over"):
        safe_path(path)


def test_a_folder_may_be_the_topmost() -> None:
    assert (folder_path(""), folder_path("a/"), folder_path("a")) == ("", "a", "a")
    with pytest.raises(PathRefused, match="absolute"):
        folder_path("/")


def test_names_decide_what_a_file_is() -> None:
    names = {"MLmodel": b"text/plain", "a/conda.yaml": b"text/plain", "x.json": b"application/json", "x.png": b"image/png"}
    assert {name: media_type(name) for name in names} == names
    assert media_type("x.unknown") == b"application/octet-stream"


def test_names_in_headers_cannot_break_out() -> None:
    disposition = dict(attachment('a/b"\r\nx: y é.txt'))[b"content-disposition"].decode()
    assert disposition == "attachment; filename=\"b___x: y _.txt\"; filename*=UTF-8''b%22%0D%0Ax%3A%20y%20%C3%A9.txt"
