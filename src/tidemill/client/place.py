"""Where a run goes: which server and project, or nowhere but this machine's disk for now."""

import os
from functools import lru_cache
from pathlib import Path

from tidemill.client.call import Caller
from tidemill.client.client import Client
from tidemill.client.transport import Transport, open_transport
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.settings import caller_environment, find_home

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Place:
    """A server and a project, and the folder in which the run lies until it has arrived. caller: None while it stays there."""

    def __init__(self, runs: Path, *, caller: Caller | None = None, url: str | None = None, token: str | None = None) -> None:
        self.runs, self.caller, self.url, self._token = runs, caller, url, token

    @property
    def project(self) -> str:
        return self.caller.project if self.caller is not None else caller_environment().get("project", "default")

    def again(self) -> "Place":
        """Return the same place for a forked child: with connections of its own, or on disk alone when nobody knows the address."""
        if self.caller is None or self.url is None:
            return Place(self.runs)
        return Place(self.runs, caller=_caller(self.url, self._token, self.project), url=self.url, token=self._token)


def find_place(
    runs: Path, *, client: Client | None = None, url: str | None = None, project: str | None = None, offline: bool | None
) -> Place:
    """Return the place that arguments, else the environment, else the current folder name.

    offline: True for the disk alone; None for what TIDEMILL_OFFLINE says, and for the disk when there is no server to be found.
    Raises Invalid, NotFound.
    """
    said = caller_environment()
    if client is not None:
        return Place(runs, caller=client.caller, url=client.url, token=client.token)
    if offline or (offline is None and _means_yes(said.get("offline", "0"))):
        return Place(runs)
    token, named = said.get("token"), project or said.get("project", "default")
    try:
        address = url or said.get("url") or f"workspace:{find_home()}"
    except NotFound:
        if offline is None:
            return Place(runs)
        raise
    return Place(runs, caller=_caller(address, token, named), url=address, token=token)


def _caller(url: str, token: str | None, project: str) -> Caller:
    return Caller(_transport(url, token, os.getpid()), project)


@lru_cache(maxsize=16)
def _transport(url: str, token: str | None, _process: int) -> Transport:
    """Return one transport a process and address: runs that follow each other, or log side by side, share its connections."""
    return open_transport(url, token=token)


def _means_yes(word: str) -> bool:
    if word.lower() not in (*_YES, *_NO):
        raise Invalid(f"TIDEMILL_OFFLINE is {word!r}; expected one of {', '.join((*_YES, *_NO))}")
    return word.lower() in _YES
