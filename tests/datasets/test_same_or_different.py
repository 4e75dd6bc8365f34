"""The task that only the whole picture decides, and what can decide it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmsema.datasets import SameOrDifferent
from mmsema.datasets.same_or_different import EDGE, PAIRS, WIDTH

CONFIG = Path(__file__).resolve().parents[2] / "configs/sema-onestage_same-or-different.py"


def test_the_same_seed_draws_the_same_pictures_and_splits_differ():
    one, again, other = (SameOrDifferent("train", 2, [], seed=seed) for seed in (0, 0, 1))
    for i in (0, 7):
        assert (one[i]["img"] == again[i]["img"]).all() and (one[i]["img"] != other[i]["img"]).mean() > 0.5
    assert (one[0]["img"] != SameOrDifferent("test", 2, [])[0]["img"]).mean() > 0.5
    assert (one[0]["img"] != one[len(PAIRS)]["img"]).mean() > 0.5  # the next group
    assert one[0]["img"].shape == (14, 140, 3) and one[0]["img"].dtype == np.uint8


def test_no_part_with_one_marker_says_anything():
    data = SameOrDifferent("train", 3, [])
    pictures = [data[i] for i in range(len(data))]
    for columns in (slice(0, WIDTH - EDGE), slice(EDGE, WIDTH)):  # all that do not hold the other marker
        classes = [Counter(p["img"][:, columns].tobytes() for p in pictures if p["gt_label"] == k) for k in (0, 1)]
        assert classes[0] == classes[1] and len(classes[0]) == 3 * 2
    whole = [{p["img"].tobytes() for p in pictures if p["gt_label"] == k} for k in (0, 1)]
    assert whole[0].isdisjoint(whole[1])


def classifier(**backbone) -> torch.nn.Module:
    """The config's, in float64, with random weights that are not small."""
    cfg = Config.fromfile(str(CONFIG))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    cfg.model.backbone.update(backbone)
    model = MODELS.build(cfg.model).double().eval()
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    return model


def pictures(count: int) -> torch.Tensor:
    data = SameOrDifferent("train", 1, [])
    return torch.stack([torch.from_numpy(data[i]["img"]).permute(2, 0, 1) for i in range(count)]).sub(128).double() / 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone, joins",
    [(dict(mixer="window"), False), *((dict(averaging=name), True) for name in ("mean", "max", "weighted", "scaled"))],
    ids=lambda value: str(value),
)
def test_what_a_token_sees(backbone, joins):
    """No token of the window mixer depends on both markers, wherever they are; with an average every token does."""
    model = classifier(**backbone).backbone
    x = pictures(1).requires_grad_()
    (features,) = model(x)
    weights = torch.randn(features.shape[:3], dtype=x.dtype)
    columns = range(features.shape[-1])
    sees = []
    for column in columns:
        (grad,) = torch.autograd.grad((features[..., column] * weights).sum(), x, retain_graph=True)
        sees.append([grad[..., part].abs().max() > 0 for part in (slice(0, EDGE), slice(WIDTH - EDGE, WIDTH))])
    assert all(left and right for left, right in sees) if joins else not any(left and right for left, right in sees)
    assert sees[0][0] and sees[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["window", "sema", "softmax", "linear", "inline", "focused", "mala", "rala"])
def test_whose_scores_are_sums_over_the_markers(mixer):
    """f(left) + g(right) has the same mean in both classes; only the window mixer's scores are such a sum."""
    with torch.no_grad():
        scores = classifier(mixer=mixer)(pictures(len(PAIRS)))
    by_pair = dict(zip(PAIRS, scores, strict=True))
    apart = by_pair[0, 0] + by_pair[1, 1] - by_pair[0, 1] - by_pair[1, 0]
    assert (apart.abs().max() < 1e-12) == (mixer == "window")


def test_registered_without_import_and_arguments_are_checked():
    data = DATASETS.build(dict(type="mmsema.SameOrDifferent", split="test", groups=1, pipeline=[]))
    assert [d["gt_label"] for d in data].count(1) == len(PAIRS) / 2
    with pytest.raises(ValueError, match="split must be one of .*, got 'val'"):
        SameOrDifferent("val", 1, [])
    with pytest.raises(ValueError, match="groups must be an int >= 1, got 0"):
        SameOrDifferent("train", 0, [])
