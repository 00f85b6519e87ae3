"""The first tables of automate."""

import sqlalchemy as sa
from alembic import op

revision = "automate_0001"
down_revision = None
branch_labels = ("automate",)


def upgrade() -> None:
    op.create_table(
        "controllers",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=False),
        sa.Column("next_due", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_controllers")),
    )
    op.create_table(
        "rule_firings",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "rule", "trigger", name=op.f("pk_rule_firings")),
    )
    op.create_index("ix_rule_firings_group", "rule_firings", ["project", "group", "at"], unique=False)
    op.create_table(
        "rules",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("since_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_rules")),
    )
