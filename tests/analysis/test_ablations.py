"""Each ablation is SEMA's mixer with one part changed, and no other."""

import pytest
import torch
from mmsema_kernels import sema_attention_reference
from torch.nn.functional import conv2d

from mmsema import SEMA
from mmsema.analysis import ablations
from mmsema.models.mixers import MIXERS


@pytest.mark.parametrize(
    ("name", "scale", "rope", "lepe", "gated"),
    [
        ("sema", None, True, True, True),
        ("sema_no_rope", None, False, True, True),
        ("sema_no_lepe", None, True, False, True),
        ("sema_no_gate", None, True, True, False),
        ("sema_scale_1", 1.0, True, True, True),
        ("sema_scale_d", 1 / 16, True, True, True),
    ],
)
def test_one_part_changes(name, scale, rope, lepe, gated):
    assert ablations.__name__  # whose import names them
    torch.manual_seed(0)
    mixer = MIXERS[name](32, 2, 4).double()
    x, gate = torch.randn(2, 2, 9, 10, 32, dtype=torch.double)
    table = MIXERS["sema"](32, 2, 4).rope.double() if rope else None
    heads = [t.unflatten(-1, (2, 16)) for t in (*mixer.qk_proj(x).chunk(2, -1), x)]
    expected = sema_attention_reference(*heads, 4, scale=scale, rope=table).flatten(-2)
    if lepe:
        weight, bias = mixer.lepe.weight, mixer.lepe.bias
        expected = expected + conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=32).permute(0, 2, 3, 1)
    torch.testing.assert_close(mixer(x, gate), gate * expected if gated else expected, rtol=1e-10, atol=1e-10)


def test_backbone_takes_them():
    model = SEMA("pico", mixer="sema_no_lepe", out_indices=0)
    assert not [name for name in model.state_dict() if "lepe" in name]
    assert model(torch.randn(2, 3, 20, 24))[0].shape == (2, 32, 5, 6)


@pytest.mark.parametrize("name", [name for name in MIXERS if name.startswith("sema_")])
def test_padded_batch(name):
    """A picture of 5 x 6 tokens on a map of 9 x 10 gets what it gets alone."""
    torch.manual_seed(0)
    mixer = MIXERS[name](32, 2, 4).double()
    x, gate = torch.randn(2, 1, 9, 10, 32, dtype=torch.double)
    x[:, 5:], x[:, :, 6:] = 0, 0
    out = mixer(x, gate, torch.tensor([[5, 6]], dtype=torch.int32))
    torch.testing.assert_close(out[:, :5, :6], mixer(x[:, :5, :6], gate[:, :5, :6]), rtol=1e-10, atol=1e-10)
