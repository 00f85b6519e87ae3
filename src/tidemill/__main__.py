"""`python -m tidemill` is the `tidemill` command."""

from tidemill.cli.main import run

if __name__ == "__main__":
    run()
