"""Secrets of a workspace: files of random bytes, made when they are first asked for."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

SECRET_BYTES = 32


def read_secret(path: Path) -> bytes:
    """Return the bytes of a secret, the same for all processes that ask; only its owner may read the file."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    scratch.touch(0o600)
    scratch.write_bytes(secrets.token_bytes(SECRET_BYTES))
    try:
        os.link(scratch, path)  # the first one there stays
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
    return path.read_bytes()
