"""The parts of padding: the sizes are found, and layers that are told them leave the padding out."""

from functools import partial

import pytest
import torch
from padded_batches import batch, read_nothing
from torch import nn

from mmsema.models.padding import Layers, batch_norm, find_sizes, pointwise

FOUND = {
    "fill": ([(8, 9), (8, 9)], None),
    "one side each": ([(8, 5), (3, 9)], [(8, 5), (3, 9)]),
    "one pixel": ([(8, 9), (1, 1)], [(8, 9), (1, 1)]),
}


@pytest.mark.parametrize("pad_value", [0.0, -1.5])
@pytest.mark.parametrize("case", FOUND)
def test_finds_the_sizes(case, pad_value, monkeypatch):
    sizes, expected = FOUND[case]
    x = batch(sizes, torch.float32, pad_value)
    found = find_sizes(x, pad_value)
    assert (found if expected is None else found.tolist()) == (expected and [list(size) for size in expected])
    assert find_sizes(x, 7.0) is None
    read_nothing(monkeypatch)
    assert find_sizes(x, pad_value).tolist() == [list(size) for size in sizes]  # never None: that would be read


def test_what_counts_as_padding():
    x = torch.zeros(4, 3, 6, 7)
    x[0, 1, 3, 4] = 1  # rows and columns before the last that is not 0 throughout belong to the picture
    x[1, :, 5, 6] = 1  # a black picture but for its last pixel
    x[3] = torch.nan
    found = find_sizes(x, 0.0)  # picture 2 is 0 throughout: it counts as one that fills the batch
    assert found.tolist() == [[4, 5], [6, 7], [6, 7], [6, 7]]


def test_a_wrapped_layer_is_named():
    """A wrapper hides the stride and the statistics that the sizes change: rather an error than wrong maps."""
    net = Layers(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1)), nn.ReLU())
    assert net(torch.ones(1, 3, 8, 8)).shape == (1, 4, 4, 4)
    with pytest.raises(TypeError, match="nn.BatchNorm2d.*got Sequential from torch.nn.modules.container"):
        net(torch.ones(1, 3, 8, 8), torch.tensor([[8, 6]], dtype=torch.int32))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("by_masks", [False, True])
def test_batch_norm_counts_real_tokens(by_masks, momentum, monkeypatch):
    """Result, statistics and gradients are BatchNorm's of nothing but the pictures' tokens; x is NaN outside."""
    sizes = [(5, 6), (2, 3), (4, 1)]
    norm, expected = (torch.nn.BatchNorm2d(8, momentum=momentum).double() for _ in range(2))
    for p, q in zip(norm.parameters(), expected.parameters(), strict=True):
        p.data.normal_()
        q.data.copy_(p.data)
    x = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    grad = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    inside = torch.zeros(3, 5, 6, dtype=torch.bool)
    for picture, (h, w) in zip(inside, sizes, strict=True):
        picture[:h, :w] = True
    x = x.masked_fill(~inside[:, None], torch.nan).requires_grad_()
    if by_masks:
        read_nothing(monkeypatch)
    tokens = x.detach().permute(0, 2, 3, 1)[inside].T[None, :, :, None].requires_grad_()  # (1, C, N, 1)
    near = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
    for _ in range(2):
        out = batch_norm(norm, x, torch.tensor(sizes, dtype=torch.int32))
        tokens_out = expected(tokens)
    near(out.permute(0, 2, 3, 1)[inside], tokens_out[0, :, :, 0].T)
    assert not out.permute(0, 2, 3, 1)[~inside].any()
    near(norm.state_dict(), expected.state_dict())
    out.backward(grad)
    tokens_out.backward(grad.permute(0, 2, 3, 1)[inside].T[None, :, :, None])
    near(x.grad.permute(0, 2, 3, 1)[inside], tokens.grad[0, :, :, 0].T)
    assert not x.grad.permute(0, 2, 3, 1)[~inside].any()
    for p, q in zip(norm.parameters(), expected.parameters(), strict=True):
        near(p.grad, q.grad)


@pytest.mark.parametrize("bias", [True, False])
def test_a_1x1_convolution_is_a_product(bias):
    """What CUDA runs in its place gives the same map, in the same memory format, and the same gradients."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(8, 12, 1, bias=bias)
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(2, 12, 5, 7)
    results = []
    for run in (conv, partial(pointwise, conv)):
        out = run(x)
        assert out.is_contiguous(memory_format=torch.channels_last)
        results.append([out, *torch.autograd.grad(out, [x, *conv.parameters()], grad)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("by_masks", [False, True])
def test_batch_norm_without_running_statistics(by_masks, training, monkeypatch):
    """Of the batch in eval mode as well, as test-time adaptation has it."""
    sizes = torch.tensor([(5, 6), (2, 3)], dtype=torch.int32)
    norm = nn.BatchNorm2d(4, track_running_stats=False).double().train(training)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    tokens = torch.cat([x[0].flatten(1), x[1, :, :2, :3].flatten(1)], 1)[None, :, :, None]
    if by_masks:
        read_nothing(monkeypatch)
    out, expected = batch_norm(norm, x.clone(), sizes), norm(tokens)[0, :, :, 0]
    torch.testing.assert_close(out[0].flatten(1), expected[:, :30])
    torch.testing.assert_close(out[1, :, :2, :3].flatten(1), expected[:, 30:])
