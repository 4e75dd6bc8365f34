"""The counter: attention and mean by hand, on whole and ragged windows, whatever backend is chosen."""

from pathlib import Path

import pytest
from old_torch import needs_module_tracker

from mmsema.analysis.complexity import count_operations
from mmsema.models.mixers import MIXERS as ALL_MIXERS
from mmsema.models.sema import ARCHITECTURES

pytestmark = needs_module_tracker
ROOT = Path(__file__).resolve().parents[2]
TINY_DEPTHS, WINDOW = (2, 4, 8, 4), 7
PICO_HEADS = ARCHITECTURES["pico"]["num_heads"]
MIXERS = [name for name in ALL_MIXERS if not name.startswith("sema_")]


def sides(length: int) -> list:
    """The lengths of the windows that cover one side of a map."""
    return [min(WINDOW, length - start) for start in range(0, length, WINDOW)]


def by_hand(H: int, W: int, width: int, depths) -> tuple:
    """Multiply-accumulates of q k^T and of weights times v, in all blocks; and half the additions of the means."""
    attention = mean = 0
    H, W = -(-H // 2), -(-W // 2)
    for stage, blocks in enumerate(depths):
        H, W, C = -(-H // 2), -(-W // 2), width << stage
        pairs = sum((h * w) ** 2 for h in sides(H) for w in sides(W))  # of tokens in one window
        attention += blocks * 2 * pairs * C
        mean += blocks * H * W * C / 2
    return attention, mean


def test_tiny_at_224():
    counted = count_operations("sema-t_8xb128_in1k")
    attention, mean = by_hand(224, 224, 64, TINY_DEPTHS)
    assert counted.total.parameters == 24_392_200
    assert (counted.attention.macs, counted.mean.macs) == (attention, mean) == (127_848_448, 652_288)
    pooling, head = 7 * 7 * 512 / 2, 512 * 1000
    assert counted.total.macs == 4_173_940_736 + mean + pooling + head  # the backbone's of configs/metafile.yml
    assert counted.total.macs == sum(part.macs for part in counted.parts)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_ragged_windows_on_any_backend(backend, monkeypatch):
    monkeypatch.setenv("MMSEMA_KERNEL", backend)
    counted = count_operations("sema-pico_digits", (101, 150))
    assert (counted.attention.macs, counted.mean.macs) == by_hand(101, 150, 32, (1, 1, 2, 1))
    assert counted.input_shape == (1, 3, 101, 150)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", MIXERS)
def test_what_every_mixer_costs(mixer, tmp_path):
    """The multiply-accumulates a token that docs/mixers.md names, times tokens, in all heads of all blocks."""
    config = tmp_path / "mixer.py"
    config.write_text(f"""
_base_ = "{ROOT}/configs/sema-pico_digits.py"
model = dict(backbone=dict(mixer="{mixer}"))
""")
    expected, side = 0, 56
    for stage, (blocks, heads) in enumerate(zip((1, 1, 2, 1), PICO_HEADS, strict=True)):
        n, d = (side >> stage) ** 2, (32 << stage) // heads
        pairs = {"softmax": n, "sema": WINDOW**2, "window": WINDOW**2}.get(mixer, d)
        expected += blocks * heads * n * 2 * pairs * d
    actual = count_operations(config, (224, 224)).attention.macs
    # of the linear ones also what no sum over tokens adds: products of one mean with every token, n d a head
    assert expected <= actual <= expected * (1 if mixer in ("softmax", "sema", "window") else 1.2)


@pytest.mark.slow
def test_a_detector_is_counted_for_all_regions_and_its_attention_without_padding(tmp_path):
    counts = []
    for regions in (20, 40):
        config = tmp_path / f"regions{regions}.py"
        config.write_text(f"""
_base_ = "{ROOT}/configs/mask-rcnn_sema-pico_fpn_shapes.py"
model = dict(test_cfg=dict(rpn=dict(max_per_img={regions})))
""")
        counted = count_operations(config, (70, 90))
        assert counted.regions == regions and counted.input_shape == (1, 3, 96, 96)
        assert (counted.attention.macs, counted.mean.macs) == by_hand(70, 90, 32, (1, 1, 2, 1))
        assert counted.total.macs == sum(part.macs for part in counted.parts)
        assert counted.total.parameters == sum(part.parameters for part in counted.parts)
        counts.append({part.name: part.macs for part in counted.parts})
    assert counts[1]["roi_head"] == 2 * counts[0]["roi_head"] > 0
    assert all(counts[1][name] == counts[0][name] > 0 for name in ("backbone", "neck", "rpn_head"))
