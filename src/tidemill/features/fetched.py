"""Files of buckets, fetched so that they can be read: s3://, gs:// and az://, through obstore."""

from datetime import timedelta
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tidemill.core.errors import Invalid
from tidemill.core.settings import mask, with_variables

SCHEMES = ("s3://", "gs://", "az://")
WILD = frozenset("*?[")


def fetch(url: str, folder: Path) -> list[Path]:
    """Fetch the objects that a URL names into a folder, in the order of their names; `*` stands for many, the query for options.

    As in s3://bucket/landed/*.parquet?endpoint=http://127.0.0.1:9000; ${NAME} stands for a variable of the environment. What is not told
    comes from where obstore looks: AWS_* in the environment and so on. Raises Invalid.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    parts = urlsplit(with_variables(url))
    options: Any = dict(parse_qsl(parts.query))
    pattern = PurePosixPath(parts.path)
    prefix = "/".join(takewhile(lambda part: not WILD & set(part), pattern.parts[1:-1]))
    found = []
    try:
        bucket = from_url(
            f"{parts.scheme}://{parts.netloc}", config=options,
            client_options={"allow_http": options.get("endpoint", "").startswith("http:"), "connect_timeout": "5s", "timeout": "120s"},
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=20)},
        )  # fmt: skip
        names = sorted(each["path"] for batch in bucket.list(prefix or None) for each in batch)
        for number, name in enumerate(name for name in names if PurePosixPath(f"/{name}").match(str(pattern))):
            path = folder / f"{number:06d}{PurePosixPath(name).suffix}"
            with path.open("wb") as file:
                for chunk in bucket.get(name):
                    file.write(chunk)
            found.append(path)
    except (BaseError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise Invalid(f"{mask(url)} could not be fetched: {reason}") from error
    if not found:
        raise Invalid(f"there is no object {mask(url)}")
    return found
