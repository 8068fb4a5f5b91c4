"""The closed lists: what is kept by choice has an entry for each, and nothing else."""

import subprocess
import sys

import pytest

from stylenat import choices, sampling
from stylenat.config import DataConfig, MetricsConfig
from stylenat.data.images import _RESAMPLING
from stylenat.metrics.features import KINDS, kind_of, takes_file
from stylenat.metrics.table import TABLE
from stylenat.weights import WEIGHTS


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (_RESAMPLING, choices.FILTERS),
        (TABLE, choices.METRICS),
        (sampling.DTYPES, choices.DTYPES),
        (sampling.SEED_LIMIT, choices.SEED_SCHEMES),
    ],
)
def test_a_table_by_choice_holds_the_choices_and_no_others(table, names):
    assert sorted(table) == sorted(names)


def test_every_space_of_features_has_a_network_and_its_weights():
    spaces = (*choices.SPACES, "inception_classes")
    kinds = {kind_of(space, mode) for space in spaces for mode in choices.MODES}
    assert kinds == set(KINDS)
    assert {kind_of(space, mode) for space in choices.SPACES for mode in choices.MODES} == {
        *WEIGHTS,
        "effnet_lite0",
    }
    assert [space for space in spaces if not takes_file(space)] == ["effnet_lite0"]


def test_a_configuration_s_defaults_are_among_the_choices():
    assert MetricsConfig().mode in choices.MODES
    assert DataConfig(resize=choices.FILTERS[0]).resize in choices.FILTERS


def test_to_know_the_choices_loads_neither_pytorch_nor_pydantic():
    code = "import sys, stylenat.choices; print({'torch', 'pydantic', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
