"""Opening workspaces: for whom, where, and what is said when it cannot be."""

import os
from pathlib import Path

import pytest

from tests import world
from tidemill.core.clock import SimulatedClock
from tidemill.core.errors import Conflict, Invalid, NotFound, Unavailable
from tidemill.core.ids import ActorId
from tidemill.govern.actors import ProjectNotFound
from tidemill.govern.audit import list_events, verify_audit
from tidemill.govern.roles import ActionRefused, Role, allows
from tidemill.govern.workspace import Workspace, create_project, grant_role, init_workspace, open_workspace

PACKAGES = ("datasets", "tracking", "registry", "deploy", "monitor", "automate", "govern", "checks", "pipelines", "features")
LADDER: dict[Role, set[str]] = {
    "viewer": {"read"},
    "developer": {"read", "write"},
    "approver": {"read", "write", "approve"},
    "admin": {"read", "write", "approve", "admin"},
}


def test_a_workspace_made_twice_is_the_same(tmp_path: Path) -> None:
    first = init_workspace(tmp_path)
    events = verify_audit(first).events
    again = init_workspace(tmp_path)
    assert verify_audit(again).events == events == 1
    assert (tmp_path / ".tidemill").stat().st_mode & 0o777 == 0o700
    assert open_workspace(tmp_path).actor.role == "admin"


@pytest.mark.parametrize("role", LADDER)
def test_each_role_may_do_what_it_may_and_nothing_else(role: Role) -> None:
    for package in PACKAGES:
        for verb in ("read", "write", "approve", "admin"):
            assert allows(role, f"{package}.{verb}") == (verb in LADDER[role])
    assert not allows(role, "datasets.destroy")


def test_a_refusal_says_which_role_would_do(ws: Workspace) -> None:
    viewer = world.acting(ws, "vic", "viewer")
    with pytest.raises(
        ActionRefused, match=r"'vic' may not do datasets.write on 'flights' in project 'default': the role viewer .* developer does"
    ):
        viewer.require("datasets.write", "flights")


def test_a_role_in_one_project_is_none_in_another(ws: Workspace) -> None:
    create_project(ws, "other")
    grant_role(ws, "dee", "developer")
    assert open_workspace(ws.home, actor=ActorId("dee")).actor.role == "developer"
    with pytest.raises(NotFound, match="actor 'dee' has no role in project 'other'"):
        open_workspace(ws.home, actor=ActorId("dee"), project="other")


def test_an_unknown_project_lists_those_there_are(ws: Workspace) -> None:
    with pytest.raises(ProjectNotFound, match=r"no project 'nope' \(there are: default\)"):
        open_workspace(ws.home, project="nope")


def test_a_granted_role_is_recorded_with_who_gave_it(ws: Workspace) -> None:
    grant_role(ws, "ann", "approver", reason="on call")
    event = list_events(ws, limit=1)[0]
    assert (event.kind, event.actor, event.reason, event.body["role"]) == ("role.granted", "owner", "on call", "approver")
    with pytest.raises(Invalid, match="role 'boss' is not known"):
        grant_role(ws, "ann", "boss")


def test_a_folder_that_is_no_workspace_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is not a Tidemill workspace; make it one with: tidemill init"):
        open_workspace(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((Unavailable, Conflict), match="cannot hold a workspace"):
        init_workspace(tmp_path / "file" / "home")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Unavailable, match="cannot hold a workspace: Permission denied"):
        init_workspace(tmp_path)


def test_an_unknown_table_in_the_file_is_refused(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    (tmp_path / "tidemill.toml").write_text("[setings]\nport = 1\n")
    with pytest.raises(Invalid, match=r"unknown table \[setings\]; did you mean 'settings'\?"):
        open_workspace(tmp_path)


def test_all_who_act_share_the_stores_and_closing_closes_them(tmp_path: Path) -> None:
    ws = init_workspace(tmp_path)
    other = ws.acting(ws.actor, "default")
    assert other.objects is ws.objects
    other.online.put_many("n", [(b"key", b"value")])
    assert ws.online is other.online
    ws.close()
    with pytest.raises(Unavailable, match="it was closed"):
        other.online.get_many("n", [b"key"])


def test_a_simulated_clock_lies_below_the_state_folder(tmp_path: Path) -> None:
    SimulatedClock.create(tmp_path / ".tidemill" / "run" / "clock", world.START)
    ws = init_workspace(tmp_path, clock="simulated:run/clock")
    assert ws.clock.now() == world.START
    assert open_workspace(tmp_path, clock="simulated:run/clock").clock.now() == world.START
