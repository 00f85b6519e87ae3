"""How rows come in: checked against the dataset's contract, then added or appended, bad ones refused or set aside.

Owns the table of contracts.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, as_of, current
from tidemill.checks.check import CheckResult, overall, record_checks
from tidemill.core.errors import Invalid
from tidemill.core.ids import EventId, check_name
from tidemill.core.values import Value
from tidemill.datasets import versions
from tidemill.datasets.contracts import Contract, examine
from tidemill.datasets.versions import DatasetVersion, open_table, read_files
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


class Admitted(Value, frozen=True, kw_only=True):
    """What came of a batch: the version made of its good rows, the one of rows set aside if any, and what the contract said."""

    version: DatasetVersion
    quarantine: DatasetVersion | None = None
    set_aside: int = 0
    results: tuple[CheckResult, ...] = ()


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
    ws: Workspace,
    name: str,
    source: pa.Table | Sequence[Path] | Path,
    *,
    description: str = "",
    reason: str = "",
    cause: EventId | None = None,
) -> Admitted:
    """Make a version of exactly these rows, but for those that the contract sets aside. Raises ContractBroken under the policy block."""
    contract = read_contract(ws, name)
    if contract is None:
        return Admitted(version=versions.add(ws, name, source, description=description, reason=reason, cause=cause))
    table = source if isinstance(source, pa.Table) else read_files(source)
    return _admit(ws, name, table, contract, lambda good: versions.add(ws, name, good, description=description, reason=reason, cause=cause))


def append(ws: Workspace, name: str, table: pa.Table, *, reason: str = "", cause: EventId | None = None) -> Admitted:
    """Make a version that has the newest one's rows and then these, but for those set aside.

    Raises ContractBroken under the policy block.
    """
    contract = read_contract(ws, name)
    if contract is None:
        return Admitted(version=versions.append(ws, name, table, reason=reason, cause=cause))
    return _admit(ws, name, table, contract, lambda good: versions.append(ws, name, good, reason=reason, cause=cause))


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
        reason = f"rows that break the contract of {name}"
        aside = versions.append(ws, f"{name}.{QUARANTINE}", table.take(pa.array(bad)), reason=reason)
        keep = np.ones(table.num_rows, dtype=bool)
        keep[bad] = False
        table = table.filter(pa.array(keep))
    version = write(table)
    record_checks(ws, version.node, results, reason="contract")
    return Admitted(version=version, quarantine=aside, set_aside=len(bad) if aside else 0, results=tuple(results))
