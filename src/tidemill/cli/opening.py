"""How commands open the workspace that their options name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tidemill.core.ids import ActorId
from tidemill.core.settings import caller_environment, find_home
from tidemill.govern.actors import OWNER
from tidemill.govern.workspace import DEFAULT_PROJECT, Workspace, open_workspace

F = TypeVar("F", bound=Callable[..., Any])


def workspace_options(command: F) -> F:
    """Give a command --home and --project, which `opened` takes."""
    command = click.option(
        "--home", type=click.Path(path_type=Path, file_okay=False), help="Workspace folder. Default: the one you are in."
    )(command)
    return click.option("--project", default=None, help="Project. Default: TIDEMILL_PROJECT, else 'default'.")(command)


def opened(home: Path | None, project: str | None, *, actor: ActorId = OWNER) -> Workspace:
    """Open the workspace that a command's options name; it is closed when the command has ended."""
    found = open_workspace(home or find_home(), actor=actor, project=project or caller_environment().get("project", DEFAULT_PROJECT))
    click.get_current_context().call_on_close(found.close)
    return found
