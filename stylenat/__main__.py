"""`python -m stylenat` is the `stylenat` command."""

from stylenat.cli import run

if __name__ == "__main__":
    run()
