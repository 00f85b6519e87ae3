"""The chain: what was written stays, and what was changed is named."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text, update

from tests import world
from tidemill.catalog.events import EVENTS, HEADS, EventBody, append, last_seq, read_events, verify_chain
from tidemill.govern.workspace import Workspace


class Said(EventBody, frozen=True, kw_only=True, tag="said"):
    words: str


def say(ws: Workspace, *words: str, project: str = "talk") -> None:
    for word in words:
        with ws.catalog.transaction() as tx:
            append(tx, Said(words=word), project=project, actor="ann", at=ws.clock.now(), subject=f"word:{word}", reason="because")


def test_events_are_read_back_as_written(any_ws: Workspace) -> None:
    say(any_ws, "one", "two", "three")
    with any_ws.catalog.reading() as tx:
        found = read_events(tx, "talk")
        assert [(event.seq, event.kind, event.body["words"], event.actor, event.reason) for event in found] == [
            (1, "said", "one", "ann", "because"),
            (2, "said", "two", "ann", "because"),
            (3, "said", "three", "ann", "because"),
        ]
        assert [event.seq for event in read_events(tx, "talk", newest_first=True, limit=2)] == [3, 2]
        assert [event.seq for event in read_events(tx, "talk", subject="word:two")] == [2]
        assert [event.seq for event in read_events(tx, "talk", after=1)] == [2, 3]
        assert last_seq(tx, "talk") == 3
        assert verify_chain(tx, "talk").verified


@pytest.mark.parametrize(
    ("statement", "broken", "what"),
    [
        (update(EVENTS).where(EVENTS.c.seq == 2).values(reason="another"), 2, r"event 2 \(said of word:two\) was changed"),
        (update(EVENTS).where(EVENTS.c.seq == 2).values(actor="bob"), 2, "event 2"),
        (delete(EVENTS).where(EVENTS.c.seq == 2), 2, "event 2 is missing"),
        (delete(EVENTS).where(EVENTS.c.seq == 3), 3, "the chain ends at event 2, but 3 were written"),
    ],
)
def test_a_change_behind_our_back_is_named(ws: Workspace, statement: object, broken: int, what: str) -> None:
    say(ws, "one", "two", "three")
    with ws.catalog.transaction() as tx:
        tx.execute(statement.where(EVENTS.c.project == "talk"))  # type: ignore[attr-defined]
    with ws.catalog.reading() as tx:
        report = verify_chain(tx, "talk")
    assert (report.verified, report.broken_seq) == (False, broken)
    assert re.search(what, report.what)


def test_projects_have_chains_of_their_own(ws: Workspace) -> None:
    say(ws, "one", project="a")
    say(ws, "two", "three", project="b")
    with ws.catalog.transaction() as tx:
        tx.execute(delete(EVENTS).where(EVENTS.c.project == "b"))
        tx.execute(delete(HEADS).where(HEADS.c.project == "b"))
    with ws.catalog.reading() as tx:
        assert verify_chain(tx, "a").verified


@settings(max_examples=20, deadline=None)
@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1, max_size=10))
def test_any_words_verify(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    with world.workspace(tmp_path_factory.mktemp("w")) as ws:
        say(ws, *words)
        with ws.catalog.reading() as tx:
            assert verify_chain(tx, "talk").events == len(words)
            assert verify_chain(tx, "talk").verified
            assert [event.body["words"] for event in read_events(tx, "talk")] == words
            assert tx.execute(text("SELECT count(*) FROM events WHERE project = 'talk'")).scalar_one() == len(words)
