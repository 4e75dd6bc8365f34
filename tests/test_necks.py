"""FPN's maps of pictures in a padded batch are those of each picture alone, not even padded to a multiple."""

from pathlib import Path

import pytest
import torch
from mmdet.models.necks import FPN
from mmsema_kernels import sizes

from mmsema.engine.config import read_config
from mmsema.models import padding
from mmsema.necks import PaddedFPN

CHANNELS = [4, 8, 16]
SIZES = [(37, 23), (12, 40), (40, 40), (1, 7)]  # on the first map
OPTIONS = {
    "plain": dict(num_outs=3),
    "pooled": dict(num_outs=5),
    "norm": dict(num_outs=3, norm_cfg=dict(type="BN")),
    "from the second map": dict(num_outs=4, start_level=1, add_extra_convs="on_output", relu_before_extra_convs=True),
    "on_input": dict(num_outs=5, add_extra_convs="on_input"),
    "on_lateral": dict(num_outs=5, add_extra_convs="on_lateral"),
}


ROOT = Path(__file__).resolve().parents[1]


def halved(size, times):
    return tuple(-(-side // 2**times) for side in size)


def maps(sizes):
    """What a backbone gives: maps that are 0 outside the pictures."""
    generator = torch.Generator().manual_seed(0)
    H, W = (max(side) for side in zip(*sizes, strict=True))
    found = []
    for level, channels in enumerate(CHANNELS):
        x = torch.zeros(len(sizes), channels, *halved((H, W), level), dtype=torch.float64)
        for picture, size in zip(x, sizes, strict=True):
            h, w = halved(size, level)
            picture[:, :h, :w] = torch.randn(channels, h, w, generator=generator, dtype=torch.float64)
        found.append(x.requires_grad_())
    return found


def build(cls, **options):
    torch.manual_seed(0)
    neck = cls(in_channels=CHANNELS, out_channels=6, **options).double().eval()
    for p in neck.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p)
    return neck


def difference(neck, by_masks, monkeypatch):
    """The largest difference between a picture's maps in the batch and alone; what is outside counts as one."""
    inputs = maps(SIZES)
    alone = [
        neck([x[i : i + 1, :, : halved(size, n)[0], : halved(size, n)[1]] for n, x in enumerate(inputs)])
        for i, size in enumerate(SIZES)
    ]
    if by_masks:
        for module in (sizes, padding):  # as on devices whose numbers are not to be waited for
            monkeypatch.setattr(module, "can_read", lambda sizes: False)
    together, worst = neck(inputs), 0.0
    for level, out in enumerate(together):
        for i, maps_alone in enumerate(alone):
            h, w = maps_alone[level].shape[2:]
            outside = out[i].clone()
            outside[:, :h, :w] = 0
            inside = (out[i, :, :h, :w] - maps_alone[level][0]).abs().max()
            worst = max(worst, float(inside), float(outside.abs().max()))
    return worst


@pytest.mark.parametrize("by_masks", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_maps_are_those_of_the_picture_alone(name, by_masks, monkeypatch):
    assert difference(build(PaddedFPN, **OPTIONS[name]), by_masks, monkeypatch) < 1e-12


def test_fpn_itself_carries_the_padding_in(monkeypatch):
    assert difference(build(FPN, num_outs=3), False, monkeypatch) > 0.1


def test_full_batches_and_weights_are_fpns():
    inputs = maps([(16, 24)] * 2)
    neck, expected = build(PaddedFPN, num_outs=4), build(FPN, num_outs=4)
    neck.load_state_dict(expected.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(neck(inputs), expected(inputs), strict=True))


def test_a_call_knows_nothing_of_another(monkeypatch):
    """As when two threads use one neck: another batch goes through while the first has begun."""
    neck = build(PaddedFPN, num_outs=3)
    first, other = maps(SIZES), maps(SIZES[::-1])
    expected, begin, found = [neck(first), neck(other)], FPN.forward, []

    def interrupted(self, inputs):
        monkeypatch.setattr(FPN, "forward", begin)
        found.append(neck(other))
        return begin(self, inputs)

    monkeypatch.setattr(FPN, "forward", interrupted)
    found.insert(0, neck(first))
    for outs, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(outs, wanted, strict=True))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(norm_cfg=dict(type="GN", num_groups=2)), "norm_cfg must be None or BatchNorm .*, got GroupNorm"),
        (dict(upsample_cfg=dict(mode="bilinear")), "'nearest' .*, got 'bilinear'"),
    ],
)
def test_what_mixes_the_padding_in_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build(PaddedFPN, num_outs=3, **options)(maps(SIZES))


def test_gradients_are_the_sum_over_the_pictures():
    neck, inputs = build(PaddedFPN, **OPTIONS["on_lateral"]), maps(SIZES)
    sum(out.square().sum() + out.sum() for out in neck(inputs)).backward()
    together = [p.grad.clone() for p in neck.parameters()]
    neck.zero_grad()
    for i, size in enumerate(SIZES):
        cut = [x[i : i + 1, :, : halved(size, n)[0], : halved(size, n)[1]] for n, x in enumerate(inputs)]
        sum(out.square().sum() + out.sum() for out in neck(cut)).backward()
    for p, grad in zip(neck.parameters(), together, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("name", ["mask-rcnn_sema-pico_fpn_nuclei", "retinanet_sema-t_fpn_1x_coco"])
def test_one_option_puts_it_into_our_configs(name):
    cfg = read_config(ROOT / f"configs/{name}.py", ["model.neck.type=mmsema.PaddedFPN"])
    assert cfg.model.neck.type == "mmsema.PaddedFPN"
