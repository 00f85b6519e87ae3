"""First tables of checks."""


revision = "checks_0001"
down_revision = None
branch_labels = ("checks",)


def upgrade() -> None:
    pass
