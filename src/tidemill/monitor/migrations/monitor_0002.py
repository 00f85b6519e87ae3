"""Alerts of feature views."""

import sqlalchemy as sa
from alembic import op

revision = "monitor_0002"
down_revision = "monitor_0001"


def upgrade() -> None:
    op.add_column("alerts", sa.Column("view", sa.Text(), nullable=False, server_default=""))
