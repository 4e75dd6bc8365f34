"""The index of the filled windows; test_eager.py holds the path itself to the definition."""

import torch
from mmsema_kernels.padded import window_index


def test_window_index_of_a_ragged_map():
    """3 x 5 tokens in windows of 2: two rows of three windows, the last ones cut off."""
    tokens, real, places = window_index(3, 5, 2, torch.device("cpu"))
    assert tokens.tolist() == [[0, 1, 5, 6], [2, 3, 7, 8], [4, 0, 9, 0], [10, 11, 0, 0], [12, 13, 0, 0], [14, 0, 0, 0]]
    assert real.sum(1).tolist() == [4, 4, 2, 2, 2, 1]
    assert torch.equal(tokens.flatten()[places], torch.arange(15).view(3, 5))
