"""Traces, their spans, and what was said of them."""

import sqlalchemy as sa
from alembic import op

revision = "tracking_0004"
down_revision = "tracking_0003"


def upgrade() -> None:
    op.create_table(
        "assessments",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("overrides", sa.Text(), nullable=True),
        sa.Column("valid", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_assessments")),
    )
    op.create_index("ix_assessments_name", "assessments", ["project", "kind", "name"], unique=False)
    op.create_index("ix_assessments_trace", "assessments", ["project", "trace", "created_at"], unique=False)
    op.create_table(
        "trace_metadata",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "trace", "key", name=op.f("pk_trace_metadata")),
    )
    op.create_index("ix_trace_metadata_key", "trace_metadata", ["project", "key"], unique=False)
    op.create_table(
        "trace_runs",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "trace", "run", name=op.f("pk_trace_runs")),
    )
    op.create_index("ix_trace_runs_run", "trace_runs", ["project", "run"], unique=False)
    op.create_table(
        "trace_spans",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=False),
        sa.Column("ended_ns", sa.BigInteger(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "trace", "id", name=op.f("pk_trace_spans")),
    )
    op.create_table(
        "trace_tags",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("trace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "trace", "key", name=op.f("pk_trace_tags")),
    )
    op.create_index("ix_trace_tags_key", "trace_tags", ["project", "key"], unique=False)
    op.create_table(
        "traces",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("experiment_id", sa.BigInteger(), nullable=False),
        sa.Column("client_request_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("request_preview", sa.Text(), nullable=True),
        sa.Column("response_preview", sa.Text(), nullable=True),
        sa.Column("told", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_traces")),
    )
    op.create_index("ix_traces_experiment", "traces", ["project", "experiment_id", "requested_at", "id"], unique=False)
