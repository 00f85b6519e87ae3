"""Seeds: set for everything that draws, and told to the run."""

import random
import sys
from contextvars import ContextVar
from typing import Any

from tidemill.client.lifetime import CURRENT, OPEN
from tidemill.core.errors import Invalid

LARGEST = 2**32 - 1  # what numpy takes
# What runs that are begun from here on are told.
SEED: ContextVar[int | None] = ContextVar("tidemill_seed", default=None)


def seed(number: Any) -> int:
    """Seed Python, and numpy, torch and TensorFlow as far as they are imported, and tell the run: tag `seed`. Return the seed.

    Call it behind the imports. What has a generator of its own takes the number that is returned. Raises Invalid.
    """
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= LARGEST:
        raise Invalid(f"seed {number!r} is not usable; expected a whole number from 0 to {LARGEST}")
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(number)
    if (tensorflow := sys.modules.get("tensorflow")) is not None:
        tensorflow.random.set_seed(number)
    SEED.set(number)
    for run in OPEN:
        if run.id == CURRENT.get():
            run.tag("seed", number)
    return number
