"""Pictures of objects: what is drawn is where the objects are, and labels hide nothing."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData

from mmsema.visualization import COLORS, COVER, LABELS, DetVisualizer, choose_colors, place_labels, readable, shades

GREY = 127


@pytest.fixture(scope="module")
def visualizer() -> DetVisualizer:
    visualizer = VISUALIZERS.build(dict(type="mmsema.DetVisualizer", name="tests"))
    assert isinstance(visualizer, DetVisualizer) and visualizer.labels == "auto"
    return visualizer


def crowd(rng: np.random.Generator, count: int, picture=(512, 512)) -> np.ndarray:
    """Boxes of a nucleus's size, (count, 4)."""
    corners = rng.uniform(0, np.array(picture) - 40, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(10, 40, (count, 2))], 1)


def draw(visualizer, instances, labels="none", size=(600, 600), classes=("a", "b")) -> np.ndarray:
    """Where a grey picture was changed, (H, W) bool."""
    visualizer.labels, visualizer.dataset_meta = labels, dict(classes=classes)
    drawn = visualizer.draw(np.full((*size, 3), GREY, np.uint8), instances)
    return (drawn != GREY).any(-1)


def one(box, masks=None, **fields) -> InstanceData:
    fields = dict(bboxes=torch.tensor([box], dtype=torch.float32), labels=torch.tensor([0]), **fields)
    return InstanceData(**fields, **({} if masks is None else dict(masks=masks)))


@pytest.mark.parametrize("count", [1, 30, 300])
def test_labels_hide_no_object_and_no_other_label(count):
    rng = np.random.default_rng(count)
    boxes, sizes = crowd(rng, count), [(90, 15)] * count
    corners = place_labels(boxes, sizes, (512, 512), "auto")
    labels = [(*corner, corner[0] + 90, corner[1] + 15) for corner in corners if corner is not None]
    assert 1 <= len(labels) <= count and (count < 300 or len(labels) < 100)
    owners = [i for i, corner in enumerate(corners) if corner is not None]
    for i, (left, top, right, bottom) in zip(owners, labels, strict=True):
        assert left >= 0 and top >= 0 and right <= 512 and bottom <= 512
        for others, limit in (
            (np.delete(boxes, i, 0), COVER),
            (np.array([x for x in labels if x[:2] != (left, top)]), 0),
        ):
            for x1, y1, x2, y2 in others:
                shared = max(0, min(x2, right) - max(x1, left)) * max(0, min(y2, bottom) - max(y1, top))
                assert shared <= limit * (x2 - x1) * (y2 - y1) + 1e-9
    assert None not in place_labels(boxes, sizes, (512, 512), "all")
    assert place_labels(boxes, sizes, (512, 512), "none") == [None] * count


def test_the_surest_objects_are_named_first(visualizer):
    boxes = torch.tensor([[100.0, 100, 120, 120], [100, 100, 120, 120]])  # one place for two objects' labels
    found = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]), scores=torch.tensor([0.4, 0.9]))
    visualizer.labels, visualizer.dataset_meta = "auto", dict(classes=("a", "b"), palette=[(250, 0, 0), (0, 0, 250)])
    drawn = visualizer.draw(np.full((600, 600, 3), GREY, np.uint8), found)
    assert (drawn[99 - 8, 101] == (0, 0, 250)).all()  # above both is the second one's


def test_neighbours_of_the_only_class_differ():
    y, x = np.mgrid[:8, :8] * 20.0
    boxes = np.stack([x, y, x + 19, y + 19], -1).reshape(-1, 4)
    colors = np.array(choose_colors([0] * 64, boxes, None)).reshape(8, 8, 3)
    assert (colors[1:] != colors[:-1]).any(-1).all() and (colors[:, 1:] != colors[:, :-1]).any(-1).all()
    assert (colors[1:, 1:] != colors[:-1, :-1]).any(-1).all()
    far = choose_colors([0] * 9, boxes[::7][:9] * 10, None)
    assert sorted(far) == sorted(COLORS)  # without neighbours every colour is used


def test_classes_keep_their_colour_and_neighbours_get_shades_of_it():
    boxes = np.array([[0.0, 0, 20, 20], [21, 0, 40, 20], [200, 200, 220, 220], [10, 10, 30, 30]])
    palette = [(200, 0, 0), (0, 0, 200)]
    colors = choose_colors([0, 0, 0, 1], boxes, palette)
    assert colors[0] == palette[0] and colors[1] in shades(palette[0]) and colors[1] != colors[0]
    assert colors[2] == palette[0] and colors[3] == palette[1]


@pytest.mark.parametrize("palette", ["random", "coco", [], np.array(COLORS, np.uint8)], ids=str)
def test_a_palette_that_is_no_list_of_colours(palette):
    """mmdet's inferencer gives "random" where a data set names no colours."""
    boxes = np.array([[0.0, 0, 20, 20], [210, 0, 240, 20]])
    assert choose_colors([0, 1], boxes, palette) == list(COLORS[:2])


@pytest.mark.parametrize("form", ["tensor", "array", "BitmapMasks"])
def test_a_mask_is_drawn_where_it_is(form, visualizer):
    mask = np.zeros((1, 600, 600), np.uint8)
    mask[0, 100:200, 300:450] = 1
    forms = dict(tensor=torch.from_numpy(mask).bool(), array=mask, BitmapMasks=BitmapMasks(mask, 600, 600))
    changed = draw(visualizer, one([300, 100, 450, 200], forms[form]))
    assert changed[100:200, 300:450].all()
    changed[96:204, 296:454] = False
    assert not changed.any()


def test_a_box_is_drawn_where_there_is_no_mask_or_another_one(visualizer):
    mask = torch.zeros(1, 600, 600, dtype=torch.bool)
    for box in ([100, 100, 500, 500], [0, 0, 50, 50]):
        changed = draw(visualizer, one(box, mask))
        assert changed[box[1] : box[3], box[2] - 1].all() and not changed[box[1] + 10 : box[3] - 10, box[0] + 10].any()
    mask[0, 100:300, 100:500] = True  # half of the box
    assert draw(visualizer, one([100, 100, 500, 500], mask))[310:490, 100].all()
    mask[0, 100:480, 100:500] = True
    assert not draw(visualizer, one([100, 100, 500, 500], mask))[490:].any()
    assert draw(visualizer, one([0, 0, 0, 0], mask))[300, 300]  # of a model that gives masks alone


def test_lines_grow_with_the_picture_and_small_pictures_are_enlarged(visualizer):
    widths = []
    for size in (600, 2400):
        drawn = visualizer.draw(np.zeros((size, size, 3), np.uint8), one([size / 4, size / 4, size / 2, size / 2]))
        widths.append((drawn[3 * size // 8, : 3 * size // 8].max(-1) > 200).sum())
    assert widths[0] >= 2 and widths[1] >= 3 * widths[0]
    mask = torch.zeros(1, 60, 100, dtype=torch.bool)
    mask[0, 10:20, 30:50] = True
    changed = draw(visualizer, one([30, 10, 50, 20], mask), size=(60, 100))
    assert changed.shape == (360, 600) and changed[60:120, 180:300].all()
    changed[54:126, 174:306] = False
    assert not changed.any()


@pytest.mark.parametrize("labels", LABELS)
def test_names_and_scores(labels, visualizer):
    """The only class's name is left out; what the text says shows in how wide its label is."""
    box = [100.0, 300, 200, 400]
    above = np.s_[300 - 14 : 300 - 4]

    def width(classes=("circle", "square"), **fields) -> int:
        return draw(visualizer, one(box, **fields), labels, classes=classes)[above].any(0).sum()

    widths = [width(), width(scores=torch.tensor([0.5])), width(("circle",), scores=torch.tensor([0.5]))]
    if labels == "none":
        assert not any(widths)
    else:
        assert widths[1] > widths[0] > 20 and widths[1] > widths[2] > 20
        assert width(label_names=["a crowd of circles"]) > widths[0]
    assert width(("circle",)) == 0


def test_a_picture_full_of_objects_stays_visible(visualizer):
    """60 nuclei on 256 pixels, which mmdet's own labels turn into black boxes."""
    rng = np.random.default_rng(0)
    boxes = crowd(rng, 60, (256, 256))
    image = cv2.GaussianBlur(rng.integers(0, 255, (256, 256, 3), np.uint8), (0, 0), 2)
    masks = np.zeros((60, 256, 256), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    found = InstanceData(bboxes=boxes, labels=np.zeros(60, int), scores=rng.uniform(0.3, 1, 60), masks=masks)
    visualizer.dataset_meta = dict(classes=("nucleus", "debris"))
    pictures = {}
    for labels in LABELS:
        visualizer.labels = labels
        pictures[labels] = visualizer.draw(image, found).astype(int)
    objects = cv2.resize(masks.any(0).astype(np.uint8), (512, 512)) > 0
    hidden = {name: (picture != pictures["none"]).any(-1)[objects].mean() for name, picture in pictures.items()}
    assert 0 < hidden["auto"] < 0.1 < hidden["all"]


def test_nothing_found_is_the_picture(visualizer):
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))
    assert not draw(visualizer, nothing, "all").any()


def test_labels_are_one_of_three(visualizer):
    with pytest.raises(ValueError, match="labels must be one of auto, all, none, got 'some'"):
        visualizer.labels = "some"


def test_only_the_hosts_default_is_replaced():
    backends = [dict(type="LocalVisBackend")]
    cfg = Config(dict(visualizer=dict(type="DetLocalVisualizer", name="visualizer", vis_backends=backends, alpha=0.3)))
    expected = dict(type="mmsema.DetVisualizer", labels="none", name="visualizer", vis_backends=backends)
    assert readable(cfg, "none").to_dict() == expected
    cfg.visualizer.type = "TrackLocalVisualizer"
    assert readable(cfg, "none") is cfg.visualizer
    cfg.visualizer = None
    assert readable(cfg).to_dict() == dict(type="mmsema.DetVisualizer", labels="auto")
