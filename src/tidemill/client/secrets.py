"""What looks like a secret: it is left out of what a run says about its code, its command line and its environment."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from tidemill.core.settings import mask

MASKED = "***"
_FILES = re.compile(
    r"(^\.env(\..*)?$|\.(pem|key|p12|pfx|jks|keystore|kdbx|gpg|asc)$|^id_(rsa|dsa|ecdsa|ed25519)|^\.(netrc|pgpass|pypirc|npmrc|htpasswd)$"
    r"|^(credentials|secrets?|tokens?)(\.|$)|secret|passwd|password|credential|service[-_]?account)",
    re.IGNORECASE,
)
_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".azure", ".docker"})
_WORD = re.compile(
    r"(pass(word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|auth|bearer)s?", re.IGNORECASE
)
_CONTENT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    rb"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    rb"|\bsk-[A-Za-z0-9_-]{20,}"
    rb"|\bAIza[0-9A-Za-z_-]{35}\b"
    rb"|\btm_[0-9a-z]+_[A-Za-z0-9_-]{16,}"
    rb"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."
    rb"|(?i:\b\w*(?:password|passwd|secret|api_?key|access_?key|auth_?token)\w*[\"']?\s*[=:]\s*[\"'][^\"'\s]{8,}[\"'])"
)


def secret_path(path: str) -> bool:
    """Return whether a file is one that people keep secrets in."""
    pure = PurePosixPath(path)
    return bool(_FILES.search(pure.name)) or bool(_FOLDERS.intersection(pure.parts))


def secret_content(data: bytes) -> bool:
    """Return whether bytes hold what looks like a key, a token or a password."""
    return bool(_CONTENT.search(data))


def secret_name(name: str) -> bool:
    """Return whether what goes by a name is likely to be a secret."""
    return bool(_WORD.search(name))


def masked_command(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the values of options that look like secrets masked, and passwords in URLs."""
    shown, hide = [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if hide and not argument.startswith("-"):
            shown.append(MASKED)
        elif equals and secret_name(name):
            shown.append(f"{name}={MASKED}")
        elif equals:
            shown.append(f"{name}={mask(value)}")
        else:
            shown.append(MASKED if secret_content(argument.encode("utf-8", "replace")) else mask(argument))
        hide = argument.startswith("-") and not equals and secret_name(name)
    return shown
