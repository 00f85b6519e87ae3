"""Models known by a key whatever their name, tags as rows, environments, comments, locks, a trash."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "registry_0002"
down_revision = "registry_0001"


def upgrade() -> None:
    _models()
    _versions()
    _histories()


def _models() -> None:
    op.execute("ALTER TABLE registered_models RENAME COLUMN name TO key")
    for name, kind in (("name", sa.Text()), ("updated_at", sa.BigInteger())):
        op.add_column("registered_models", sa.Column(name, kind, nullable=False, server_default="" if name == "name" else "0"))
    op.add_column("registered_models", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.execute("UPDATE registered_models SET name = key, updated_at = created_at")
    op.create_index("ix_registered_models_updated", "registered_models", ["project", "updated_at"])
    living = sa.text("deleted_at IS NULL")
    op.create_index(
        "uq_registered_models_name", "registered_models", ["project", "name"], unique=True, sqlite_where=living, postgresql_where=living
    )
    _tags("model_tags", "ix_model_tags_value")


def _versions() -> None:
    op.execute("ALTER TABLE model_versions RENAME COLUMN name TO model")
    for name in ("description", "source", "location", "run_link", "status_message", "environment"):
        op.add_column("model_versions", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    op.add_column("model_versions", sa.Column("status", sa.Text(), nullable=False, server_default="ready"))
    op.add_column("model_versions", sa.Column("logged_model", sa.Text(), nullable=True))
    op.add_column("model_versions", sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("model_versions", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.execute("UPDATE model_versions SET updated_at = created_at")
    for name in ("updated", "run", "logged_model"):
        column = "updated_at" if name == "updated" else name
        op.create_index(f"ix_model_versions_{name}", "model_versions", ["project", column])
    _tags("model_version_tags", "ix_model_version_tags_value", sa.Column("version", sa.Integer(), nullable=False))
    _tags_into_rows()
    op.execute("ALTER TABLE model_versions DROP COLUMN tags")


def _tags_into_rows() -> None:
    tx = op.get_bind()
    names = ("project", "model", "version", "tags")
    found: Any = tx.execute(sa.select(*map(sa.column, names)).select_from(sa.table("model_versions"))).all()
    rows = [
        {"project": row.project, "model": row.model, "version": row.version, "tag": tag, "value": value}
        for row in found
        for tag, value in json.loads(row.tags).items()
    ]
    if rows:
        columns = ("project", "model", "version", "tag", "value")
        tx.execute(sa.insert(sa.table("model_version_tags", *map(sa.column, columns))), rows)


def _tags(table: str, index: str, *more: sa.Column[int]) -> None:
    op.create_table(
        table,
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        *more,
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", *(column.name for column in more), "tag", name=op.f(f"pk_{table}")),
    )
    short = sa.text("length(value) <= 256")
    op.create_index(index, table, ["project", "tag", "value"], sqlite_where=short, postgresql_where=short)


def _histories() -> None:
    def spans(table: str, *columns: sa.Column[Any], key: tuple[str, ...] = ("model", "version")) -> None:
        op.create_table(
            table,
            sa.Column("project", sa.Text(), nullable=False),
            sa.Column("model", sa.Text(), nullable=False),
            sa.Column("version", sa.Integer(), nullable=False),
            sa.Column("actor", sa.Text(), nullable=False),
            *columns,
            sa.Column("valid_from", sa.BigInteger(), nullable=False),
            sa.Column("valid_to", sa.BigInteger(), nullable=True),
            sa.PrimaryKeyConstraint("project", *key, "valid_from", name=op.f(f"pk_{table}")),
        )

    def reason() -> sa.Column[str]:
        return sa.Column("reason", sa.Text(), nullable=False)

    spans("model_environments", sa.Column("environment", sa.Text(), nullable=False), reason())
    op.create_index("ix_model_environments_current", "model_environments", ["project", "model", "valid_to"])
    spans("model_locks", reason(), sa.Column("opened_by", sa.Text(), nullable=True))
    op.create_index("ix_model_locks_current", "model_locks", ["project", "model", "valid_to"])
    text: tuple[sa.Column[Any], ...] = (sa.Column("id", sa.Text(), nullable=False), sa.Column("at", sa.BigInteger(), nullable=False))
    spans("model_comments", *text, sa.Column("text", sa.Text(), nullable=False), key=("id",))
    op.create_index("ix_model_comments_model", "model_comments", ["project", "model", "version", "at"])
