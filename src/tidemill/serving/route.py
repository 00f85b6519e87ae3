"""Which variant answers a row: a pure function of the policy and of the unit that sticks."""

import hashlib
import math
from collections.abc import Sequence

from tidemill.serving.config import RoutePolicy

_SCALE = 2.0**-53


def choose(policy: RoutePolicy, units: Sequence[str]) -> list[str]:
    """Return the variant of each unit. Equal units get equal variants; over many units each variant gets its share.

    Weighted rendezvous hashing: a variant whose share grows keeps the units it has, and units move only between variants
    whose shares changed relative to each other. Source: Schindelhauer and Schomaker, Weighted Distributed Hash Tables (SPAA 2005).
    """
    shares = {name: share for name, share in policy.shares.items() if share > 0}
    if len(shares) == 1:
        return list(shares) * len(units)
    seeds = [(name, share, hashlib.blake2b(f"{policy.salt}\0{name}".encode(), digest_size=8)) for name, share in sorted(shares.items())]
    chosen = []
    for unit in units:
        data = unit.encode()
        best, best_score = "", -1.0
        for name, share, seed in seeds:
            hasher = seed.copy()
            hasher.update(data)
            # Uniform in (0, 1): the top 53 bits, and half a step so that it is never 0.
            uniform = ((int.from_bytes(hasher.digest(), "big") >> 11) + 0.5) * _SCALE
            score = share / -math.log(uniform)
            if score > best_score:
                best, best_score = name, score
        chosen.append(best)
    return chosen
