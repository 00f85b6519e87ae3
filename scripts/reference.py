"""Write docs/reference/ from the code: settings, commands, routes, events, public names. `--check` only says whether it is stale.

Usage: python scripts/reference.py [--check]
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import tidemill
from tidemill.catalog.events import EventBody
from tidemill.cli.main import COMMANDS
from tidemill.core.settings import HELP, PREFIX, Settings, shown
from tidemill.core.values import fields_of
from tidemill.server.app import openapi

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTE = "<!-- written by `make reference`; change the code, not this page -->\n\n"


def settings() -> str:
    """Return the page of settings."""
    rows = [
        f"| `{name}` | `{PREFIX}{name.upper()}` | `{_written(value)}` | {_cell(HELP[name])} |" for name, value in shown(Settings()).items()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            "Order: command line, then the environment, then `[settings]` in `tidemill.toml`, then the default.",
            "",
            "| setting | environment | default | what it is |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def commands() -> str:
    """Return the page of commands."""
    parts = [
        "# Commands",
        "",
        "Every command has `--help`; errors are one sentence on standard error, with exit code 1 (wrong usage: 2).",
        "",
    ]
    for name, (target, _) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        parts += _command(command, f"tidemill {name}")
    return "\n".join(parts)


def api() -> str:
    """Return the page of routes."""
    document = openapi()
    parts = [
        "# API",
        "",
        "The OpenAPI 3.1 document is at `/openapi.json` of every server. Errors are problem details (RFC 9457).",
        "",
    ]
    for tag in document["tags"]:
        parts += [f"## {tag['name']}", "", "| | path | |", "|---|---|---|"]
        parts += [
            f"| {method.upper()} | `{path}` | {_cell(operation['summary'])} |"
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation["tags"]
        ]
        parts.append("")
    return "\n".join(parts)


def events() -> str:
    """Return the page of events."""
    _import_everything()
    rows = [
        f"| `{kind.__struct_config__.tag}` | {_cell(_first_line(kind))} | {', '.join(f'`{name}`' for name in fields_of(kind))} |"
        for kind in sorted(_below(EventBody), key=lambda kind: str(kind.__struct_config__.tag))
    ]
    return "\n".join(
        ["# Events", "", "What a rule can wait for, and the audit log tells.", "", "| kind | meaning | says |", "|---|---|---|", *rows, ""]
    )


def names() -> str:
    """Return the page of public names."""
    rows = [
        f"| `{name}` | {_cell(_first_line(getattr(tidemill, name)))} |"
        for name in sorted(tidemill.__all__, key=str.lower)
        if not name.startswith("_")
    ]
    return "\n".join(
        [
            "# Names",
            "",
            "What `import tidemill as tm` gives; each is loaded when first asked for.",
            "",
            "| name | |",
            "|---|---|",
            *rows,
            "",
        ]
    )


PAGES = {"settings.md": settings, "commands.md": commands, "api.md": api, "events.md": events, "names.md": names}


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page's path and text."""
    for name, write in PAGES.items():
        yield FOLDER / name, NOTE + write()


def _command(command: click.Command, called: str) -> list[str]:
    parts = [f"## {called}", "", " ".join((command.help or "").split()), ""]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    arguments = [param.make_metavar(click.Context(command)) for param in command.params if isinstance(param, click.Argument)]
    parts += [f"`{' '.join([called, *arguments])}`", ""] if not isinstance(command, click.Group) else []
    parts += [f"- `{', '.join(option.opts)}`: {' '.join((option.help or '').split())}" for option in options] + ([""] if options else [])
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                parts += [
                    line.replace("## ", "### ", 1) if line.startswith("## ") else line for line in _command(found, f"{called} {name}")
                ]
    return parts


def _import_everything() -> None:
    for module in pkgutil.walk_packages(tidemill.__path__, "tidemill."):
        if not any(part in module.name for part in (".migrations", ".alembic", ".projects", "__main__", ".conformance")):
            importlib.import_module(module.name)


def _below(kind: type[EventBody]) -> Iterator[type[EventBody]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("tidemill."):
            yield child
        yield from _below(child)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _written(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple | list) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    stale = [(path, text) for path, text in pages() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in arguments:
        for path, _ in stale:
            print(f"{path.name} is stale; write it again with: make reference")
        return bool(stale)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in stale:
        path.write_text(text, "utf-8")
        print(f"{path.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
