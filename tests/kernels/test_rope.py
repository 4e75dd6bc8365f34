import pytest
import torch
from attention_checks import random_maps
from mmsema_kernels import apply_rope, expand_rope_table, rope_table, sema_attention
from old_torch import needs_compiler


def test_table_values():
    table = rope_table(3, 16)
    angle = torch.tensor([[0.0], [1.0], [2.0]]) * torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(table, torch.stack([angle.cos(), angle.sin()]))


def test_table_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        rope_table(7, 6)


def test_first_half_turns_with_the_row():
    cos_sin = expand_rope_table(rope_table(7, 16), 9, 10)
    assert cos_sin.shape == (2, 9, 10, 8)
    assert torch.equal(cos_sin[:, :, :1, :4].expand(-1, -1, 10, -1), cos_sin[..., :4])
    assert torch.equal(cos_sin[:, :1, :, 4:].expand(-1, 9, -1, -1), cos_sin[..., 4:])
    assert torch.equal(cos_sin[:, 7:, :, :4], cos_sin[:, :2, :, :4])  # coordinates start again


def test_turns_neighbouring_pairs():
    x = torch.randn(5, 8, dtype=torch.float64)
    angle = torch.randn(5, 4, dtype=torch.float64)
    turned = apply_rope(x, torch.stack([angle.cos(), angle.sin()]))
    expected = torch.view_as_complex(x.reshape(5, 4, 2)) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(turned, torch.view_as_real(expected).reshape(5, 8))


@needs_compiler
def test_compiled_without_complex_numbers():
    x = torch.randn(5, 8, dtype=torch.float64)
    cos_sin = torch.randn(2, 5, 4, dtype=torch.float64)
    compiled = torch.compile(apply_rope, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, cos_sin), apply_rope(x, cos_sin))


@pytest.mark.parametrize("backend", ["reference", "torch", "padded"])
def test_window_coordinates_equal_map_coordinates(backend):
    q, k, v = (t.detach() for t in random_maps((1, 17, 12, 3, 32)))
    local = sema_attention(q, k, v, 7, rope=rope_table(7, 96, q.device), backend=backend)
    cos_sin = expand_rope_table(rope_table(17, 96, q.device), 17, 12)
    q, k = (apply_rope(t.flatten(-2), cos_sin).unflatten(-1, (3, 32)) for t in (q, k))
    torch.testing.assert_close(local, sema_attention(q, k, v, 7, backend=backend), rtol=0, atol=1e-6)
