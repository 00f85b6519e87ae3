"""Floor 9: the command line. One file a noun: parse, call one service, print."""
