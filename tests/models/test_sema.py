"""The backbone: sizes, shapes, freezing, errors, registration."""

import re

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmsema_kernels import sema_attention_reference, use_backend

from mmsema import MILA, SEMA
from mmsema.models.mixers import SEMAMixer

PICO_CHANNELS = (32, 64, 128, 256)


def pico(**options) -> SEMA:
    torch.manual_seed(0)
    return SEMA("pico", **options)


@pytest.mark.parametrize("arch, count", [("tiny", 24_392_200), ("small", 43_015_048), ("base", 95_983_960)])
@pytest.mark.parametrize("backbone", [SEMA, MILA])
def test_parameter_count_with_imagenet_head(backbone, arch, count):
    with torch.device("meta"):
        model = backbone(arch, out_indices=(3,))
        head = torch.nn.Linear(model.norm3.normalized_shape[0], 1000)
    assert sum(p.numel() for module in (model, head) for p in module.parameters()) == count


def test_multiply_accumulates_of_tiny(monkeypatch):
    monkeypatch.setenv("MMSEMA_KERNEL", "reference")  # whose products the counter knows
    from torch.utils.flop_counter import FlopCounterMode

    model = SEMA("tiny", out_indices=(3,)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(4.17, abs=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 65), (31, 31), (32, 64), (67, 130)])
def test_shapes_are_rounded_up_and_maps_contiguous(size):
    H, W = size
    outputs = pico().eval()(torch.randn(2, 3, H, W))
    assert isinstance(outputs, tuple)
    for out, channels, stride in zip(outputs, PICO_CHANNELS, (4, 8, 16, 32), strict=True):
        assert out.shape == (2, channels, -(-H // stride), -(-W // stride))
        assert out.is_contiguous()
        assert out.isfinite().all()


def test_tiny_channels():
    outputs = SEMA("tiny").eval()(torch.zeros(1, 3, 64, 64))
    assert [out.shape[1] for out in outputs] == [64, 128, 256, 512]


def test_batch_mates_do_not_change_an_image():
    model, x = pico().eval(), torch.randn(3, 3, 50, 70)
    with torch.no_grad():
        together, alone = model(x), model(x[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("out_indices", [(0,), (1, 2), (3,), 2, -1, [-4, -1], range(3)])
def test_out_indices_build_only_what_they_need(out_indices):
    model = pico(out_indices=out_indices).eval()
    indices = [i % 4 for i in ((out_indices,) if isinstance(out_indices, int) else out_indices)]
    x = torch.randn(1, 3, 40, 40)
    outputs = model(x)
    assert [out.shape[1] for out in outputs] == [PICO_CHANNELS[i] for i in indices]
    assert len(model.stages) == indices[-1] + 1 and len(model.downsamples) == indices[-1]
    assert {name for name, _ in model.named_children() if name.startswith("norm")} == {f"norm{i}" for i in indices}
    model.train()
    sum(out.square().sum() for out in model(x.repeat(2, 1, 1, 1))).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused  # DistributedDataParallel needs no find_unused_parameters


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2, 4])
def test_frozen_stages(frozen):
    model = pico(frozen_stages=frozen)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("stem.") for name in trainable) == (frozen < 0)
    for i in range(4):
        for prefix in (f"stages.{i}.", f"norm{i}."):
            assert any(name.startswith(prefix) for name in trainable) == (i >= frozen), prefix
    for i in range(3):  # downsamples[i] feeds stage i + 1
        assert any(name.startswith(f"downsamples.{i}.") for name in trainable) == (i + 1 >= frozen)
    assert model.stem.training == (frozen < 0)  # in a loop that never calls train()
    assert model.train() is model
    assert model.stem.training == (frozen < 0)
    assert trainable == {name for name, p in model.named_parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in model.stem.state_dict().items()}
    outputs = model(torch.randn(2, 3, 32, 32))
    if frozen < 4:
        sum(out.sum() for out in outputs).backward()
    changed = [name for name, value in model.stem.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(changed) == (frozen < 0)  # BatchNorm's running statistics


def test_norm_eval_fixes_batch_norm_only():
    fresh, set_again = pico(norm_eval=True), pico(norm_eval=True).eval().train()
    for model in (fresh, set_again):
        modes = {module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)}
        assert modes == {False} and model.stages[0][0].training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("frozen", [-1, 0])
def test_with_cp_gives_the_same_gradients(frozen):
    x = torch.randn(2, 3, 40, 56)
    gradients = []
    for with_cp in (False, True):
        model = pico(with_cp=with_cp, frozen_stages=frozen).train()
        sum(out.square().mean() for out in model(x)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_pictures_are_left_as_they_are(memory_format):
    x = torch.randn(2, 3, 40, 56)
    x[0, :, 30:] = 0
    x = x.contiguous(memory_format=memory_format)
    x[0, 0, 39, 55] = 0
    before = x.clone()
    pico().eval()(x, torch.tensor([(20, 56), (40, 40)]))
    assert torch.equal(x, before)


def test_second_derivatives_by_the_padded_backend():
    """Of a sum of squares along a direction: by two gradients, by jvp of one, and by differences."""
    torch.manual_seed(0)
    model, x = pico(pad_value=None).double().eval(), torch.randn(1, 3, 40, 33, dtype=torch.float64)
    direction = torch.randn_like(x)

    def loss(x):
        return sum(out.square().sum() for out in model(x))

    with use_backend("padded"):
        gradient = torch.func.grad(loss)
        twice = torch.func.grad(lambda x: (gradient(x) * direction).sum())(x)
        _, forward = torch.func.jvp(gradient, (x,), (direction,))
        step = 1e-6 * direction
        differences = (gradient(x + step) - gradient(x - step)) / 2e-6
    torch.testing.assert_close(twice, forward)
    torch.testing.assert_close(twice, differences, rtol=1e-4, atol=1e-4 * float(twice.abs().max()))


def test_drop_path_rises_linearly():
    model = pico(drop_path_rate=0.4)
    assert [block.drop_path.p for stage in model.stages for block in stage] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_mixer_is_the_definition_plus_lepe_gated():
    torch.manual_seed(0)
    mixer = SEMAMixer(64, 2, window_size=7).double()
    x, gate = torch.randn(2, 2, 10, 16, 64, dtype=torch.double)
    q, k = mixer.qk_proj(x).chunk(2, -1)
    heads = [t.unflatten(-1, (2, 32)) for t in (q, k, x)]
    lepe = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), mixer.lepe.weight, mixer.lepe.bias, padding=1, groups=64)
    expected = sema_attention_reference(*heads, 7, rope=mixer.rope).flatten(-2) + lepe.permute(0, 2, 3, 1)
    torch.testing.assert_close(mixer(x, gate), gate * expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options, error, words",
    [
        (dict(arch="huge"), ValueError, ["arch", "'huge'", "pico", "tiny", "small", "base"]),
        (dict(arch=3), TypeError, ["arch", "3", "tiny"]),
        (dict(arch=dict(embed_dim=32, depths=(1,), num_heads=(1,))), ValueError, ["embed_dims", "embed_dim"]),
        (dict(arch=dict(embed_dims=30, depths=(1,), num_heads=(1,))), ValueError, ["embed_dims", "30"]),
        (dict(arch=dict(embed_dims=32, depths=(1, 1), num_heads=(1,))), ValueError, ["depths", "num_heads"]),
        (dict(arch=dict(embed_dims=32, depths=(1, 0), num_heads=(1, 1))), ValueError, ["depths", "(1, 0)"]),
        (dict(arch=dict(embed_dims=32, depths=(1, 1), num_heads=(1, 3))), ValueError, ["num_heads", "64", "3"]),
        (dict(out_indices=(0, 4)), ValueError, ["out_indices", "(0, 4)", "3"]),
        (dict(out_indices=(-5,)), ValueError, ["out_indices", "-5"]),
        (dict(out_indices=()), ValueError, ["out_indices", "()"]),
        (dict(out_indices=(1, 1)), ValueError, ["out_indices", "(1, 1)", "different"]),
        (dict(out_indices=(2, 1)), ValueError, ["out_indices", "(2, 1)", "ascending"]),
        (dict(out_indices="0"), TypeError, ["out_indices", "'0'"]),
        (dict(window_size=0), ValueError, ["window_size", "0", ">= 1"]),
        (dict(window_size=2.5), TypeError, ["window_size", "2.5", ">= 1"]),
        (dict(drop_path_rate=1.0), ValueError, ["drop_path_rate", "1.0", "[0, 1)"]),
        (dict(frozen_stages=5), ValueError, ["frozen_stages", "5", "-1..4"]),
        (dict(detph=2), TypeError, ["detph"]),
    ],
)
def test_bad_arguments_are_named(options, error, words):
    with pytest.raises(error) as caught:
        SEMA(**options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8), (1, 3, 8, 0)])
def test_bad_input_is_named(shape):
    with pytest.raises(ValueError, match=re.escape(f"(B, 3, H, W), H and W at least 1, got {shape}")):
        pico()(torch.zeros(shape))


def test_registered_in_the_root_and_in_its_own_scope():
    for name in ("SEMA", "mmsema.SEMA"):
        assert type(ROOT_MODELS.build(dict(type=name, arch="pico"))) is SEMA
    with pytest.raises(TypeError, match="detph"):
        ROOT_MODELS.build(dict(type="mmsema.SEMA", detph=1))


def test_a_taken_name_warns_and_leaves_the_scoped_one():
    from mmengine.registry import Registry

    import mmsema.registry as registry

    other = type("SEMA", (), {})
    root = Registry("model", scope="elsewhere")
    root.register_module(module=other)
    child = Registry("model", parent=root, scope="mmsema")
    original = registry.ROOT_MODELS, registry.MODELS
    registry.ROOT_MODELS, registry.MODELS = root, child
    try:
        with pytest.warns(UserWarning, match="mmsema.SEMA"):
            registry.register_backbone(SEMA)
        assert root.get("SEMA") is other and child.get("SEMA") is SEMA
    finally:
        registry.ROOT_MODELS, registry.MODELS = original
