"""Versions of files: how many, how much of them was new, and the trash; tags of versions."""

import sqlalchemy as sa
from alembic import op

revision = "datasets_0003"
down_revision = "datasets_0002"


def upgrade() -> None:
    op.add_column("dataset_versions", sa.Column("files", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("dataset_versions", sa.Column("new_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("dataset_versions", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "dataset_tags",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", "name", "tag", "valid_from", name=op.f("pk_dataset_tags")),
    )
