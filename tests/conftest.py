"""What all tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# torch is imported where it is used: the process that hands tests out runs none.

TESTS = Path(__file__).parent
LONGEST = (
    "pipelines/test_families.py",
    "jobs/test_audit.py",
    "test_documented_code.py",
    "jobs/test_embed.py",
    "jobs/test_stylize.py",
    "test_continuous.py",
    "test_distributed.py",
    "test_solvers.py",
    "test_compile.py",
    "test_coarse.py",
    "test_gradients.py",
    "test_benchmarks.py",
    "pipelines/test_decode.py",
    "jobs/test_guide.py",
    "pipelines/test_low_memory.py",
    "test_recompute.py",
    "test_tour.py",
)
"""The files that take longest go first, so that no process ends long after the others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write_docs", action="store_true", help="write the pages that tests generate anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Many tests take few steps, of networks that nobody trained.
    config.addinivalue_line("filterwarnings", "ignore:ContinuousAdjoint took:UserWarning")
    # pytest-xdist would begin with the files that hold the most tests.
    config.option.loadscopereorder = False


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    import torch

    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    # What was imported is there to the end: collections of garbage need not look through it.
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules; put what tells of a module's other tests after them."""
    import torch

    # The tensors of the tests are so small that a second thread costs more than it saves.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    modules = {TESTS / name: number for number, name in enumerate(LONGEST)}
    for item in items:
        modules.setdefault(item.path, len(modules))
    items.sort(key=lambda item: (modules[item.path], item.get_closest_marker("last") is not None))
