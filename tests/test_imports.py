"""Imports run one way, and have no effects."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBE = ROOT / "tests" / "import_probe.py"
PACKAGES = ("tools", "stylenat", "ops")

# Top first. A module imports from lower layers and from its own package, lazily or not. A new
# module of `stylenat` needs a place here.
LAYERS = (
    ("tools",),  # what maintainers run; it is not installed
    ("stylenat.__main__",),
    ("stylenat.cli",),
    ("stylenat.publishing",),
    ("stylenat.benchmarks", "stylenat.doctor", "stylenat.explorer", "stylenat.reporting"),
    ("stylenat.training",),
    ("stylenat.metrics",),
    ("stylenat",),  # stylenat/__init__.py alone: the names that a user imports
    ("stylenat.backbones", "stylenat.latents"),
    ("stylenat.sampling", "stylenat.data", "stylenat.portable"),
    ("stylenat.legacy",),
    ("stylenat.export",),
    ("stylenat.config", "stylenat.weights"),
    ("stylenat.models", "stylenat.losses", "stylenat.augment", "stylenat.progress"),
    ("stylenat.distributed",),
    ("stylenat.ending", "stylenat.untrusted", "stylenat.precision", "stylenat.machine"),
    ("stylenat.hub",),
    ("stylenat.files", "stylenat.text", "stylenat.marks", "stylenat.choices", "stylenat.layout"),
    ("stylenat.memory", "stylenat.copies", "stylenat.extras"),
    ("stylenat.compat",),
    ("ops",),
)
DEPTH = {unit: depth for depth, layer in enumerate(LAYERS) for unit in layer}

# Backends of one operation: `ops.neighborhood.backends` picks one; none knows of another.
IMPLEMENTATIONS = "ops.neighborhood.impl"

# May be absent: everything but one backend, logger or reader works without it.
OPTIONAL = {"cleanfid", "lmdb", "natten", "starlette", "tensorboard", "triton", "wandb"}

# Running it is the program, and timm, which has effects, is there to be told of our models.
LEFT_OUT = ("__main__", "stylenat.backbones.timm_models")


# The checker: source text in, sentences out.


def unit_of(module: str) -> str:
    """The entry of LAYERS that a module belongs to, or would need: `stylenat.models.layers` is
    part of `stylenat.models`, all of `ops` is `ops`, and all of `tools` is `tools`."""
    parts = module.split(".")
    return parts[0] if parts[0] in ("ops", "tools") else ".".join(parts[:2])


def imported(module: str, source: str, *, is_package: bool) -> list[tuple[int, str]]:
    """Line and dotted name of all that `source` imports from our packages, at any depth.

    `from a import b` yields `a.b`, whatever `b` is. Counts `import_module` of a literal name.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                parents = package[: len(package) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                names = [str(argument.value)]
        found += [(node.lineno, name) for name in names if name.split(".")[0] in PACKAGES]
    return found


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """One sentence for each import that runs the wrong way, or for a module without a place."""
    own = unit_of(module)
    if own not in DEPTH:
        return [f"{module} is in no layer: give {own} a place in LAYERS of tests/test_imports.py"]
    sentences = []
    for line, name in imported(module, source, is_package=is_package):
        where = f"{module}, line {line}"
        if name == "stylenat.__version__":  # a constant; the package has been imported anyway
            continue
        target = unit_of(name)
        if target not in DEPTH and name.count(".") == 1:  # a name that stylenat/__init__.py holds
            target = name.split(".")[0]
        if target not in DEPTH:
            sentences.append(f"{where}, imports {name}, which is in no layer")
        elif target != own and DEPTH[target] <= DEPTH[own]:
            sentences.append(f"{where}, imports {name}: {target} is not below {own}")
        elif inside(module) and inside(name) and implementation(name) != implementation(module):
            sentences.append(f"{where}, imports {name}: implementations do not know of each other")
    return sentences


def inside(name: str) -> bool:
    return f"{name}.".startswith(f"{IMPLEMENTATIONS}.")


def implementation(name: str) -> str:
    return name.removeprefix(IMPLEMENTATIONS).lstrip(".").split(".")[0]


def our_modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name and file of every module of ours."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


@pytest.mark.parametrize("module", our_modules())
def test_module_imports_only_from_lower_layers(module: str) -> None:
    path = our_modules()[module]
    found = violations(module, path.read_text(), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("stylenat.cli", "from stylenat import training, sampling\nfrom stylenat.config import R"),
        ("stylenat.cli", "from . import metrics"),
        ("stylenat.__main__", "from .cli import main"),
        ("stylenat.training.loop", "from stylenat.training.ema import EMA\nimport torch, numpy"),
        ("stylenat.training.loop", "from .steps import g_step\nfrom ..models import Generator"),
        ("stylenat.training.loop", "from stylenat import Generator"),
        ("stylenat.models.layers", "from stylenat.models import attention\nimport ops.resample"),
        ("stylenat.export", "from stylenat import __version__"),
        ("stylenat", "def __getattr__(name):\n    from stylenat.export import load"),
        ("ops.neighborhood.impl.cpu", "from ops.neighborhood.problem import Problem"),
        ("ops.neighborhood.impl.cpu.build", "from . import flags\nfrom .flags import march"),
        ("ops.neighborhood.backends", "from .impl import reference"),
        ("tools.gpu_check", "from tools.targets import verdicts\nimport stylenat.cli, ops"),
    ],
)
def test_checker_accepts_downward_imports(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("ops.resample", "import stylenat", "stylenat is not below ops"),
        ("stylenat.doctor", "from tools import targets", "tools is not below stylenat.doctor"),
        ("ops.resample", "from stylenat.models import layers", "models is not below ops"),
        ("stylenat.models.layers", "from stylenat.config import R", "config is not below"),
        ("stylenat.models.layers", "from ..export import load", "export is not below"),
        ("stylenat.models.layers", "from stylenat import losses", "losses is not below"),
        ("stylenat.models.layers", "from stylenat import Generator", "stylenat is not below"),
        ("stylenat.models", "def f():\n    import stylenat.training.loop", "training is not"),
        ("stylenat.models", "if TYPE_CHECKING:\n    from stylenat.legacy import X", "legacy is"),
        ("stylenat.models", "importlib.import_module('stylenat.legacy')", "legacy is not below"),
        ("stylenat.data", "from stylenat.metrics import fid", "metrics is not below"),
        ("stylenat.config", "from stylenat.export import save", "export is not below"),
        ("stylenat.training", "from stylenat.cli import main", "cli is not below"),
        ("stylenat.training", "from stylenat.nowhere import x", "nowhere.x, which is in no layer"),
        ("stylenat.nowhere", "", "give stylenat.nowhere a place in LAYERS"),
        ("ops.neighborhood.impl.cpu", "from .reference import f", "do not know of each other"),
        ("ops.neighborhood.impl.cpu", "from . import triton", "do not know of each other"),
        ("ops.neighborhood.impl.cpu.build", "from ..flex import f", "do not know of each other"),
        ("ops.neighborhood.impl", "from ops.neighborhood.impl import cpu", "do not know of each"),
    ],
)
def test_checker_reports_other_imports(module: str, source: str, sentence: str) -> None:
    package = module in ("stylenat.models", "stylenat.training", IMPLEMENTATIONS)
    found = violations(module, source, is_package=package)
    assert len(found) == 1
    assert sentence in found[0]


# Effects: in a fresh process, tests/import_probe.py imports every module and watches.


def effects_of_importing(modules: list[str], root: Path, home: Path) -> dict[str, list[str]]:
    """What a fresh process does while it imports `modules` from `root`, by kind of effect. `home`
    is an empty folder that stands in for the user's own and for all caches."""
    home.mkdir()
    caches = ("TORCH_HOME", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in ("STYLENAT_CACHE", *caches)},
        "HOME": str(home),
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    arguments = json.dumps([modules, sorted(OPTIONAL), str(home), str(root)])
    done = subprocess.run(
        [sys.executable, "-P", str(PROBE), arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_importing_everything_has_no_effect(tmp_path: Path) -> None:
    modules = [name for name in our_modules() if not name.endswith(LEFT_OUT)]
    report = effects_of_importing(modules, ROOT, tmp_path / "home")
    found = [f"an import {kind}: {what}" for kind, cases in report.items() for what in cases]
    assert not found, "\n".join(found)


SIDE_EFFECTS = """
import os, pathlib, subprocess, torch
import torch.utils.cpp_extension
torch.cuda.is_available()
torch.set_default_dtype(torch.float64)
os.environ["STYLENAT_PROBED"] = "1"
subprocess.run(["true"])
pathlib.Path.home().joinpath("left.txt").write_text("here")
try:
    torch.utils.cpp_extension.load(name="none", sources=[])
except Exception:
    pass
"""


def test_probe_reports_every_kind_of_effect(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(SIDE_EFFECTS)
    report = effects_of_importing(["noisy"], tmp_path, tmp_path / "home")
    seen = {kind: " ".join(cases) for kind, cases in report.items()}
    assert "load" in seen["compiles"]
    assert "subprocess.Popen true" in seen["starts a process"]
    assert "is_available (from" in seen["queries a device"]
    assert "noisy.py:4" in seen["queries a device"]
    assert "left.txt" in seen["writes a file"]
    assert "left.txt" in seen["leaves a file"]
    assert "default dtype: torch.float32 -> torch.float64" in seen["changes a global"]
    assert "STYLENAT_PROBED: None -> 1" in seen["changes a global"]
