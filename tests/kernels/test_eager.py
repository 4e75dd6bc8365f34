"""PyTorch's two paths, the usual one and the one for exporters, against the definition."""

import pytest
import torch
from attention_checks import SIZES, assert_agrees, definition, output_and_gradients, random_maps
from mmsema_kernels import rope_table, sema_attention
from old_torch import needs_half_on_cpu

BACKENDS = ["torch", "padded"]
DTYPES = [torch.float64, torch.float32, pytest.param(torch.float16, marks=needs_half_on_cpu), torch.bfloat16]
# the products run in the input's dtype where the reference runs in float32: twice its error
LOOSE = {torch.float16: 2e-3, torch.bfloat16: 1.2e-2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("window_size", [4, 5, 7, 8, 30])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_definition(size, window_size, rope, backend):
    q, k, v, grad = random_maps((2, *size, 3, 8), torch.float32, count=4)
    table = rope_table(window_size, 24, q.device) if rope else None
    run = lambda *t: sema_attention(*t, window_size, rope=table, backend=backend)  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, window_size, rope=rope), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype, backend, monkeypatch):
    import attention_checks

    monkeypatch.setitem(attention_checks.TOLERANCE, dtype, LOOSE.get(dtype, attention_checks.TOLERANCE[dtype]))
    q, k, v, grad = random_maps((2, 10, 16, 2, 16), dtype, count=4)
    run = lambda *t: sema_attention(*t, 7, scale=0.3, backend=backend)  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, 7, scale=0.3), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, dtype)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_without_the_mean(backend):
    q, k, v, grad = random_maps((2, 10, 16, 2, 8), count=4)
    run = lambda *t: sema_attention(*t, 7, mean=False, backend=backend)  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, 7, mean=False), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, torch.float64)


def test_large_map():
    q, k, v, grad = random_maps((1, 56, 56, 1, 4), count=4)
    actual = output_and_gradients(lambda *t: sema_attention(*t, 7, backend="torch"), (q, k, v), grad)
    assert_agrees(actual, output_and_gradients(lambda *t: definition(*t, 7), (q, k, v), grad), torch.float64)


def test_gradcheck():
    q, k, v = random_maps((1, 4, 5, 2, 2))
    table = rope_table(3, 4, q.device).double()
    assert torch.autograd.gradcheck(
        lambda *t: sema_attention(*t, 3, rope=table, backend="torch"), (q, k, v), fast_mode=True
    )


def test_more_windows_than_a_call_takes(monkeypatch):
    """More than 65,535 windows fail on CUDA ("invalid argument"), so they go in several calls."""
    from mmsema_kernels import eager

    taken = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        eager.F, "scaled_dot_product_attention", lambda q, *a, **k: taken.append(len(q)) or attend(q, *a, **k)
    )
    monkeypatch.setattr(eager, "MOST_WINDOWS", 4)
    q, k, v, grad = random_maps((1, 14, 35, 2, 8), torch.float32, count=4)  # 10 windows
    expected = output_and_gradients(lambda *t: definition(*t, 7), (q, k, v), grad)
    assert_agrees(
        output_and_gradients(lambda *t: sema_attention(*t, backend="torch"), (q, k, v), grad), expected, torch.float32
    )
    assert taken == [4, 4, 2]
