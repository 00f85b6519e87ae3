"""Routes of rules and the controller."""

from tidemill.automate import controller, rules
from tidemill.automate.controller import ControllerState
from tidemill.automate.rules import Firing, Rule
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Limit, Route


class SetRule(Value, frozen=True, kw_only=True):
    """A rule as it shall be, and why."""

    rule: Rule
    reason: str = ""


def list_rules(ws: Workspace) -> list[Rule]:
    """List rules by name."""
    return rules.list_rules(ws)


def set_rule(ws: Workspace, *, body: SetRule) -> Rule:
    """Make a rule or change it; it sees what happens from now on."""
    return rules.set_rule(ws, body.rule, reason=body.reason)


def list_firings(ws: Workspace, *, limit: Limit = 100) -> list[Firing]:
    """List what rules did, newest first."""
    return rules.list_firings(ws, limit=limit)


def get_controller(ws: Workspace) -> ControllerState:
    """Say up to which moment the controller has done all that was due."""
    return controller.read_controller(ws)


ROUTES = (
    Route("GET", "/rules", list_rules),
    Route("PUT", "/rules", set_rule),
    Route("GET", "/rule-firings", list_firings),
    Route("GET", "/controller", get_controller),
)
