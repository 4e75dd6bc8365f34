"""PyTorch's two paths, the usual one and the one for exporters, against the definition."""

import pytest
import torch
from attention_checks import SIZES, assert_agrees, definition, output_and_gradients, random_maps
from mmsema_kernels import rope_table, sema_attention
from old_torch import needs_half_on_cpu

BACKENDS = ["torch", "padded"]
DTYPES = [torch.float64, torch.float32, pytest.param(torch.float16, marks=needs_half_on_cpu), torch.bfloat16]


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
def test_every_dtype(dtype, backend):
    q, k, v, grad = random_maps((2, 10, 16, 2, 16), dtype, count=4)
    run = lambda *t: sema_attention(*t, 7, scale=0.3, backend=backend)  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, 7, scale=0.3), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_large_scores_in_16_bits(dtype, backend):
    """Scores that are not scaled yet are rounded nowhere, and do not overflow: training gives what evaluation gives."""
    q, k, v, grad = random_maps((2, 10, 16, 2, 32), dtype, count=4)
    q, k = ((8 * t).detach().requires_grad_() for t in (q, k))
    run = lambda *t: sema_attention(*t, 7, backend=backend)  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, 7), (q, k, v), grad)
    error = (run(q, k, v).double() - expected[0].double()).norm() / expected[0].double().norm()
    assert error <= torch.finfo(dtype).eps
    q, k = (torch.full_like(t, 60.0).requires_grad_() for t in (q, k))  # q . k = 115,200: above float16's greatest
    for t in output_and_gradients(run, (q, k, v), grad):
        assert t.isfinite().all()


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
