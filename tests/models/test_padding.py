"""Batches of pictures of different sizes: each has the maps, and gives the gradients, that it has and gives alone."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from old_torch import needs_compiler, needs_half_on_cpu
from torch import nn

from mmsema import MILA, SEMA
from mmsema.models import padding
from mmsema.models.mixers import AVERAGES, MIXERS
from mmsema.models.padding import Layers, batch_norm, find_sizes, pointwise
from mmsema.models.sema import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
NARROW = dict(embed_dims=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 4))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}  # relative, in norm


def build(arch=NARROW, dtype=torch.float64, cls=SEMA, **options):
    """In eval mode, with parameters and statistics that matter: as initialised, biases are 0 and attention uniform."""
    torch.manual_seed(0)
    model = cls(arch, **options).to(dtype).eval()
    for name, p in model.named_parameters():
        if "qk_proj.weight" in name:
            p.data *= 10
        if p.ndim == 1:
            p.data += 0.3 * torch.randn_like(p)
    for name, b in model.named_buffers():
        if "running_mean" in name:
            b.normal_(std=0.1)
        if "running_var" in name:
            b.uniform_(0.5, 2)
    return model


def batch(sizes, dtype=torch.float64, pad_value=0.0, seed=0):
    """Random pictures of these sizes, padded to the largest height and the largest width."""
    generator = torch.Generator().manual_seed(seed)
    H, W = (max(side) for side in zip(*sizes, strict=True))
    x = torch.full((len(sizes), 3, H, W), pad_value, dtype=dtype)
    for picture, (h, w) in zip(x, sizes, strict=True):
        picture[:, :h, :w] = torch.randn(3, h, w, generator=generator, dtype=torch.float64)
    return x


def random_sizes(count, smallest, largest, seed=0):
    sides = torch.randint(smallest, largest + 1, (count, 2), generator=torch.Generator().manual_seed(seed))
    return [tuple(size) for size in sides.tolist()]


def parts(outputs, i, size):
    """What belongs to picture i in maps of strides 4, 8, 16, 32, as a batch of one; the rest must be 0."""
    found = []
    for out in outputs:
        stride = 4 * out.shape[1] // outputs[0].shape[1]
        h, w = (-(-side // stride) for side in size)
        assert not out[i, :, h:].any() and not out[i, :, :, w:].any()
        found.append(out[i : i + 1, :, :h, :w])
    return found


def assert_near(actual, expected, dtype, name=""):
    error = (actual - expected).norm() / expected.norm().clamp(min=1e-6)
    assert actual.shape == expected.shape and error <= TOLERANCE[dtype], f"{name}: {error:.1e}"


def assert_alone(model, sizes, dtype, batch_size=4):
    """The maps of every picture in batches equal those of the picture alone."""
    with torch.no_grad():
        for first in range(0, len(sizes), batch_size):
            mates = sizes[first : first + batch_size]
            x = batch(mates, dtype, seed=first)
            together = model(x)
            for i, (h, w) in enumerate(mates):
                alone = model(x[i : i + 1, :, :h, :w])
                for out, expected in zip(parts(together, i, (h, w)), alone, strict=True):
                    assert_near(out, expected, dtype, f"{(h, w)} among {mates}")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cls", [SEMA, MILA])
def test_maps_are_those_of_the_picture_alone(cls, dtype):
    assert_alone(build(dtype=dtype, cls=cls), random_sizes(24, 1, 130), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_maps_of_pico(dtype):
    assert_alone(build("pico", dtype), random_sizes(8, 20, 260), dtype)


@pytest.mark.long
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_maps_of_every_arch(arch, dtype):
    """Two hundred sizes."""
    assert_alone(build(arch, dtype), random_sizes(200, 1, 100, seed=1), dtype, batch_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights and statistics of SEMA-pico after two epochs of the handwritten digits."""
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, ROOT / "tools/train.py", ROOT / "configs/sema-pico_digits.py", "--work-dir", folder]
    subprocess.run([*command, "--cfg-options", "train_cfg.max_epochs=2"], check=True, capture_output=True)
    state = torch.load(folder / "epoch_2.pth", weights_only=False)["state_dict"]
    return {name.removeprefix("backbone."): p for name, p in state.items() if name.startswith("backbone.")}


@pytest.mark.long
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_maps_of_trained_weights(trained, dtype):
    """Two hundred sizes; the classifier has no norms of the first three maps."""
    model = build("pico", dtype)
    missing, unexpected = model.load_state_dict(trained, strict=False)
    assert not unexpected and {name.split(".")[0] for name in missing} == {"norm0", "norm1", "norm2"}
    assert_alone(model, random_sizes(200, 1, 100, seed=3), dtype, batch_size=8)


OTHERS = [dict(mixer=name) for name in MIXERS if not name.startswith("sema_")] + [
    dict(averaging=name) for name in AVERAGES if name != "mean"
]


@pytest.mark.parametrize("options", OTHERS, ids=lambda options: "-".join(options.values()))
def test_every_mixer(options):
    assert_alone(build(out_indices=(0, 1, 2), **options), [(60, 45), (37, 61), (3, 50)], torch.float64)


def weighted_sum(outputs, sizes):
    """A loss of which every number of the maps, also those outside, has its own weight."""
    total = 0
    for out in outputs:
        row, col = (torch.arange(n, dtype=out.dtype) for n in out.shape[2:])
        total = total + (out.square() * (1 + row[:, None] / 7 + col.cos())).sum() + out.sum()
    return total


def assert_gradients_are_sums(model, sizes, seed=0, by_masks=(False, True)):
    """Of parameters and pictures; also by the masks that other devices and compilers take."""
    x = batch(sizes, seed=seed).requires_grad_()
    expected_x = torch.zeros_like(x)
    model.zero_grad()
    for i, (h, w) in enumerate(sizes):
        alone = x[i : i + 1, :, :h, :w].detach().requires_grad_()
        weighted_sum(model(alone), sizes).backward()
        expected_x[i, :, :h, :w] = alone.grad
    expected = {name: p.grad for name, p in model.named_parameters()}
    for masks in by_masks:
        model.zero_grad()
        x.grad = None
        with pytest.MonkeyPatch.context() as patch:
            if masks:
                read_nothing(patch)
            weighted_sum(model(x), sizes).backward()
        for name, p in model.named_parameters():
            assert_near(p.grad, expected[name], torch.float64, f"{name}, {sizes}")
        assert_near(x.grad, expected_x, torch.float64, str(sizes))


@pytest.mark.parametrize("options", [dict(), dict(with_cp=True), dict(mixer="linear")], ids=str)
def test_gradients_are_the_sum_over_the_pictures(options):
    """BatchNorm frozen."""
    assert_gradients_are_sums(build(norm_eval=True, **options).train(), [(50, 41), (33, 70), (64, 64)])


@pytest.mark.long
@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_gradients_of_every_arch(arch, with_cp):
    """Two hundred sizes, forty with the large ones."""
    model = build(arch, norm_eval=True, with_cp=with_cp).train()
    sizes = random_sizes(200 if arch in ("pico", "tiny") else 40, 1, 48, seed=2)
    for first in range(0, len(sizes), 8):
        assert_gradients_are_sums(model, sizes[first : first + 8], seed=first, by_masks=(False,))


def read_nothing(patch):
    """Take the paths of devices whose numbers are not to be waited for."""
    from mmsema_kernels import eager, sizes

    for module in (eager, sizes, padding):
        patch.setattr(module, "can_read", lambda sizes: False)


@pytest.mark.parametrize("backend", ["torch", "reference", "padded"])
def test_every_backend(backend, monkeypatch):
    monkeypatch.setenv("MMSEMA_KERNEL", backend)
    assert_alone(build(), random_sizes(6, 1, 80, seed=3), torch.float64, batch_size=3)


def test_masks_of_other_devices(monkeypatch):
    model, sizes = build(), random_sizes(6, 1, 80, seed=4)
    expected = model(batch(sizes))
    read_nothing(monkeypatch)
    for a, b in zip(model(batch(sizes)), expected, strict=True):
        assert_near(a, b, torch.float64)


@pytest.mark.slow
def test_kernels_of_the_backbone(monkeypatch):
    """In Triton's interpreter where there is no CUDA device."""
    pytest.importorskip("triton", "3.2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build("pico", torch.float32, out_indices=(0, 1)).to(device)
    sizes = [(40, 30), (17, 43)]
    x = batch(sizes, torch.float32).to(device)
    monkeypatch.setenv("MMSEMA_KERNEL", "reference")
    expected = model(x)
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    for i, size in enumerate(sizes):
        for out, e in zip(parts(model(x), i, size), parts(expected, i, size), strict=True):
            assert_near(out, e, torch.float32)


@needs_compiler
@pytest.mark.slow
def test_compiles_to_whole_graphs():
    """Nothing reads where the pictures end: one graph for all batches of a shape."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model, counter = build(out_indices=(0, 1)), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for sizes in ([(50, 41), (33, 70)], [(50, 70), (50, 70)], [(50, 1), (2, 70)]):
        with torch.no_grad():
            for a, b in zip(compiled(batch(sizes)), model(batch(sizes)), strict=True):
                assert_near(a, b, torch.float64)
    assert counter.frame_count == 1


def test_nothing_outside_has_influence():
    """Sizes given, NaN outside: maps and gradients are those of the padded batch."""
    model, sizes = build(norm_eval=True).train(), [(50, 41), (33, 70)]
    x = batch(sizes)
    expected = model(x)
    weighted_sum(expected, sizes).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    spoilt = batch(sizes, pad_value=torch.nan).requires_grad_()
    outputs = model(spoilt, torch.tensor(sizes))
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    weighted_sum(outputs, sizes).backward()
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert torch.equal(spoilt.grad == 0, x == 0)


def test_none_takes_batches_as_they_are():
    x = batch([(64, 64), (20, 30)])
    plain, exact = build(pad_value=None), build()
    for a, b, last in zip(plain(x), exact(x), plain(x[1:]), strict=True):
        assert_near(a[:1], b[:1], torch.float64)  # the picture that fills the batch
        assert_near(a[1:], last, torch.float64)  # the padding is a part of the picture
        assert a[1, :, -1, -1].any() and not b[1, :, -1, -1].any()


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


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        (torch.tensor([(8, 9), (1, 0)]), ValueError, r"sizes .*\(8, 9\), got \(1, 0\)"),
        (torch.tensor([(8, 9), (9, 9)]), ValueError, r"sizes .*\(8, 9\), got \(9, 9\)"),
        (torch.tensor([(8, 9)]), ValueError, r"sizes must have shape \(B, 2\) = \(2, 2\)"),
        (torch.tensor([(8.0, 9.0), (1.0, 1.0)]), TypeError, "sizes must be an int32 tensor, got torch.float32"),
        ([(8, 9), (1, 1)], TypeError, "sizes must be an int32 tensor, got list"),
    ],
)
def test_wrong_sizes_are_named(sizes, error, message):
    with pytest.raises(error, match=message):
        build()(batch([(8, 9), (8, 9)]), sizes)


def test_sizes_that_cannot_be_read_end_with_the_batch(monkeypatch):
    """Elsewhere than on the CPU no one looks at the numbers, and kernels would follow them out of the maps."""
    read_nothing(monkeypatch)
    x, model = batch([(8, 9), (8, 9)]), build().eval()
    with torch.no_grad():
        expected = model(x, torch.tensor([(8, 9), (5, 9)]))
        actual = model(x, torch.tensor([(80, 9), (5, 10**6)]))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_a_wrapped_layer_is_named():
    """A wrapper hides the stride and the statistics that the sizes change: rather an error than wrong maps."""
    net = Layers(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1)), nn.ReLU())
    assert net(torch.ones(1, 3, 8, 8)).shape == (1, 4, 4, 4)
    with pytest.raises(TypeError, match="nn.BatchNorm2d.*got Sequential from torch.nn.modules.container"):
        net(torch.ones(1, 3, 8, 8), torch.tensor([[8, 6]], dtype=torch.int32))


def test_fused_batch_norms():
    """mmcv leaves an Identity for each."""
    from mmcv.cnn import fuse_conv_bn

    model, x = build(dtype=torch.float64), torch.randn(2, 3, 70, 90, dtype=torch.float64)
    sizes = torch.tensor([(70, 61), (33, 90)], dtype=torch.int32)
    with torch.no_grad():
        expected = model(x, sizes)
        actual = fuse_conv_bn(model)(x, sizes)
    assert any(isinstance(layer, nn.Identity) for layer in model.stem.modules())
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", ["0", True, (0, 0, 0)])
def test_wrong_pad_value_is_named(value):
    with pytest.raises(TypeError, match="pad_value must be a number or None, got "):
        SEMA("pico", pad_value=value)


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


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=needs_half_on_cpu), torch.bfloat16])
def test_a_model_in_16_bits_trains(dtype):
    torch.manual_seed(0)
    model = build(dtype=dtype).train()
    x = batch([(64, 72), (40, 56)], dtype)
    sum(out.float().square().mean() for out in model(x)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all(), name


def test_full_batches_train_as_before():
    """Bit for bit, with the sizes seen and with BatchNorm's own code."""
    x = batch([(64, 72)] * 2, torch.float32)
    results = []
    for pad_value in (0.0, None):
        model = build(dtype=torch.float32, pad_value=pad_value).train()
        sum(out.square().mean() for out in model(x)).backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


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
