"""Packages that only some functions need, and that may be absent; extras of ours bring them."""

from __future__ import annotations

from importlib.util import find_spec

# The modules of packages whose name does not tell them.
MODULES = {"scikit-learn": "sklearn"}


def require(what: str, *packages: str, extra: str, otherwise: str = "") -> None:
    """Raises ValueError unless these packages, which `what` needs, are installed.

    The sentence names the extra that brings them, and the other way out, if there is one. Call it
    before the work for which they are needed; it imports none of them.
    """
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        named = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        verb = "is" if len(missing) == 1 else "are"
        way_out = f", or {otherwise}" if otherwise else ""
        raise ValueError(
            f"{what} needs {named}, which {verb} not installed: pip install "
            f"'stylenat[{extra}]'{way_out}"
        )


def _is_there(package: str) -> bool:
    spec = find_spec(MODULES.get(package, package.replace("-", "_")))
    # A folder of that name, without code in it, also has a specification, but no origin.
    return spec is not None and spec.origin is not None
