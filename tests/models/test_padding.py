"""Batches of pictures of different sizes: each has the maps, and gives the gradients, that it has and gives alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from old_torch import needs_compiler, needs_half_on_cpu
from padded_batches import (
    TOLERANCE,
    assert_alone,
    assert_near,
    batch,
    build,
    parts,
    random_sizes,
    read_nothing,
    weighted_sum,
)
from torch import nn

from mmsema import MILA, SEMA
from mmsema.models.mixers import AVERAGES, MIXERS
from mmsema.models.sema import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_gradient_can_be_looked_at():
    """At an output's norm, as Grad-CAM does."""
    model, seen = build(), []
    model.norm1.register_full_backward_hook(lambda module, _, grad: seen.append(grad[0].shape))
    sum(out.sum() for out in model(batch([(64, 72), (40, 56)]))).backward()
    assert seen == [(2, 8, 9, 32)]


@pytest.mark.parametrize("value", ["0", True, (0, 0, 0), torch.nan])
def test_wrong_pad_value_is_named(value):
    with pytest.raises(TypeError, match="pad_value must be a number or None, got "):
        SEMA("pico", pad_value=value)


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
