"""Functions run elsewhere: in this process, in a pool of processes, on Ray."""
