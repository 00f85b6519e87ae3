"""Profiles of versions."""

import sqlalchemy as sa
from alembic import op

revision = "datasets_0004"
down_revision = "datasets_0003"


def upgrade() -> None:
    op.create_table(
        "dataset_profiles",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", "version", name=op.f("pk_dataset_profiles")),
    )
