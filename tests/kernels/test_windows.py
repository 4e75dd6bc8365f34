import pytest
import torch
from attention_checks import SIZES
from mmsema_kernels.windows import map_windows, split_lengths, window_merge, window_partition


def test_partition_keeps_each_window_together():
    x = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    windows = window_partition(x, 2, 3)
    assert windows.shape == (8, 6, 1)
    assert windows[1].flatten().tolist() == [3, 4, 5, 9, 10, 11]  # the first row of windows, its second window
    assert torch.equal(window_merge(windows, 2, 3, 4, 6), x)


@pytest.mark.parametrize(("length", "parts"), [(1, [1]), (6, [6]), (7, [7]), (8, [7, 1]), (16, [14, 2])])
def test_split_lengths(length, parts):
    assert split_lengths(length, 7) == parts


@pytest.mark.parametrize("window_size", [4, 7, 30])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_map_windows_sees_every_window_once(size, window_size):
    H, W = size
    x = torch.arange(2 * H * W, dtype=torch.float64).reshape(2, H, W, 1)

    def replace_by_first_token(height, width, windows):
        assert windows.shape[1] == height * width
        return windows[:, :1].expand_as(windows)

    rows, cols = (torch.arange(n) // window_size * window_size for n in (H, W))
    assert torch.equal(map_windows(replace_by_first_token, window_size, x), x[:, rows][:, :, cols])
