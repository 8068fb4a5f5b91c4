"""`python -m stylenat` is the `stylenat` command."""

from stylenat.cli import main

if __name__ == "__main__":
    main(prog_name="stylenat")
