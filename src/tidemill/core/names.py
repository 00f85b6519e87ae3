"""Names for runs and models that their makers left nameless: two words and a number, easily told apart and said aloud."""

import secrets

_HOW = (
    "able", "amber", "ample", "bold", "brave", "brisk", "bright", "calm", "clear", "clever", "cool", "crisp", "deft", "eager", "early",
    "easy", "fair", "fast", "fine", "firm", "fleet", "fond", "free", "fresh", "glad", "gold", "good", "grand", "great", "happy", "hardy",
    "keen", "kind", "light", "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mild", "neat", "noble", "open", "placid", "plain",
    "prime", "proud", "quick", "quiet", "rapid", "rare", "ready", "rich", "sage", "silver", "smooth", "solid", "sound", "spry", "steady",
    "still", "sturdy", "sunny", "sure", "swift", "tidy", "true", "trusty", "vivid", "warm", "wise", "witty", "young", "zesty",
)  # fmt: skip
_WHAT = (
    "basin", "bay", "beach", "brook", "buoy", "canal", "cape", "cliff", "clover", "coast", "coral", "cove", "creek", "current", "dam",
    "delta", "dike", "dune", "ebb", "eddy", "estuary", "fall", "fen", "ferry", "fjord", "flood", "flume", "ford", "gate", "gull", "gulf",
    "harbor", "haven", "heron", "inlet", "island", "jetty", "kelp", "lagoon", "lake", "levee", "lock", "marsh", "mill", "mole", "moon",
    "mouth", "oar", "otter", "pier", "pond", "pool", "quay", "race", "rapids", "reef", "reed", "ridge", "river", "sail", "sand", "seal",
    "shoal", "shore", "sluice", "sound", "spring", "strait", "stream", "surf", "swell", "tide", "wake", "wave", "weir", "wheel",
)  # fmt: skip


def any_name() -> str:
    """Return a name, most likely a fresh one."""
    return f"{secrets.choice(_HOW)}-{secrets.choice(_WHAT)}-{secrets.randbelow(1000)}"
