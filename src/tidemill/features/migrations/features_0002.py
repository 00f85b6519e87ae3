"""Declared sources."""

import sqlalchemy as sa
from alembic import op

revision = "features_0002"
down_revision = "features_0001"


def upgrade() -> None:
    op.create_table(
        "feature_sources",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("declaration", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", "name", "valid_from", name=op.f("pk_feature_sources")),
    )
    op.create_index("ix_feature_sources_current", "feature_sources", ["project", "name", "valid_to"])
