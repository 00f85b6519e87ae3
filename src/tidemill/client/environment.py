"""What a program runs in: interpreter, packages, machine, command line. Read without importing anything that is not there already."""

import getpass
import os
import platform
import re
import socket
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tidemill.client.secrets import masked_command
from tidemill.core.settings import hash_seed

_DISTRIBUTION = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._]*)-(?P<version>[^-]+)\.(dist|egg)-info")


def read_environment(arguments: list[str]) -> dict[str, Any]:
    """Return the environment as plain data. arguments: the command line, of which secrets are masked."""
    return {
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "hash_seed": hash_seed(),
        },
        "platform": {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()).strip(),
        },
        "host": {
            "name": socket.gethostname(),
            "user": user_name(),
            "cpus": os.cpu_count(),
            "cpus_usable": usable_cpus(),
            "memory_bytes": memory_bytes(),
        },
        "command": masked_command(arguments),
        "folder": str(Path.cwd()),
        "packages": installed_packages(tuple(sys.path)),
    }


@lru_cache(maxsize=1)
def installed_packages(places: tuple[str, ...]) -> Mapping[str, str]:
    """Return name -> version of what is installed, by name; of two in different places the first counts, as it does for imports.

    Read from the names of the metadata folders alone: a tenth of what importlib.metadata takes to open each one's metadata.
    Source: Python packaging, "Recording installed projects".
    """
    found: dict[str, str] = {}
    for place in places:
        try:
            names = [path.name for path in Path(place or ".").iterdir()]
        except OSError:
            continue
        for name in names:
            match = _DISTRIBUTION.fullmatch(name)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return dict(sorted(found.items()))


def user_name() -> str:
    """Return who runs the program, empty when nobody knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def usable_cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return how much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
