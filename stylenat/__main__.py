"""`python -m stylenat` is the `stylenat` command."""

import os
import sys


def _leave_folder() -> None:
    """Remove the folder in which `python -m` was started from sys.path, unless StyleNAT is there.

    Otherwise any yaml.py, click.py or PIL/ in it would be imported in place of the library. The
    Python processes that this one starts get PYTHONSAFEPATH=1, which does the same for them.
    """
    if sys.flags.safe_path or not sys.path:
        return
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    first = os.path.realpath(sys.path[0] or os.curdir)
    if first == os.path.realpath(os.curdir) and first != home:
        del sys.path[0]
        os.environ["PYTHONSAFEPATH"] = "1"


if __name__ == "__main__":
    _leave_folder()
    from stylenat.cli import run

    run()
