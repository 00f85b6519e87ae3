"""Stream scoring: messages of one topic in, answers of an endpoint out, once by key."""
