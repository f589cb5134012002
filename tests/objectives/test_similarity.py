"""Distances and similarities of pictures."""

import pytest
import torch

from adjointdpm.objectives import PictureDistance


def test_picture_distance():
    reference = torch.zeros(3, 4, 4)
    distance = PictureDistance(reference)
    assert distance(torch.full((2, 3, 4, 4), 0.5)).tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="cannot be compared"):
        distance(torch.zeros(1, 3, 5, 5))
