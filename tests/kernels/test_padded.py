import pytest
import torch
from attention_checks import SIZES, assert_agrees, definition, output_and_gradients, random_maps
from mmsema_kernels import rope_table, sema_attention
from mmsema_kernels.padded import window_index
from test_eager import DTYPES, LOOSE


def test_window_index_of_a_ragged_map():
    """3 x 5 tokens in windows of 2: two rows of three windows, the last ones cut off."""
    tokens, real, places = window_index(3, 5, 2, torch.device("cpu"))
    assert tokens.tolist() == [[0, 1, 5, 6], [2, 3, 7, 8], [4, 0, 9, 0], [10, 11, 0, 0], [12, 13, 0, 0], [14, 0, 0, 0]]
    assert real.sum(1).tolist() == [4, 4, 2, 2, 2, 1]
    assert torch.equal(tokens.flatten()[places], torch.arange(15).view(3, 5))


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("window_size", [4, 5, 7, 8, 30])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_definition(size, window_size, rope):
    q, k, v, grad = random_maps((2, *size, 3, 8), torch.float32, count=4)
    table = rope_table(window_size, 24, q.device) if rope else None
    run = lambda *t: sema_attention(*t, window_size, rope=table, backend="padded")  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, window_size, rope=rope), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype, monkeypatch):
    import attention_checks

    monkeypatch.setitem(attention_checks.TOLERANCE, dtype, LOOSE.get(dtype, attention_checks.TOLERANCE[dtype]))
    q, k, v, grad = random_maps((2, 10, 16, 2, 16), dtype, count=4)
    run = lambda *t: sema_attention(*t, 7, scale=0.3, backend="padded")  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, 7, scale=0.3), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, dtype)
