"""Floor 3: experiments, runs, their params, metrics, tags and artifacts."""
