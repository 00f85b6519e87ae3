"""The first tables of checks."""

import sqlalchemy as sa
from alembic import op

revision = "checks_0001"
down_revision = None
branch_labels = ("checks",)


def upgrade() -> None:
    op.create_table(
        "check_results",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_check_results")),
    )
    op.create_index("ix_check_results_subject", "check_results", ["project", "subject", "at"], unique=False)
