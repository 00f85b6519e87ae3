"""Runs under short numbers, what they have under keys in one index each, histories packed; trash, tags and retention of experiments."""

from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

from tidemill.tracking.points import Points, encode_block

revision = "tracking_0002"
down_revision = "tracking_0001"
branch_labels = None

_OLD = "_before_0002"
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.drop_index("ix_runs_experiment", "runs")
    op.drop_index("ix_runs_parent", "runs")
    op.drop_index("ix_metrics_value", "metrics")
    for table in ("experiments", "runs", "run_tags"):
        op.rename_table(table, table + _OLD)
        if op.get_bind().dialect.name == "postgresql":  # names of constraints are one space there
            op.execute(f"ALTER TABLE {table + _OLD} RENAME CONSTRAINT pk_{table} TO pk_{table + _OLD}")
    _experiments()
    _runs()
    _facts()
    _points()
    _copy()
    for table in ("experiments" + _OLD, "runs" + _OLD, "run_tags" + _OLD, "params", "metrics", "metric_points"):
        op.drop_table(table)


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("keep_days", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_experiments")),
    )
    in_use = sa.text("deleted_at IS NULL")
    op.create_index("uq_experiments_name", "experiments", ["project", "name"], unique=True, sqlite_where=in_use, postgresql_where=in_use)
    op.create_table(
        "experiment_tags",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "experiment_id", "key", name=op.f("pk_experiment_tags")),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("no", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_runs")),
        sa.UniqueConstraint("project", "id", name=op.f("uq_runs_project_id")),
    )
    op.create_index("ix_runs_experiment", "runs", ["project", "experiment_id", "deleted_at", "started_at", "id"])
    op.create_index("ix_runs_started", "runs", ["project", "deleted_at", "started_at"])
    op.create_index("ix_runs_parent", "runs", ["project", "parent"])
    op.create_table(
        "run_writers",
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "writer", name=op.f("pk_run_writers")),
    )


def _facts() -> None:
    for name in ("run_params", "run_tags"):
        _by_key(name, sa.Column("value", sa.Text(), nullable=False))
        for index, columns, where in (
            ("value", ["experiment_id", "key", "value", "run"], "length(value) <= 256"),
            ("long", ["experiment_id", "key", "run"], "length(value) > 256"),
        ):
            op.create_index(f"ix_{name}_{index}", name, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    _by_key(
        "run_metrics",
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_run_metrics_value", "run_metrics", ["experiment_id", "key", "value", "run"])


def _by_key(name: str, *columns: Any) -> None:
    op.create_table(
        name,
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("run", "key", name=op.f(f"pk_{name}")),
        sqlite_with_rowid=False,
    )


def _points() -> None:
    op.create_table(
        "metric_tail",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_tail")),
    )
    op.create_index("ix_metric_tail_run", "metric_tail", ["run", "id"])
    op.create_table(
        "metric_blocks",
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run", "key", "number", name=op.f("pk_metric_blocks")),
    )


def _copy() -> None:
    # Experiments counted from 1 in each project; they are one sequence now, and those of the default project keep their ids.
    op.execute(f"""
        INSERT INTO experiments (project, id, name, location, created_at, updated_at)
        SELECT project, CASE project WHEN 'default' THEN id
            ELSE (SELECT coalesce(max(id), 0) FROM experiments{_OLD}) + row_number() OVER (ORDER BY project, id) END,
            name, '', created_at, created_at FROM experiments{_OLD}""")
    op.execute(f"""
        INSERT INTO runs (project, id, experiment_id, name, kind, parent, status, actor, started_at, ended_at, message)
        SELECT old.project, old.id, experiments.id, old.name, kind, parent, status, actor, started_at, ended_at, message
        FROM runs{_OLD} AS old JOIN experiments{_OLD} AS belonged ON belonged.project = old.project AND belonged.id = old.experiment_id
        JOIN experiments ON experiments.project = old.project AND experiments.name = belonged.name ORDER BY started_at, old.id""")
    for new, old, columns in (
        ("run_params", "params", "value"),
        ("run_tags", "run_tags" + _OLD, "value"),
        ("run_metrics", "metrics", "value, step, at"),
    ):
        wanted = ", ".join(f"old.{name.strip()}" for name in columns.split(","))
        op.execute(f"""
            INSERT INTO {new} (run, key, experiment_id, {columns}) SELECT runs.no, old.key, runs.experiment_id, {wanted}
            FROM {old} AS old JOIN runs ON runs.project = old.project AND runs.id = old.run""")
    _copy_points()


def _copy_points() -> None:
    bind = op.get_bind()
    series = bind.execute(
        sa.text("""
        SELECT DISTINCT runs.no, old.project, old.run, old.key FROM metric_points AS old
        JOIN runs ON runs.project = old.project AND runs.id = old.run""")
    ).all()
    one = sa.text("SELECT value, step, at FROM metric_points WHERE project = :project AND run = :run AND key = :key ORDER BY number")
    add = sa.text("INSERT INTO metric_blocks (run, key, number, points, data) VALUES (:run, :key, 1, :points, :data)")
    for no, project, run, key in series:
        rows = bind.execute(one, {"project": project, "run": run, "key": key}).all()
        values, steps, times = zip(*rows, strict=True)
        packed = encode_block(Points(np.array(values, float), np.array(steps, np.int64), np.array(times, np.int64)))
        bind.execute(add, {"run": no, "key": key, "points": len(rows), "data": packed})
