"""The four roles and what each may do. Pure; owns no table.

An action is `<package>.<verb>` with the verbs read, write, approve and admin: `datasets.read`, `registry.approve`.
"""

from typing import Literal

from tidemill.core.errors import NotPermitted

Role = Literal["viewer", "developer", "approver", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "developer", "approver", "admin")
_VERBS: dict[Role, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "developer": frozenset({"read", "write"}),
    "approver": frozenset({"read", "write", "approve"}),
    "admin": frozenset({"read", "write", "approve", "admin"}),
}


class ActionRefused(NotPermitted):
    """The actor's role does not cover the action."""

    def __init__(self, actor: str, role: str, action: str, resource: str, project: str) -> None:
        self.actor, self.role, self.action, self.resource, self.project = actor, role, action, resource, project
        needed = next((name for name in ROLES if allows(name, action)), "admin")
        on = "" if resource == "*" else f" on {resource!r}"
        super().__init__(
            f"{actor!r} may not do {action}{on} in project {project!r}: the role {role} does not cover it, {needed} does; "
            f"ask an admin for: tidemill access grant {actor} {needed}"
        )


def allows(role: Role, action: str) -> bool:
    """Return whether a role covers an action."""
    return action.rpartition(".")[2] in _VERBS[role]


def weaker(one: Role, other: Role) -> Role:
    """Return the one of two roles that may do less."""
    return one if ROLES.index(one) <= ROLES.index(other) else other
