"""How rows come in: held against the dataset's types, key and contract, then added or appended, bad ones refused or set aside.

Owns the table of contracts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, as_of, current
from tidemill.checks.check import CheckResult, keep_results, overall, record_checks, write_judgement
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest, EventId, check_name
from tidemill.core.values import Value, replace
from tidemill.datasets import versions
from tidemill.datasets.content import Watch, files_at, read_files
from tidemill.datasets.contracts import SAMPLES, VOLUME, Contract, examine
from tidemill.datasets.keys import Words, already_there, first_ones, hashes_of, read_key
from tidemill.datasets.rows import Misfit, from_records, from_table, jsonlike, text_of
from tidemill.datasets.versions import DatasetVersion, Draft, Source, open_table
from tidemill.govern.workspace import Workspace

QUARANTINE = "quarantine"

CONTRACTS = Table(
    "dataset_contracts",
    METADATA,
    Column("project", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("contract", JsonValue(Contract), nullable=False),
    Column("actor", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "dataset", "valid_from"),
    Index("ix_dataset_contracts_current", "project", "dataset", "valid_to"),
)


class ContractSet(EventBody, frozen=True, kw_only=True, tag="contract.set"):
    """A dataset promises something from now on."""

    dataset: str
    contract: Contract


class ContractBroken(Invalid):
    """A batch broke its contract and was refused."""

    def __init__(self, name: str, results: Sequence[CheckResult]) -> None:
        self.name, self.results = name, tuple(results)
        failed = "; ".join(result.summary for result in results if result.verdict == "fail")
        super().__init__(f"dataset {name!r} breaks its contract: {failed}; nothing was added")


class RowsRefused(Invalid):
    """Some rows cannot be rows of the dataset, so none was taken."""

    def __init__(self, name: str, misfits: Sequence[Misfit], rows: int) -> None:
        self.name, self.misfits = name, tuple(misfits)
        told = "; ".join(f"row {misfit.row + 1}: {misfit.reason}" for misfit in misfits[:SAMPLES])
        super().__init__(f"{len(misfits)} of {rows} rows cannot be rows of dataset {name!r} ({told}); nothing was added")


class Admitted(Value, frozen=True, kw_only=True):
    """What came of a batch: the version made of its good rows, the one of rows set aside if any, and what the contract said."""

    version: DatasetVersion
    quarantine: DatasetVersion | None = None
    set_aside: int = 0
    results: tuple[CheckResult, ...] = ()


class Taken(Value, frozen=True, kw_only=True):
    """What came of rows that arrived: how many were new, there already by their key, and set aside.

    version: the newest one, which has them; None when there is none yet. quarantine: the version that those set aside went to. online:
    the feature views that get them as well; not_online: those that cannot take rows as they arrive, for they name no event key.
    """

    version: DatasetVersion | None
    quarantine: DatasetVersion | None = None
    new: int
    duplicates: int = 0
    set_aside: int = 0
    results: tuple[CheckResult, ...] = ()
    online: tuple[str, ...] = ()
    not_online: tuple[str, ...] = ()


OnBad = Literal["refuse", "aside", "return"]
"""What becomes of bad rows: all are refused (but for those that the contract sets aside), they go to NAME.quarantine, or the caller has
a place for them. Only the first one stops anything."""


def set_contract(ws: Workspace, name: str, contract: Contract, *, reason: str = "") -> Contract:
    """Hold all rows that come into a dataset from now on to a contract."""
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    now = ws.clock.now()
    held = (CONTRACTS.c.project == ws.project) & (CONTRACTS.c.dataset == name) & current(CONTRACTS)
    with ws.catalog.transaction() as tx:
        before = tx.execute(select(CONTRACTS.c.contract, CONTRACTS.c.valid_from).where(held)).one_or_none()
        if before is not None and before.contract == contract:
            return contract
        if before is not None and before.valid_from == now:  # changed twice in one moment: the last word counts
            tx.execute(update(CONTRACTS).where(held).values(contract=contract, actor=ws.actor.id))
        else:
            tx.execute(update(CONTRACTS).where(held).values(valid_to=now))
            row = {"project": ws.project, "dataset": name, "contract": contract, "actor": ws.actor.id, "valid_from": now}
            tx.execute(insert(CONTRACTS).values(**row))
        ws.record(tx, ContractSet(dataset=name, contract=contract), subject=f"dataset:{name}", reason=reason)
    return contract


def read_contract(ws: Workspace, name: str, *, at: datetime | None = None) -> Contract | None:
    """Return the contract of a dataset as it is, or as it was at a moment; None when it promises nothing."""
    ws.require("datasets.read", name)
    mine = (CONTRACTS.c.project == ws.project) & (CONTRACTS.c.dataset == name) & as_of(CONTRACTS, at)
    with ws.catalog.reading() as tx:
        return tx.execute(select(CONTRACTS.c.contract).where(mine)).scalar_one_or_none()


def add(
    ws: Workspace, name: str, source: Source, *, as_table: bool | None = None, description: str = "", reason: str = "",
    cause: EventId | None = None, watch: Watch | None = None,
) -> Admitted:  # fmt: skip
    """Make a version of exactly this content, as `versions.add` does, but for rows that the contract sets aside.

    Raises ContractBroken under the policy block.
    """
    contract = read_contract(ws, name) if as_table is not False else None

    def write(content: Source) -> DatasetVersion:
        return versions.add(ws, name, content, as_table=as_table, description=description, reason=reason, cause=cause, watch=watch)

    if contract is None:
        return Admitted(version=write(source))
    table = source if isinstance(source, pa.Table) else read_files([Path(file.path) for file in files_at(source).values()])
    # Of files that are good as they are every byte is kept.
    return _admit(ws, name, table, contract, lambda good: write(source if good is table else good))


def append(ws: Workspace, name: str, table: pa.Table, *, reason: str = "", cause: EventId | None = None) -> Taken:
    """Make a version that has the newest one's rows and then these, but for those set aside, or there already by the declared key.

    Raises ContractBroken under the policy block, Invalid for other columns.
    """
    return take(ws, name, table, reason=reason, cause=cause)[0]


def take(
    ws: Workspace, name: str, rows: pa.Table | Sequence[Any], *, on_bad: OnBad = "refuse", needed: Sequence[str] = (),
    reason: str = "", cause: EventId | None = None,
    beside: Callable[[Connection, Taken, Digest | None], None] = lambda _tx, _taken, _part: None,
) -> tuple[Taken, list[Misfit]]:  # fmt: skip
    """Make a version that has the newest one's rows and then the good ones of these: a table, or objects as they were in JSON.

    Of rows with one key, where the dataset has a declared one, the first good one that ever came stays. needed: columns beside the key that
    must have a value. beside writes what belongs to them in the same transaction (how far their source is taken), told the file that holds
    the new ones: a caller who was killed finds both or neither. No new row: no new version.

    Returns the misfits as well, which are nowhere else under "return". Raises ContractBroken, RowsRefused, Invalid.
    """
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    contract, key = read_contract(ws, name), read_key(ws, name)
    columns = key.columns if key is not None else ()
    while True:
        before = versions.find_newest(ws, name)
        sorted_out = _sort_out(ws, name, rows, before, contract, columns=columns, needed=needed)
        _check_refusals(name, sorted_out, contract, on_bad)
        # How many rows a portion has says nothing of a dataset that grows by portions.
        results = [result for result in sorted_out.results if on_bad == "refuse" or result.name != VOLUME]
        aside = sorted_out.misfits if on_bad != "return" else []
        good, bad = sorted_out.good, _quarantine(ws, name, sorted_out.broken, sorted_out.reasons, sorted_out.unfit) if aside else None
        draft = versions.draft_append(ws, name, good, before) if good.num_rows else None
        judged = keep_results(ws, "", results) if draft is not None else []
        try:
            with ws.catalog.transaction() as tx:
                version = versions.record_draft(tx, ws, draft, reason=reason, cause=cause) if draft is not None else before
                set_aside = versions.record_draft(tx, ws, bad, reason=f"rows that {name} does not take") if bad is not None else None
                if draft is not None and version is not None and judged:
                    write_judgement(ws, tx, version.node, judged, reason="contract")
                taken = Taken(
                    version=version, quarantine=set_aside, new=good.num_rows, duplicates=sorted_out.duplicates, set_aside=len(aside),
                    results=tuple(results),
                )  # fmt: skip
                beside(tx, taken, draft.part if draft is not None else None)
        except versions.Overtaken:
            continue  # another one's rows are there now: some of these may be among them
        return taken, sorted_out.misfits


def check_contract(ws: Workspace, reference: str, contract: Contract) -> list[CheckResult]:
    """Ask whether a version keeps a contract, and record the answers."""
    version = versions.read_version(ws, reference)
    results, _ = examine(open_table(ws, version), contract)
    record_checks(ws, version.node, results, reason="contract")
    return results


def _admit(ws: Workspace, name: str, table: pa.Table, contract: Contract, write: Callable[[pa.Table], DatasetVersion]) -> Admitted:
    ws.require("datasets.write", name)
    results, bad = examine(table, contract)
    if overall(results) == "fail" and contract.on_violation == "block":
        raise ContractBroken(name, results)
    aside = None
    if contract.on_violation == QUARANTINE and bad:
        draft = _quarantine(ws, name, table.take(pa.array(list(bad))), [_told(broken) for broken in bad.values()], [])
        with ws.catalog.transaction() as tx:
            aside = versions.record_draft(tx, ws, draft, reason=f"rows that break the contract of {name}")
        table = _without(table, bad)
    version = write(table)
    record_checks(ws, version.node, results, reason="contract")
    return Admitted(version=version, quarantine=aside, set_aside=len(bad) if aside else 0, results=tuple(results))


class _SortedOut(NamedTuple):
    """Rows that arrived: those to be added, how many were there already, those that are not to be, and what the contract said.

    broken and reasons: of the latter those that are of the dataset's types; unfit: the others. misfits: both, by their numbers.
    """

    good: pa.Table
    duplicates: int
    broken: pa.Table
    reasons: list[str]
    unfit: list[Misfit]
    misfits: list[Misfit]
    results: list[CheckResult]


def _sort_out(
    ws: Workspace, name: str, rows: pa.Table | Sequence[Any], before: DatasetVersion | None, contract: Contract | None, *,
    columns: Sequence[str], needed: Sequence[str],
) -> _SortedOut:  # fmt: skip
    schema = versions.read_schema(ws, before) if before is not None else None
    if isinstance(rows, pa.Table) and before is not None and set(rows.column_names) != set(before.columns):
        raise versions.ColumnsDiffer(before, {field.name: str(field.type) for field in rows.schema})
    needed = tuple(dict.fromkeys((*columns, *needed)))
    table, numbers, unfit = from_table(rows, schema) if isinstance(rows, pa.Table) else from_records(rows, schema, needed=needed)
    if table.num_columns and (missing := [column for column in needed if column not in table.column_names]):
        has = ", ".join(table.column_names)
        raise Invalid(f"rows for dataset {name!r} have no column {', '.join(missing)}, which each must have (they have: {has})")
    reasons: dict[int, str] = {}
    for column in needed if table.num_rows else ():
        for place in np.flatnonzero(table.column(column).is_null(nan_is_null=True).to_numpy()).tolist():
            reasons.setdefault(place, f"column {column!r} is null; expected a value in each row")
    hashes = hashes_of(table, columns) if columns and table.num_rows else None
    there = already_there(ws, before, columns, hashes) if hashes is not None else np.zeros(table.num_rows, dtype=np.bool_)
    results: list[CheckResult] = []
    fresh, asked = _fresh(hashes, there, reasons), np.empty(0, dtype=np.int64)
    while contract is not None and (unasked := np.setdiff1d(fresh, asked)).size:  # once, but for rows whose forerunner of one key is bad
        found, bad = examine(table.take(unasked), contract)
        results, asked = results or found, np.union1d(asked, fresh)
        if contract.on_violation != "warn":
            reasons |= {int(unasked[place]): _told(broken) for place, broken in bad.items()}
        fresh = _fresh(hashes, there, reasons)
    places = sorted(reasons)
    broken_rows = table.take(pa.array(places, pa.int64()))
    texts = [text_of(jsonlike(row)) for row in broken_rows.to_pylist()]
    misfits = [*unfit, *(Misfit(numbers[place], reasons[place], text) for place, text in zip(places, texts, strict=True))]
    good = table if fresh.size == table.num_rows else table.take(fresh)
    return _SortedOut(
        good=good, duplicates=table.num_rows - fresh.size - len(places), broken=broken_rows, reasons=[reasons[place] for place in places],
        unfit=unfit, misfits=sorted(misfits), results=results,
    )  # fmt: skip


def _fresh(hashes: Words | None, there: NDArray[np.bool_], reasons: Mapping[int, str]) -> NDArray[np.int64]:
    """Return the numbers of the rows to be added: good as far as is known, not there yet, and the first of their key among those."""
    open_to_it = ~there
    open_to_it[list(reasons)] = False
    places = np.flatnonzero(open_to_it)
    return places if hashes is None else places[first_ones(hashes[places])]


def _check_refusals(name: str, found: _SortedOut, contract: Contract | None, on_bad: OnBad) -> None:
    """Raises ContractBroken, RowsRefused where somebody waits to hear of it."""
    if on_bad != "refuse":
        return
    if contract is not None and contract.on_violation == "block" and overall(found.results) == "fail":
        raise ContractBroken(name, found.results)
    if found.misfits and (contract is None or contract.on_violation != QUARANTINE):
        raise RowsRefused(name, found.misfits, found.good.num_rows + found.duplicates + len(found.misfits))


def _quarantine(ws: Workspace, name: str, broken: pa.Table, reasons: Sequence[str], unfit: Sequence[Misfit]) -> Draft:
    """Store rows that are set aside with the reason: those of the dataset's types as such, the others as text.

    Where the dataset's columns have changed since the last ones, a version begins with these alone; earlier versions have the others.
    """
    told: dict[str, list[str | None]] = {
        "quarantine_reason": [*reasons, *(misfit.reason for misfit in unfit)],
        "quarantine_row": [*(None for _ in reasons), *(misfit.text for misfit in unfit)],
    }
    table = pa.concat_tables([broken, broken.schema.empty_table().take(pa.array([None] * len(unfit), pa.int64()))])
    for column, values in told.items():
        table = table.append_column(column, pa.array(values, pa.string()))
    where = f"{name}.{QUARANTINE}"
    before = versions.find_newest(ws, where)
    if before is None or before.columns == {field.name: str(field.type) for field in table.schema}:
        return versions.draft_append(ws, where, table, before)
    return replace(versions.draft_append(ws, where, table, None), before=before.version)


def _without(table: pa.Table, places: Iterable[int]) -> pa.Table:
    keep = np.ones(table.num_rows, dtype=np.bool_)
    keep[list(places)] = False
    return table if keep.all() else table.filter(pa.array(keep, pa.bool_()))


def _told(broken: Sequence[str]) -> str:
    return f"it breaks the contract: {', '.join(broken)}"
