"""What was brought from other tracking servers."""

import sqlalchemy as sa
from alembic import op

revision = "tracking_0005"
down_revision = "tracking_0004"


def upgrade() -> None:
    op.create_table(
        "moves",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("theirs", sa.Text(), nullable=False),
        sa.Column("ours", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "origin", "kind", "theirs", name=op.f("pk_moves")),
    )
