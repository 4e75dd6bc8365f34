"""What was fit for use is remembered until something that decides it changes."""

import shutil
from functools import partial
from typing import Callable

import pytest
from file_faults import cut
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS
from old_torch import needs_mmseg
from PIL import Image
from planting import (
    CLASSES,
    MAKE,
    NAMES,
    SIZE,
    config,
    dataset,
    edit,
    make_coco,
    make_pairs,
    picture,
)

from mmsema.audit import audit_config
from mmsema.audit.folders import EXTENSIONS
from mmsema.audit.run import plan


def looks_at(cfg: Config, form: str = "quick", then: Callable = lambda: None) -> bool:
    """Whether an audit reads files, and does not take them from memory; ``then`` is called when it has listed them."""
    looked = []

    def progress(items, description):
        then()
        looked.append(description)
        return items

    audit_config(cfg, pictures=form, progress=progress)
    return bool(looked)


def test_what_was_fit_is_remembered_until_it_changes(tmp_path):
    make_coco(tmp_path)
    cfg = config("mmdet", train=dataset(tmp_path, "coco"))
    looks = partial(looks_at, cfg)
    assert looks("all") and not looks("all") and not looks("quick") and looks("decode") and not looks("all")
    picture(tmp_path / "images/a.jpg", 7)  # in place
    assert looks() and not looks()
    picture(tmp_path / "images/new.jpg", 8)
    assert looks() and not looks()
    cut(tmp_path / "images" / NAMES[2], 0.5)  # in a folder inside
    assert looks() and looks()  # a set that is not fit is looked at every time
    picture(tmp_path / "images" / NAMES[2], 2)
    assert looks() and not looks()
    edit(tmp_path, lambda content: content["annotations"].pop())
    assert looks() and not looks()
    cfg.train_dataloader.dataset.metainfo.classes = CLASSES[:2]
    assert looks() and not looks()
    for path in (tmp_path / "cache/mmsema/audit").iterdir():
        path.write_text("{")
    assert looks() and not looks()


@pytest.mark.parametrize("kind", ["coco", "folders"])
def test_what_changes_during_the_audit_is_not_remembered(kind, tmp_path):
    MAKE[kind](tmp_path)
    cfg = config(dict(coco="mmdet", folders="mmpretrain")[kind], train=dataset(tmp_path, kind))
    folder = tmp_path / dict(coco="images", folders="train/circle")[kind]
    looks = partial(looks_at, cfg)
    changes = [lambda: picture(folder / "new.jpg", 8), lambda: picture(folder / "new.jpg", 9)]
    if kind == "coco":
        changes.append(lambda: edit(tmp_path, lambda content: content["annotations"].pop()))
    for change in changes:
        assert looks(then=change) and looks() and not looks()
        shutil.rmtree(tmp_path / "cache")


def test_classes_that_stand_outside_of_the_config_are_remembered_too(tmp_path, monkeypatch):
    class Own(CocoDataset):
        METAINFO = dict(classes=CLASSES)

    monkeypatch.setitem(DATASETS.module_dict, "OwnForThisTest", Own)
    make_coco(tmp_path)
    names, misspelt = tmp_path / "classes.txt", ("circle", "sqare", "star")
    names.write_text("\n".join(CLASSES))
    own, file = dict(type="OwnForThisTest", metainfo=None), dict(metainfo=dict(classes=str(names)))
    configs = [config("mmdet", train=dataset(tmp_path, "coco", **settings)) for settings in (own, file)]
    for cfg in configs:
        assert looks_at(cfg) and not looks_at(cfg)
    Own.METAINFO = dict(classes=misspelt)
    names.write_text("\n".join(misspelt))
    for cfg in configs:
        assert "class-unknown" in audit_config(cfg, pictures="quick")[0].counts


@needs_mmseg
def test_defaults_of_a_class_are_remembered_too(tmp_path, monkeypatch):
    from mmseg.datasets import BaseSegDataset

    class Own(BaseSegDataset):
        zero = True

        def __init__(self, **settings):
            super().__init__(reduce_zero_label=self.zero, **settings)

    monkeypatch.setitem(DATASETS.module_dict, "OwnForThisTest", Own)
    make_pairs(tmp_path)
    Image.new("L", SIZE, len(CLASSES)).save(tmp_path / "map/1.png")
    cfg = config("mmseg", train=dict(dataset(tmp_path, "pairs"), type="OwnForThisTest"))
    assert looks_at(cfg) and not looks_at(cfg)
    Own.zero = False
    assert audit_config(cfg, pictures="quick")[0].counts == {"map-values": 1}


def test_endings_come_in_the_same_order_in_every_process(tmp_path):
    endings = plan(dataset(tmp_path, "folders"), "train", masks=False, alone=True).keywords["extensions"]
    assert endings == sorted(EXTENSIONS)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    make_coco(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (report,) = audit_config(config("mmdet", train=dataset(tmp_path, "coco")))
    assert not report.stops
