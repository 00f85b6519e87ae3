"""Who may come in, and what a foreign web page may make a browser do."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import world
from tidemill.client.client import Client
from tidemill.core.errors import NotPermitted
from tidemill.core.settings import load_settings
from tidemill.govern.keys import issue_key, revoke_key
from tidemill.govern.workspace import Workspace
from tidemill.server.access import LOCAL_HOSTS, check_host, check_origin
from tidemill.server.app import create_app
from tidemill.server.errors import HostRefused, OriginRefused
from tidemill.server.inprocess import InProcessTransport


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7700", "localhost:1", "LOCALHOST", "[::1]", "[::1]:7700"])
def test_local_names_are_let_in(host: str) -> None:
    check_host(host, LOCAL_HOSTS)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:7700", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::2]:1"]
)
def test_other_names_are_refused(host: str) -> None:
    with pytest.raises(HostRefused, match="does not answer to the host"):
        check_host(host, LOCAL_HOSTS)


@given(st.text(alphabet=st.characters(exclude_characters=":[]"), min_size=1))
def test_no_name_but_ours_passes(name: str) -> None:
    if name.lower() not in LOCAL_HOSTS:
        with pytest.raises(HostRefused, match="does not answer"):
            check_host(f"{name}:7700", LOCAL_HOSTS)


def test_pages_of_this_server_may_change_things_and_others_may_not() -> None:
    check_origin("POST", "127.0.0.1:7700", None)
    check_origin("POST", "127.0.0.1:7700", "http://127.0.0.1:7700")
    check_origin("GET", "127.0.0.1:7700", "http://evil.example")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:7701", "http://127.0.0.1"):
        with pytest.raises(OriginRefused, match="may not change anything"):
            check_origin("DELETE", "127.0.0.1:7700", origin)


def test_every_route_is_guarded(transport: InProcessTransport) -> None:
    for path in ("/", "/livez", "/api/v1/status", "/openapi.json", "/nothing"):
        assert transport.request("GET", path, headers={"host": "evil.example"}).status == 421
        assert transport.request("POST", path, headers={"origin": "https://evil.example"}).status == 403


@pytest.fixture
def keyed(ws: Workspace) -> Workspace:
    """A workspace whose callers must show a key."""
    ws.loaded = load_settings(ws.home, arguments={"authentication": "keys"})
    return ws


def test_with_keys_on_nobody_comes_in_without_one(keyed: Workspace) -> None:
    transport = InProcessTransport(create_app(keyed))
    answer = transport.request("GET", "/api/v1/status")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    for token in ("nonsense", "tm_aa_bb", "Bearer"):
        assert transport.request("GET", "/api/v1/status", headers={"authorization": f"Bearer {token}"}).status == 401
    assert transport.request("GET", "/livez").status == 200
    assert transport.request("GET", "/api/v1/status", headers={"host": "tidemill.example"}).status == 401
    transport.close()


def test_a_key_opens_what_its_role_covers_until_it_ends(keyed: Workspace) -> None:
    issued = issue_key(keyed, "dora", role="developer", lifetime=timedelta(hours=2))
    transport = InProcessTransport(create_app(keyed), token=issued.token)
    client = Client(transport)
    assert client.status()["actor"] == {"id": "dora", "name": "dora", "role": "developer"}
    run = client.runs.start("e", "n")
    assert client.audit.list(subject=f"run:{run['id']}")[0]["actor"] == "dora"
    world.tick(keyed, hours=3)
    with pytest.raises(NotPermitted, match="not valid, has expired or was revoked"):
        client.status()
    other = issue_key(keyed, "dora", role="developer")
    revoke_key(keyed, other.key.id, reason="lost")
    with pytest.raises(NotPermitted, match="revoked"):
        Client(InProcessTransport(create_app(keyed), token=other.token)).status()
    client.close()


def test_an_upload_without_a_key_leaves_nothing_on_the_disk(keyed: Workspace) -> None:
    transport = InProcessTransport(create_app(keyed))
    assert transport.request("POST", "/api/v1/projects/default/datasets/d/versions", body=b"x" * 1000).status == 401
    assert not (keyed.state / "tmp").exists()
    transport.close()
