"""Every mixer against its equation, and what tells a right one from a wrong one."""

from functools import partial

import pytest
import torch
from mixer_equations import attended, mixed, positive
from old_torch import needs_compiler, needs_half_on_cpu
from torch.nn.functional import scaled_dot_product_attention

from mmsema import MILA, SEMA
from mmsema.models.mixers import AVERAGES, MIXERS, SEMAMixer, all_tokens

# what can be tested: every mixer, and SEMA with every averaging; the equations know SEMA by the averaging
SHIPPED = [name for name in MIXERS if not name.startswith("sema_")]  # whoever imports the ablations adds those
MAKERS = {name: MIXERS[name] for name in SHIPPED if name not in ("sema", "window")}
MAKERS.update({averaging: partial(SEMAMixer, averaging=averaging) for averaging in AVERAGES})
SIZES = [(1, 1), (1, 9), (7, 7), (9, 4), (10, 16)]
ARCH = dict(embed_dims=16, depths=(1, 1), num_heads=(2, 2))


def build(name, channels=24, heads=3, window_size=4, dtype=torch.float64):
    """A mixer with random numbers in all parameters, large enough for q and k to matter."""
    torch.manual_seed(0)
    mixer = MAKERS[name](channels, heads, window_size).to(dtype)
    for p in mixer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return mixer


def maps(*shape, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]


def output_and_gradients(run, mixer, x, gate, grad):
    out = run(x, gate)
    names = ["x", "gate", *(name for name, _ in mixer.named_parameters())]
    grads = torch.autograd.grad(out, [x, gate, *mixer.parameters()], grad.to(out.dtype))
    return dict(zip(["out", *names], [out, *grads], strict=True))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_equals_its_equation(name, size):
    """Output and the gradients of both inputs and all parameters."""
    mixer = build(name)
    x, gate, grad = maps(2, *size, 24)
    actual = output_and_gradients(mixer, mixer, x, gate, grad)
    expected = output_and_gradients(partial(mixed, name, mixer), mixer, x, gate, grad)
    for key, e in expected.items():
        # a gradient that is 0 by cancellation (one token in a window: its weight is 1) is compared with 1
        assert (actual[key] - e).norm() <= 1e-10 * e.norm().clamp(min=1), key


def test_window_is_sema_without_the_mean():
    x, gate, _ = maps(2, 9, 10, 24)
    window = MIXERS["window"](24, 3, 4).double()
    bare = build("none")
    window.load_state_dict(bare.state_dict())
    assert torch.equal(window(x, gate), bare(x, gate))


@pytest.mark.parametrize("name", ["weighted", "scaled"])
def test_learned_averages_start_as_the_mean(name):
    x, gate, _ = maps(2, 9, 10, 24)
    torch.manual_seed(0)
    mixer = MAKERS[name](24, 3, 4).double()
    sema = SEMAMixer(24, 3, 4).double()
    sema.load_state_dict(mixer.state_dict(), strict=False)
    torch.testing.assert_close(mixer(x, gate), sema(x, gate), rtol=1e-12, atol=1e-12)


# inline and focused add a local convolution, which is set to 0 here; SEMA adds its average
CONSTANT = dict.fromkeys(MAKERS, 1) | dict(mean=2, max=2, weighted=2, scaled=1.7)


@pytest.mark.parametrize("name", MAKERS)
def test_constant_values(name, monkeypatch):
    """Where all values are equal, weights that sum to one return them; RoPE is off, which linear ones cannot afford."""
    monkeypatch.setattr(all_tokens.Tokens, "rope", lambda self, *maps: list(maps))
    mixer = build(name)
    if name == "scaled":
        mixer.average.factor.data.fill_(0.7)
    for module in ("conv", "local_kernel"):
        for p in getattr(mixer, module, torch.nn.Module()).parameters():
            p.data.zero_()
    qk = 2 * torch.rand(2, 9, 10, 48, dtype=torch.float64) + 0.2
    v = torch.randn(2, 1, 1, 24, dtype=torch.float64).expand(2, 9, 10, 24)
    # linear, focused and rala divide by a sum plus 1e-6, which must be small beside it: hence the positive q and k
    torch.testing.assert_close(mixer.attend(qk, v), CONSTANT[name] * v, rtol=1e-5, atol=1e-5)


def test_softmax_equals_scaled_dot_product_attention(monkeypatch):
    monkeypatch.setattr(all_tokens.Tokens, "rope", lambda self, *maps: list(maps))
    mixer = build("softmax")
    x = maps(2, 9, 10, 24)[0]
    qk = mixer.qk_proj(x)
    q, k, v = (t.reshape(2, 90, 3, 8).transpose(1, 2) for t in (*qk.chunk(2, -1), x))
    expected = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(mixer.attend(qk, x), expected, rtol=1e-12, atol=1e-12)


def test_softmax_builds_no_n_by_n_matrix():
    n = 64 * 64
    mixer = build("softmax", 16, 1, dtype=torch.float32)
    x, gate, _ = maps(1, 64, 64, 16, dtype=torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        mixer(x, gate).sum().backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 4 * n * n / 8


@pytest.mark.parametrize(("name", "injective"), [("linear", False), ("inline", True)])
def test_injectivity(name, injective, monkeypatch):
    """Linear attention gives two queries the same weights when one's features are twice the other's; InLine not."""
    monkeypatch.setattr(all_tokens.Tokens, "rope", lambda self, *maps: list(maps))
    q = torch.tensor([0.3, 1.2, 0.1, 2.0, 0.5, 0.4, 0.9, 1.1], dtype=torch.float64)
    longer = 2 * positive(q) - 1 if name == "linear" else 2 * q  # all are positive: elu(x) + 1 = x + 1
    queries = torch.stack([q, longer]).expand(8, 2, 8).reshape(1, 4, 4, 8)
    v, k, _ = maps(1, 4, 4, 8)
    mixer = build(name, 8, 1)
    out = mixer.attend_all(queries, k, v, all_tokens.Tokens(v, 1)).reshape(8, 2, 8)
    difference = (out[:, 0] - out[:, 1]).abs().max()
    assert difference > 0.01 if injective else difference < 1e-5


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=needs_half_on_cpu), torch.bfloat16])
def test_half_precision(name, dtype):
    """Sums run in float32: the error is that of the dtype's rounding, on 2,304 tokens too."""
    mixer = build(name, dtype=dtype)
    qk, v = torch.randn(1, 48, 48, 48).to(dtype), torch.randn(1, 48, 48, 24).add(1).to(dtype)
    with torch.no_grad():
        out = mixer.attend(qk, v)
        expected = mixer.double().attend(qk.double(), v.double())
    assert out.dtype == dtype
    assert (out.double() - expected).norm() <= 0.75 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("name", MAKERS)
def test_autocast(name):
    mixer = build(name, dtype=torch.float32)
    x, gate, grad = maps(1, 9, 10, 24, dtype=torch.float32)
    expected = output_and_gradients(mixer, mixer, x, gate, grad)
    with torch.autocast("cpu", torch.bfloat16):
        actual = output_and_gradients(mixer, mixer, x, gate, grad)
    for key, e in expected.items():
        assert key == "out" or actual[key].dtype == torch.float32
        assert (actual[key].float() - e).norm() <= 0.1 * e.norm() + 0.01, key


def sharpen(model):
    for name, p in model.named_parameters():
        if "proj.weight" in name:
            p.data *= 30
    return model


OPTIONS = [dict(mixer=name) for name in SHIPPED] + [dict(averaging=name) for name in AVERAGES if name != "mean"]


def option_id(options):
    return "-".join(options.values())


@pytest.fixture(params=OPTIONS, ids=option_id)
def options(request):
    return request.param


def test_backbone_takes_every_mixer(options):
    """Any size, the gradients of all parameters, and the same with_cp."""
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = sharpen(SEMA(ARCH, out_indices=(0, 1), with_cp=with_cp, **options)).train()
        outputs = model(torch.randn(2, 3, 45, 34))
        assert [out.shape for out in outputs] == [(2, 16, 12, 9), (2, 32, 6, 5)]
        sum(out.square().mean() + (out * out.roll(1)).mean() for out in outputs).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert not [name for name, grad in gradients[-1].items() if grad is None]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    with torch.no_grad():
        assert all(out.isfinite().all() for out in model.eval()(torch.randn(1, 3, 1, 1)))


def test_backbone_takes_no_pictures(options):
    with torch.no_grad():
        outputs = SEMA(ARCH, out_indices=(0, 1), **options).eval()(torch.zeros(0, 3, 45, 34))
    assert [out.shape for out in outputs] == [(0, 16, 12, 9), (0, 32, 6, 5)]


def test_batch_mates_do_not_change_a_picture(options):
    torch.manual_seed(0)
    model, x = sharpen(SEMA(ARCH, out_indices=(0, 1), **options)).eval(), torch.randn(3, 3, 50, 70)
    with torch.no_grad():
        for together, alone in zip(model(x), model(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-4)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", MAKERS)
def test_compiles_without_graph_breaks(name):
    mixer = build(name, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(mixer, fullgraph=True, dynamic=True, backend="eager")
    for size in ((9, 10), (12, 8)):
        x, gate, _ = maps(2, *size, 24, dtype=torch.float32)
        torch.testing.assert_close(compiled(x, gate), mixer(x, gate), rtol=1e-4, atol=1e-4)


def test_parameters_beyond_those_of_sema():
    """Only those that the papers' mixers have."""

    def extra(**options):
        return set(SEMA("pico", **options).state_dict()) - set(SEMA("pico").state_dict())

    own = dict(inline="local_kernel", focused=("scale", "conv"))
    for name in SHIPPED:
        assert all(".mixer." in key for key in extra(mixer=name))
        assert bool(extra(mixer=name)) == (name in own), name
    assert {key.rsplit(".", 1)[1] for key in extra(averaging="weighted")} == {"query"}
    assert {key.rsplit(".", 1)[1] for key in extra(averaging="scaled")} == {"factor"}
    assert not extra(averaging="max") and not extra(averaging="none")


def test_mila_is_sema_with_the_linear_mixer():
    x = torch.randn(1, 3, 40, 40)
    linear, mila = SEMA("pico", mixer="linear").eval(), MILA("pico").eval()
    mila.load_state_dict(linear.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(linear(x), mila(x), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mixer="attention"), r"mixer must be one of \('sema', 'window', .*'rala'.*\), got 'attention'"),
        (dict(mixer=["sema"]), r"mixer must be one of .*, got \['sema'\]"),
        (dict(averaging="median"), r"averaging must be one of \('mean', 'none', .*\), got 'median'"),
        (dict(mixer="linear", averaging="max"), "unless mixer is 'sema', got 'max' with mixer 'linear'"),
    ],
)
def test_bad_mixers_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SEMA("pico", **options)


def test_the_equations_differ():
    """A transcription that returned one mixer for another would agree with nothing else here."""
    x = maps(9, 10, 24)[0] + 1
    outputs = {name: attended(name, build(name), x) for name in MAKERS}
    for name, out in outputs.items():
        others = [(out - other).norm() / out.norm() for key, other in outputs.items() if key != name]
        assert min(others) > 0.01, name
