"""The closed lists: what is kept by choice has an entry for each, and nothing else."""

import subprocess
import sys

import pytest

from stylenat import choices, sampling
from stylenat.config import DataConfig, MetricsConfig
from stylenat.data.images import _RESAMPLING
from stylenat.metrics.features import RESIZE
from stylenat.metrics.weights import WEIGHTS


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (_RESAMPLING, choices.FILTERS),
        (RESIZE, choices.MODES),
        (WEIGHTS, choices.MODES),
        (sampling.DTYPES, choices.DTYPES),
        (sampling.SEED_LIMIT, choices.SEED_SCHEMES),
    ],
)
def test_a_table_by_choice_holds_the_choices_and_no_others(table, names):
    assert sorted(table) == sorted(names)


def test_a_configuration_s_defaults_are_among_the_choices():
    assert MetricsConfig().mode in choices.MODES
    assert DataConfig(resize=choices.FILTERS[0]).resize in choices.FILTERS


def test_to_know_the_choices_loads_neither_pytorch_nor_pydantic():
    code = "import sys, stylenat.choices; print({'torch', 'pydantic', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
