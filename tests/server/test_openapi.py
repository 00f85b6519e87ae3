"""The OpenAPI document says what the routes do."""

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tidemill.core.codec import decode_any, encode
from tidemill.server.app import openapi
from tidemill.server.inprocess import InProcessTransport
from tidemill.server.rest.route import Route
from tidemill.server.rest.table import PROJECT_NOUNS, SERVER_NOUNS

ROUTES = [(noun, route) for table in (SERVER_NOUNS, PROJECT_NOUNS) for noun, routes in table.items() for route in routes]


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(decode_any(encode(openapi()))).validate()


def test_it_is_served(transport: InProcessTransport) -> None:
    assert decode_any(transport.request("GET", "/openapi.json").body)["openapi"] == "3.1.0"


@pytest.mark.parametrize(("noun", "route"), ROUTES, ids=[f"{noun}.{route.name}" for noun, route in ROUTES])
def test_every_route_is_described(noun: str, route: Route) -> None:
    assert route.summary.endswith(".")
    assert len(route.summary) > 15


def test_operation_ids_are_unique() -> None:
    ids = [f"{noun}.{route.name}" for noun, route in ROUTES]
    assert len(set(ids)) == len(ids)


def test_a_handler_that_does_not_fit_its_path_is_refused_at_once() -> None:
    def wrong(ws: object) -> int:
        return 1

    with pytest.raises(TypeError, match=r"must take \['name'\]"):
        Route("GET", "/things/{name}", wrong)
