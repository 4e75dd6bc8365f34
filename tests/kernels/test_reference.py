import pytest
import torch
from attention_checks import SIZES, assert_agrees, definition, output_and_gradients, random_maps
from mmsema_kernels import rope_table, sema_attention_reference


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("window_size", [4, 5, 7, 8, 30])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_the_definition(size, window_size, rope):
    shape = (2, *size, 3, 8)
    q, k, v, grad = random_maps(shape, count=4)
    table = rope_table(window_size, 24, q.device).double() if rope else None
    actual = output_and_gradients(lambda *t: sema_attention_reference(*t, window_size, rope=table), (q, k, v), grad)
    expected = output_and_gradients(lambda *t: definition(*t, window_size, rope=rope), (q, k, v), grad)
    if rope:  # the table holds float32
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-5)
    else:
        assert_agrees(actual, expected, torch.float64)


def test_large_map():
    q, k, v, grad = random_maps((1, 56, 56, 1, 4), count=4)
    actual = output_and_gradients(lambda *t: sema_attention_reference(*t, 7), (q, k, v), grad)
    assert_agrees(actual, output_and_gradients(lambda *t: definition(*t, 7), (q, k, v), grad), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounds_once(dtype):
    q, k, v, grad = random_maps((2, 10, 16, 2, 16), dtype, count=4)
    actual = output_and_gradients(lambda *t: sema_attention_reference(*t, 7, scale=0.3), (q, k, v), grad)
    expected = output_and_gradients(lambda *t: definition(*t, 7, scale=0.3), (q, k, v), grad)
    assert_agrees(actual, expected, dtype)


def test_gradcheck():
    q, k, v = random_maps((1, 4, 5, 2, 2))
    table = rope_table(3, 4, q.device).double()
    assert torch.autograd.gradcheck(lambda *t: sema_attention_reference(*t, 3, rope=table), (q, k, v), fast_mode=True)
