"""What all tests share: seeds, and the reasons for which a marked test is skipped."""

import contextlib
import os
import random

import numpy as np
import pytest
import torch

with contextlib.suppress(ModuleNotFoundError):
    import hypothesis

    # The same examples in every run, and no deadline: a first call may compile.
    hypothesis.settings.register_profile("stylenat", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("stylenat")


def skip_reasons() -> dict[str, str | None]:
    """Why tests with each marker cannot run here; None where they can."""
    has_network = os.environ.get("STYLENAT_TEST_NETWORK") == "1"
    return {
        "gpu": None if torch.cuda.is_available() else "needs a CUDA GPU; PyTorch sees none",
        "network": None if has_network else "downloads files; STYLENAT_TEST_NETWORK=1 runs it",
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, reason in skip_reasons().items():
        if reason is not None:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seed_everything() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
