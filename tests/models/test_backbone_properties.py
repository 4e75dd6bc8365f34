"""Properties of the backbone over random sizes, batches, windows and mixers; 200 of each in the long tier."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from padded_batches import NARROW, assert_alone, assert_near, build

from mmsema.models.mixers import AVERAGES, MIXERS

OPTIONS = [dict(mixer=name) for name in MIXERS if not name.startswith("sema_")] + [
    dict(averaging=name) for name in AVERAGES if name != "mean"
]


@dataclass(frozen=True)
class Case:
    """Pictures of these sizes (h, w), and how the backbone is built; ``seed`` gives the numbers."""

    sizes: list
    window_size: int
    options: dict
    seed: int
    dtype: torch.dtype = torch.float64

    def model(self, **more):
        return build(NARROW, self.dtype, window_size=self.window_size, pad_value=None, **self.options, **more)

    def pictures(self):
        """All of the first one's size."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(len(self.sizes), 3, *self.sizes[0], generator=generator, dtype=self.dtype)


CASES = st.builds(
    Case,
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3),
    window_size=st.integers(1, 9),
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 2**31),
)


def maps_have_their_sizes_and_everything_a_finite_gradient(case):
    model, x = case.model(), case.pictures().requires_grad_()
    outputs = model(x)
    B, _, H, W = x.shape
    strides = [(16 * 2**i, -(-H // (4 << i)), -(-W // (4 << i))) for i in range(4)]
    assert [out.shape for out in outputs] == [(B, *stride) for stride in strides]
    sum(out.square().sum() for out in outputs).backward()
    for tensor in (*outputs, x.grad, *(p.grad for p in model.parameters())):
        assert tensor.isfinite().all()


@torch.no_grad()
def pictures_do_not_meet(case):
    """Another order of the batch, and each picture alone."""
    model, x = case.model(), case.pictures()
    outputs = model(x)
    for out, turned in zip(outputs, model(x.flip(0)), strict=True):
        assert_near(turned.flip(0), out, case.dtype)
    for out, alone in zip(outputs, model(x[:1]), strict=True):
        assert_near(out[:1], alone, case.dtype)


def padding_plays_no_part(case):
    model = build(NARROW, case.dtype, window_size=case.window_size, **case.options)
    assert_alone(model, case.sizes, case.dtype)


@torch.no_grad()
def strides_play_no_part(case):
    model, x = case.model(), case.pictures()
    wide = torch.zeros(*x.shape[:2], x.shape[2] + 3, 2 * x.shape[3], dtype=x.dtype)
    wide[:, :, 3:, ::2] = x
    for form in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT, wide[:, :, 3:, ::2]):
        for out, expected in zip(model(form), model(x), strict=True):
            assert torch.equal(out, expected) and out.is_contiguous()


def the_same_bits_again_and_when_recomputed(case):
    """Maps and gradients; with ``with_cp`` the blocks are computed twice."""

    def run(model):
        model.train()
        outputs = model(case.pictures())
        sum((i + out).square().sum() for i, out in enumerate(outputs)).backward()
        return [*outputs, *(p.grad for p in model.parameters())]

    first, *others = (run(case.model(norm_eval=True, with_cp=with_cp)) for with_cp in (False, False, True))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


PROPERTIES = [
    maps_have_their_sizes_and_everything_a_finite_gradient,
    pictures_do_not_meet,
    padding_plays_no_part,
    strides_play_no_part,
    the_same_bits_again_and_when_recomputed,
]


def check(property_of, examples):
    options = dict(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    settings(max_examples=examples, **options)(given(CASES)(property_of))()


@pytest.mark.parametrize("property_of", PROPERTIES, ids=lambda function: function.__name__)
def test_property_of_the_backbone(property_of):
    check(property_of, 5)


@pytest.mark.long
@pytest.mark.parametrize("property_of", PROPERTIES, ids=lambda function: function.__name__)
def test_property_of_the_backbone_over_many_shapes(property_of):
    check(property_of, 200)
