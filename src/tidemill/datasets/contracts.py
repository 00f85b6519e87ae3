"""Data contracts: what a dataset promises, checked in one pass by DuckDB. Pure; what follows of a breach is `intake`'s."""

from typing import Annotated, Literal

import duckdb
import pyarrow as pa

from tidemill.checks.check import CheckResult, Evidence, EvidenceTable
from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Value

Share = Annotated[float, Meta(ge=0, le=1)]
SAMPLES = 3
VOLUME = "volume"


class ColumnRule(Value, frozen=True, kw_only=True):
    """What holds for each value of one column. share_null is the largest share of rows that may have none."""

    column: str
    kind: str | None = None
    share_null: Share = 1.0
    low: float | None = None
    high: float | None = None
    allowed: tuple[str, ...] = ()
    unique: bool = False


class SqlRule(Value, frozen=True, kw_only=True):
    """A condition in SQL that holds for every row: `arr_time >= dep_time`."""

    name: str
    condition: str


class Contract(Value, frozen=True, kw_only=True):
    """The promise of a dataset, and what happens to rows that break it.

    on_violation: block refuses the batch, quarantine sets bad rows aside under NAME.quarantine, warn lets them pass.
    """

    columns: tuple[ColumnRule, ...] = ()
    conditions: tuple[SqlRule, ...] = ()
    rows_min: Annotated[int, Meta(ge=0)] = 1
    on_violation: Literal["block", "quarantine", "warn"] = "block"


def examine(table: pa.Table, contract: Contract) -> tuple[list[CheckResult], dict[int, tuple[str, ...]]]:
    """Return one result a rule, and the numbers of the rows that break some rule of their own, with what they break.

    Raises Invalid for unknown columns.
    """
    rules = _row_rules(table, contract)
    results = [_volume(table, contract), *_kinds(table, contract), *_null_shares(table, contract)]
    if not rules:
        return results, {}
    connection = duckdb.connect()
    try:
        connection.register("batch", table.append_column("__row", pa.array(range(table.num_rows), pa.int64())))
        parts = ", ".join(f"coalesce(NOT ({condition}), FALSE) AS b{number}" for number, (_, condition) in enumerate(rules))
        connection.execute(f"CREATE TABLE broken AS SELECT __row, {parts} FROM batch")
        counts = connection.execute("SELECT " + ", ".join(f"count(*) FILTER (b{n})" for n in range(len(rules))) + " FROM broken").fetchone()
        for number, (name, _) in enumerate(rules):
            results.append(_row_result(connection, table, name, number, int((counts or ())[number])))
        any_broken = " OR ".join(f"b{n}" for n in range(len(rules)))
        found = connection.execute(f"SELECT * FROM broken WHERE {any_broken} ORDER BY __row").fetchall()
        bad = {row[0]: tuple(name for (name, _), broken in zip(rules, row[1:], strict=True) if broken) for row in found}
    except duckdb.Error as error:
        raise Invalid(f"a rule of the contract could not be evaluated: {str(error).splitlines()[0]}") from error
    finally:
        connection.close()
    return results, bad


def _row_rules(table: pa.Table, contract: Contract) -> list[tuple[str, str]]:
    rules: list[tuple[str, str]] = []
    for rule in contract.columns:
        if rule.column not in table.column_names:
            raise Invalid(f"the contract names column {rule.column!r}, which the data lacks (it has: {', '.join(table.column_names)})")
        quoted = '"' + rule.column.replace('"', '""') + '"'
        if rule.share_null == 0:
            rules.append((f"{rule.column} is present", f"{quoted} IS NOT NULL"))
        if rule.low is not None:
            rules.append((f"{rule.column} >= {rule.low:g}", f"{quoted} >= {rule.low!r}"))
        if rule.high is not None:
            rules.append((f"{rule.column} <= {rule.high:g}", f"{quoted} <= {rule.high!r}"))
        if rule.allowed:
            words = ", ".join("'" + word.replace("'", "''") + "'" for word in rule.allowed)
            rules.append((f"{rule.column} is one of {len(rule.allowed)} values", f"{quoted}::VARCHAR IN ({words})"))
        if rule.unique:
            rules.append((f"{rule.column} is unique", f"row_number() OVER (PARTITION BY {quoted} ORDER BY __row) = 1"))
    return rules + [(rule.name, rule.condition) for rule in contract.conditions]


def _volume(table: pa.Table, contract: Contract) -> CheckResult:
    enough = table.num_rows >= contract.rows_min
    summary = f"{table.num_rows} rows, at least {contract.rows_min} expected"
    evidence = Evidence(values={"rows": float(table.num_rows)}, thresholds={"rows": float(contract.rows_min)})
    return CheckResult(name=VOLUME, verdict="pass" if enough else "fail", summary=summary, evidence=evidence)


def _kinds(table: pa.Table, contract: Contract) -> list[CheckResult]:
    results = []
    for rule in contract.columns:
        if rule.kind is not None:
            found = str(table.schema.field(rule.column).type)
            verdict: Literal["pass", "fail"] = "pass" if found == rule.kind else "fail"
            results.append(
                CheckResult(name=f"{rule.column} type", verdict=verdict, summary=f"{rule.column} is {found}, expected {rule.kind}")
            )
    return results


def _null_shares(table: pa.Table, contract: Contract) -> list[CheckResult]:
    results = []
    for rule in contract.columns:
        if 0 < rule.share_null < 1:
            share = table.column(rule.column).null_count / max(1, table.num_rows)
            summary = f"{rule.column} is missing in {share:.1%} of rows, at most {rule.share_null:.1%} allowed"
            evidence = Evidence(values={"share_null": share}, thresholds={"share_null": rule.share_null})
            verdict: Literal["pass", "fail"] = "pass" if share <= rule.share_null else "fail"
            results.append(CheckResult(name=f"{rule.column} missing", verdict=verdict, summary=summary, evidence=evidence))
    return results


def _row_result(connection: duckdb.DuckDBPyConnection, table: pa.Table, name: str, number: int, count: int) -> CheckResult:
    if count == 0:
        return CheckResult(
            name=name, verdict="pass", summary=f"{name}: holds for all {table.num_rows} rows", evidence=Evidence(values={"rows": 0.0})
        )
    rows = connection.execute(f"SELECT __row FROM broken WHERE b{number} ORDER BY __row LIMIT {SAMPLES}").fetchall()
    sample = table.take(pa.array([row[0] for row in rows])).to_pylist()
    shown = tuple(tuple(str(value) for value in row.values()) for row in sample)
    evidence = Evidence(
        values={"rows": float(count), "share": count / table.num_rows},
        tables=(EvidenceTable(title=f"first rows that break: {name}", columns=tuple(table.column_names), rows=shown),),
    )
    return CheckResult(name=name, verdict="fail", summary=f"{name}: {count} of {table.num_rows} rows break it", evidence=evidence)
