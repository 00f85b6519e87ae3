"""API keys: shown once, kept as hashes, scoped and expiring."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from tests import world
from tidemill.core.errors import Invalid, NotFound, NotPermitted
from tidemill.govern.keys import API_KEYS, KeyMissing, KeyRefused, authenticate, issue_key, list_keys, revoke_key
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace


def whoami(ws: Workspace, token: str | None, project: str = "default") -> str:
    actor = authenticate(ws.catalog, token, project=project, at=ws.clock.now())
    return f"{actor.id}:{actor.role}"


def test_a_key_stands_for_its_actor_until_it_expires(any_ws: Workspace) -> None:
    issued = issue_key(any_ws, "ann", role="developer", lifetime=timedelta(days=1))
    assert whoami(any_ws, issued.token) == "ann:developer"
    world.tick(any_ws, days=1)
    with pytest.raises(KeyRefused, match="not valid, has expired or was revoked"):
        whoami(any_ws, issued.token)


def test_a_revoked_key_is_refused_at_once(ws: Workspace) -> None:
    issued = issue_key(ws, "ann")
    revoke_key(ws, issued.key.id, reason="left")
    with pytest.raises(KeyRefused):
        whoami(ws, issued.token)
    with pytest.raises(NotFound, match="there is no API key 'nope'"):
        revoke_key(ws, "nope")


@pytest.mark.parametrize("token", ["tm_x_y", "tm_", "nonsense", "tm_000000000000_secret", "Bearer x"])
def test_a_wrong_token_is_refused(ws: Workspace, token: str) -> None:
    issue_key(ws, "ann")
    with pytest.raises(KeyRefused):
        whoami(ws, token)


def test_a_secret_that_differs_in_its_last_letter_is_refused(ws: Workspace) -> None:
    token = issue_key(ws, "ann").token
    with pytest.raises(KeyRefused):
        whoami(ws, token[:-1] + ("A" if token[-1] != "A" else "B"))


def test_no_token_is_told_how_to_send_one(ws: Workspace) -> None:
    with pytest.raises(KeyMissing, match="send it as 'Authorization: Bearer tm_"):
        whoami(ws, None)


def test_a_key_is_good_for_its_own_project_only(ws: Workspace) -> None:
    issued = issue_key(ws, "ann")
    with pytest.raises(NotPermitted, match="this API key is for project 'default', not for 'other'"):
        whoami(ws, issued.token, "other")


def test_neither_the_table_nor_the_events_hold_the_secret(ws: Workspace) -> None:
    issued = issue_key(ws, "ann", note="ci")
    secret = issued.token.rpartition("_")[2]
    with ws.catalog.reading() as tx:
        rows = [str(tuple(row)) for row in tx.execute(select(API_KEYS))]
    assert secret not in "".join(rows)
    assert ws.catalog.path is not None
    assert secret.encode() not in ws.catalog.path.read_bytes()
    assert [key.note for key in list_keys(ws)] == ["ci"]


def test_only_admins_make_keys_and_none_that_lives_for_nothing(ws: Workspace) -> None:
    with pytest.raises(ActionRefused, match=r"govern\.admin"):
        issue_key(world.acting(ws, "dee", "developer"), "eve")
    with pytest.raises(Invalid, match="must live longer than nothing"):
        issue_key(ws, "ann", lifetime=timedelta(0))
