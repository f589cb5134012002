"""What all tests share."""

from __future__ import annotations

import pytest
import torch

# The tensors of the tests are so small that a second thread costs more than it saves.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
