"""Paths, queries, bodies and errors of one call."""

from datetime import UTC, datetime

import pytest

from tidemill.client.call import query_string, segment, subpath
from tidemill.client.client import connect
from tidemill.client.problems import PROBLEMS, error_of
from tidemill.client.transport import Response, open_transport
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid, NotFound, TidemillError, Unavailable


def test_names_cannot_leave_their_segment() -> None:
    assert segment("a/b?c#d") == "a%2Fb%3Fc%23d"
    assert subpath("plots/a b.png") == "plots/a%20b.png"


def test_queries_leave_out_what_is_not_given() -> None:
    assert query_string({"a": None, "b": 1, "kinds": ["x", "y"], "flag": True}) == "?b=1&kinds=x&kinds=y&flag=true"
    assert query_string({"at": datetime(2013, 6, 1, tzinfo=UTC)}) == "?at=2013-06-01T00%3A00%3A00%2B00%3A00"
    assert query_string({"a": None, "kinds": ()}) == ""


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_becomes_its_error_with_the_same_sentence(name: str) -> None:
    body = encode({"type": f"/problems/{name}", "status": 400, "detail": "it was so; do this"})
    error = error_of(Response(status=400, headers={}, body=body))
    assert type(error) is PROBLEMS[name]
    assert str(error) == "it was so; do this"


def test_answers_of_strangers_are_understood_by_their_status() -> None:
    assert isinstance(error_of(Response(status=404, headers={}, body=b"<html>no</html>")), NotFound)
    assert isinstance(error_of(Response(status=503, headers={}, body=b"")), Unavailable)
    assert type(error_of(Response(status=418, headers={}, body=b"{}"))) is TidemillError


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(Invalid, match="server address 'ftp://x' is not known"):
        open_transport("ftp://x")
    with pytest.raises(Invalid, match="is not a Tidemill workspace"):
        connect("workspace:/nowhere/at/all")
