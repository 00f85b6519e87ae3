"""Contracts: what breaks is named with count and rows; policy says whether it is refused, set aside or let pass."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import world
from tidemill.checks.check import list_checks, overall
from tidemill.core.errors import Invalid
from tidemill.datasets.contracts import ColumnRule, Contract, SqlRule, examine
from tidemill.datasets.intake import ContractBroken, add, append, check_contract, read_contract, set_contract
from tidemill.datasets.versions import list_datasets, open_table
from tidemill.govern.workspace import Workspace

BATCH = pa.table({"id": [1, 2, 2, 4], "delay": [5.0, None, 900.0, -10.0], "carrier": ["UA", "AA", "??", "B6"]})
CONTRACT = Contract(
    columns=(
        ColumnRule(column="id", unique=True, kind="int64"),
        ColumnRule(column="delay", share_null=0, low=-60, high=600),
        ColumnRule(column="carrier", allowed=("UA", "AA", "B6")),
    ),
    conditions=(SqlRule(name="early flights are few minutes early", condition="delay > -5"),),
)


def test_each_broken_rule_names_count_and_rows() -> None:
    results, bad = examine(BATCH, CONTRACT)
    failed = {result.name: result for result in results if result.verdict == "fail"}
    assert set(failed) == {
        "id is unique", "delay is present", "delay <= 600", "carrier is one of 3 values", "early flights are few minutes early",
    }  # fmt: skip
    assert failed["carrier is one of 3 values"].summary == "carrier is one of 3 values: 1 of 4 rows break it"
    assert failed["carrier is one of 3 values"].evidence.tables[0].rows == (("2", "900.0", "??"),)
    assert bad == {
        1: ("delay is present",),
        2: ("id is unique", "delay <= 600", "carrier is one of 3 values"),
        3: ("early flights are few minutes early",),
    }


def test_a_batch_that_breaks_it_is_refused_and_nothing_is_added(ws: Workspace) -> None:
    set_contract(ws, "flights", CONTRACT)
    with pytest.raises(ContractBroken, match=r"dataset 'flights' breaks its contract: .*nothing was added"):
        add(ws, "flights", BATCH)
    with pytest.raises(ContractBroken, match=r"nothing was added"):
        append(ws, "flights", BATCH)
    assert list_datasets(ws) == []


def test_under_quarantine_bad_rows_are_set_aside_with_a_count(ws: Workspace) -> None:
    set_contract(ws, "flights", Contract(columns=CONTRACT.columns, conditions=CONTRACT.conditions, on_violation="quarantine"))
    admitted = add(ws, "flights", BATCH)
    assert (admitted.version.rows, admitted.set_aside) == (1, 3)
    assert open_table(ws, "flights").column("id").to_pylist() == [1]
    assert open_table(ws, "flights.quarantine").column("id").to_pylist() == [2, 2, 4]
    recorded = list_checks(ws, admitted.version.node)
    assert overall([record.result for record in recorded]) == "fail"


def test_a_contract_has_a_history(ws: Workspace) -> None:
    set_contract(ws, "flights", CONTRACT)
    then = ws.clock.now()
    world.tick(ws, days=1)
    set_contract(ws, "flights", Contract())
    assert read_contract(ws, "flights") == Contract()
    assert read_contract(ws, "flights", at=then) == CONTRACT
    assert read_contract(ws, "weather") is None


def test_a_version_is_checked_after_the_fact(ws: Workspace) -> None:
    add(ws, "flights", BATCH)
    assert overall(check_contract(ws, "flights@1", CONTRACT)) == "fail"
    assert len(list_checks(ws, "dataset:flights@1")) == 8


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        (Contract(columns=(ColumnRule(column="dealy"),)), "names column 'dealy', which the data lacks"),
        (Contract(conditions=(SqlRule(name="x", condition="dealy > 1"),)), "a rule of the contract could not be evaluated"),
    ],
)
def test_a_rule_that_cannot_hold_is_one_sentence(contract: Contract, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        examine(BATCH, contract)


def test_too_few_rows_and_too_many_missing_are_found() -> None:
    results, _ = examine(BATCH, Contract(rows_min=10, columns=(ColumnRule(column="delay", share_null=0.1),)))
    assert [(result.name, result.verdict) for result in results] == [("volume", "fail"), ("delay missing", "fail")]


@settings(deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=30), low=st.integers(-5, 5))
def test_rows_set_aside_are_exactly_those_below_the_bound(values: list[int | None], low: int) -> None:
    table = pa.table({"x": pa.array(values, pa.int64())})
    _, bad = examine(table, Contract(columns=(ColumnRule(column="x", low=low),)))
    assert list(bad) == [n for n, value in enumerate(values) if value is not None and value < low]
