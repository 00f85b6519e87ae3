"""Floor 1: the SDK. Speaks HTTP through a transport that it is given; knows `core` only."""
