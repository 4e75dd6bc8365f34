"""Every planted fault is named in one line, alone and all at once; what ships is not blamed."""

from argparse import Namespace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from config_faults import FAULTS, ROOT, SHAPES, plant
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from mmsema.engine.check import find_faults, merge_options, problem_of_work_dir
from mmsema.engine.check.classes import check_classes, classes_of
from mmsema.engine.check.probe import quietly
from mmsema.engine.check.values import check_values
from mmsema.engine.config import check_data, load_config, read_config
from mmsema.engine.errors import UsageError
from mmsema.engine.quiet import import_datasets
from mmsema.engine.resume import saved_checkpoints


def lines_on(path, options=(), **more) -> list:
    arguments = Namespace(config=str(path), cfg_options=list(options), launcher="none", work_dir=None, **more)
    with pytest.raises(UsageError) as caught:
        load_config(arguments)
    return str(caught.value).split("\nerror: ")


@pytest.mark.slow
@pytest.mark.scorecard("config")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_named_in_one_line(fault, tmp_path):
    lines = lines_on(plant(fault, tmp_path), fault.options)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in fault.words), lines[0]
    assert "\n" not in lines[0] and len(lines[0]) < 400


def test_all_faults_at_once(tmp_path):
    text = (
        "optim_wraper = dict()\nmodel = dict(rpn_head=dict(feat_channel=4), neck=dict(in_channels=[8, 8, 8, 8]),"
        " roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))\n"
        "custom_hooks = [dict(type='EMAHok')]\n"
    )
    (tmp_path / "planted.py").write_text(f"_base_ = {str(SHAPES)!r}\n{text}")
    lines = lines_on(tmp_path / "planted.py", ["modle.a=1", "train_dataloader.batch_size=four"])
    starts = [line.split(": ")[0] for line in lines]
    assert sorted(starts) == sorted(
        [
            "--cfg-options modle.a",
            "--cfg-options train_dataloader.batch_size",
            "optim_wraper",
            "custom_hooks[0].type",
            "model.rpn_head.feat_channel",
            "model.neck.in_channels",
            "model.roi_head.bbox_head.num_classes",
            "model.roi_head.mask_head.num_classes",
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_what_ships_passes(path):
    if "mmseg::" in path.read_text():
        pytest.importorskip("mmseg")
    read_config(path)


@pytest.mark.parametrize(
    "option",
    ["model.backbone.with_cp=True", "train_cfg.val_interval=2", "param_scheduler.0.end=10", "custom_hooks=[]",
     "default_hooks.checkpoint.by_epoch=True", "randomness.seed=1", "model.neck.in_channels=[32,64,128,256]",
     "optim_wrapper.optimizer.fused=True", "model.train_cfg.rcnn.sampler.num=8", "work_dir=elsewhere"],
)  # fmt: skip
def test_options_that_something_takes_pass(option):
    read_config(SHAPES, [option])


@pytest.mark.parametrize(
    ("old", "option"),
    [
        (dict(val_evaluator=dict(type="CocoMetric", metric=["bbox", "segm"])), "val_evaluator.metric=bbox"),
        (dict(train_dataloader=dict(dataset=dict(metainfo=dict(classes=("a", "b"))))),
         f"train_dataloader.dataset.metainfo.classes={Path(__file__)}"),
        (dict(model=dict(backbone=dict(type="SEMA", arch=dict(embed_dims=8)))), "model.backbone.arch=small"),
        (dict(train_dataloader=dict(dataset=dict(type="mmpretrain.CustomDataset", data_prefix=dict(img_path="a")))),
         "train_dataloader.dataset.data_prefix=b"),
        (dict(model=dict(neck=dict(type="FPN", add_extra_convs=False))), "model.neck.add_extra_convs=on_output"),
    ],
)  # fmt: skip
def test_options_of_another_kind_that_something_takes_pass(old, option):
    import mmdet.models  # noqa: F401

    cfg = Config(dict(old, default_scope="mmdet"))
    assert merge_options(cfg, [option]) == []
    key, value = option.split("=")
    assert cfg.get(key.split(".")[0]) and str(value) in str(cfg)


def test_what_an_option_deletes_is_what_the_file_has():
    options = ["optimizer.type=SGD", "optimizer.lr=0.1", "optimizer._delete_=True", "optimizer.momentum=0.9"]
    for order in (options, options[::-1]):
        cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999)))))
        assert merge_options(cfg, [f"optim_wrapper.{option}" for option in order]) == []
        assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.1, momentum=0.9)


def test_imports_that_an_option_names_are_done(tmp_path, monkeypatch):
    (tmp_path / "has_a_mixer.py").write_text(
        "from mmsema.models.mixers import MIXERS\nMIXERS['of_an_option'] = MIXERS['sema']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    read_config(SHAPES, ["custom_imports.imports=[mmsema,has_a_mixer]", "model.backbone.mixer=of_an_option"])
    (line,) = lines_on(SHAPES, ["custom_imports.imports=[mmsema,has_no_mixer]"])
    assert line.startswith("custom_imports.imports: no module 'has_no_mixer'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone, channels",
    [
        (dict(type="ResNet", depth=50), [256, 512, 1024, 2048]),
        (dict(type="SwinTransformer"), [96, 192, 384, 768]),
        (dict(type="mmpretrain.ConvNeXt", arch="tiny", out_indices=(0, 1, 2, 3), gap_before_final_norm=False),
         [96, 192, 384, 768]),
    ],
)  # fmt: skip
def test_channels_of_any_backbone(backbone, channels, tmp_path):
    text = f"_base_ = {str(SHAPES)!r}\nmodel = dict(backbone=dict(_delete_=True, **{backbone}), neck=dict(in_channels="
    path = tmp_path / "planted.py"
    path.write_text(f"{text}{channels}))\n")
    read_config(path)
    path.write_text(f"{text}[8, 8, 8, 8]))\n")
    (line,) = lines_on(path)
    assert line.startswith(f"model.neck.in_channels: must be {channels}")


def test_switched_off(monkeypatch, tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(f"_base_ = {str(SHAPES)!r}\noptim_wraper = dict()\n")
    monkeypatch.setenv("MMSEMA_CONFIG_CHECK", "off")
    read_config(path)


@pytest.mark.parametrize(
    "scope, name, kind",
    [("mmdet", "Albu", "CocoDataset"), ("mmseg", "Albu", "ADE20KDataset"), ("mmpretrain", "Albumentations", "CIFAR10")],
)
def test_transforms_of_albumentations_are_not_ours_to_know(scope, name, kind):
    pytest.importorskip(scope)
    steps = [dict(type=name, transforms=[dict(type="RandomGamma", p=0.5)]), dict(type=f"No{name}")]
    data = dict(dataset=dict(type=kind, pipeline=steps))
    lines = find_faults(Config(dict(default_scope=scope, model=dict(type="mmsema.SEMA"), train_dataloader=data)))
    assert len(lines) == 1 and f"No{name}" in lines[0], lines


def faults_of_shapes(folder, text) -> list:
    (folder / "planted.py").write_text(f"_base_ = {str(SHAPES)!r}\n{text}\n")
    return find_faults(Config.fromfile(str(folder / "planted.py")))


@pytest.mark.slow
def test_weights_of_losses_are_no_part_of_a_model(tmp_path):
    (line,) = faults_of_shapes(tmp_path, "model = dict(loss_weights=dict(rpn=1.0, roi=2))")
    assert line.startswith("model.loss_weights: MaskRCNN has no loss_weights")
    for part in ("loss=dict(loss_weight=1.0)", "loss=dict(use_sigmoid=True)", "neck=dict(_delete_=True, num_outs=4)"):
        lines = faults_of_shapes(tmp_path, f"model = dict({part})")
        assert any("a model needs a type" in line for line in lines), lines


@pytest.fixture()
def two_optimizers():
    @OPTIM_WRAPPER_CONSTRUCTORS.register_module()
    class TwoOptimizers:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            pass

    yield "TwoOptimizers"
    OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop("TwoOptimizers")


@pytest.mark.slow
def test_several_optimizers_are_each_checked(two_optimizers, tmp_path):
    def faults(first):
        one = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
        wrapper = dict(_delete_=True, constructor=two_optimizers, backbone=first, head=one)
        return faults_of_shapes(tmp_path, f"optim_wrapper = {wrapper}")

    optimizer = dict(type="AdamW", lr=1e-4)
    assert faults(dict(optimizer=optimizer, clip_grad=dict(max_norm=1.0))) == []
    for wrong, words in (
        (dict(type="OptimWraper", optimizer=optimizer), "backbone.type: no optim wrapper 'OptimWraper'"),
        (dict(optimizer=optimizer, clip=1), "backbone.clip: OptimWrapper has no clip"),
        (dict(optimizer=dict(lr=0.1)), "backbone.optimizer: a optimizer needs a type"),
        (dict(optimizer=dict(optimizer, weightdecay=1)), "backbone.optimizer.weightdecay: AdamW has no"),
        (dict(optimizer=optimizer, clip_grad=dict(max_nrm=1)), "backbone.clip_grad.max_nrm"),
    ):
        (line,) = faults(wrong)
        assert line.startswith(f"optim_wrapper.{words}"), line


def test_classes_of_a_file_are_its_lines(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    for dataset in (
        dict(classes=str(tmp_path / "classes.txt")),
        dict(metainfo=dict(classes=f"{tmp_path}/classes.txt")),
    ):
        assert classes_of(dict(dataset, type="CustomDataset"), "mmpretrain")[0] == 3


def panoptic(declared: int, **metainfo) -> list:
    """The faults of a box head with so many classes on mmdet's panoptic COCO."""
    import mmdet.datasets  # noqa: F401

    model = dict(backbone=dict(type="SEMA"), roi_head=dict(bbox_head=dict(num_classes=declared)))
    dataset = dict(type="CocoPanopticDataset", metainfo=metainfo)
    return check_classes(Config(dict(default_scope="mmdet", model=model, train_dataloader=dict(dataset=dataset))))


def test_box_heads_have_the_things_of_a_panoptic_data_set():
    assert panoptic(80) == [] and panoptic(2, classes=("a", "b", "sky"), thing_classes=("a", "b")) == []
    ((path, text),) = panoptic(133)
    assert path == "model.roi_head.bbox_head.num_classes" and "must be 80" in text and "got 133" in text
    assert panoptic(2, classes=("a", "b", "sky")) == []  # which are things, its files know


def test_trackers_have_heads_of_other_classes():
    from mmdet.datasets import MOTChallengeDataset

    detector = dict(backbone=dict(type="SEMA"), bbox_head=dict(num_classes=1))
    cfg = dict(default_scope="mmdet", train_dataloader=dict(dataset=dict(type="MOTChallengeDataset")))
    assert len(MOTChallengeDataset.METAINFO["classes"]) == 13
    assert len(check_classes(Config(dict(cfg, model=dict(detector=detector))))) == 1
    assert check_classes(Config(dict(cfg, model=dict(detector=detector, tracker=dict(type="SORTTracker"))))) == []


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (dict(data_prefix="train"), False),
        (dict(data_prefix="val"), True),
        (dict(data_prefix=dict(img="val")), True),
        (dict(data_prefix="val", backend_args=dict(backend="local")), True),
        (dict(data_prefix="val", backend_args=dict(backend="petrel", path_mapping={"data/": "s3://x/"})), False),
        (dict(data_prefix="val", pipeline=[dict(type="LoadImageFromFile", backend_args=dict(backend="lmdb"))]), False),
        (dict(ann_file="a.json", data_prefix=dict(img="s3://x/")), False),
        (dict(data_prefix="val", type="mmpretrain.CIFAR10"), False),
        (dict(data_prefix="val", type="mmpretrain.CIFAR10", download=False), True),
    ],
)
def test_data_that_is_missing(settings, missing, tmp_path):
    import mmpretrain.datasets  # noqa: F401

    (tmp_path / "train").mkdir()
    dataset = dict(type="RepeatDataset", dataset=dict(data_root=str(tmp_path), **settings))
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    if missing:
        with pytest.raises(UsageError, match="val is missing"):
            check_data(cfg, ["train_dataloader"])
    else:
        check_data(cfg, ["train_dataloader"])


def test_the_random_state_is_as_it_was():
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    with quietly():
        torch.rand(3)
    assert torch.rand(1) == first


def start(work_dir: Path, resume: bool = False, **hook) -> str:
    """What keeps a run from starting in this folder."""
    cfg = Config(dict(work_dir=str(work_dir), default_hooks=dict(checkpoint=dict(type="CheckpointHook", **hook))))
    return problem_of_work_dir(cfg.work_dir, saved_checkpoints(cfg), resume) or ""


def test_work_folder_of_an_earlier_run(tmp_path):
    assert not start(tmp_path / "new" / "folder")
    for name in ("iter_7.pth", "iter_10.pth", "best_acc_iter_7.pth", "weights.pth"):
        (tmp_path / name).touch()
    assert f"{tmp_path} has checkpoints of an earlier run (iter_10.pth, iter_7.pth); add --resume" in start(tmp_path)
    assert not start(tmp_path, resume=True)


@pytest.mark.parametrize("template", ["model_{}.pth", "step-{:06d}.ckpt", "newest.pth"])
def test_checkpoints_of_an_earlier_run_under_names_of_the_config(template, tmp_path):
    (tmp_path / template.format(300)).touch()
    assert template.format(300) in start(tmp_path, filename_tmpl=template)
    assert not start(tmp_path) and not start(tmp_path, filename_tmpl=f"other-{template}")


def test_checkpoints_of_an_earlier_run_in_another_folder(tmp_path):
    run, kept = tmp_path / "runs/a/", tmp_path / "out/a"
    assert not start(run, out_dir=str(tmp_path / "out"))
    kept.mkdir(parents=True)
    (kept / "epoch_3.pth").touch()
    assert f"{kept} has checkpoints of an earlier run (epoch_3.pth)" in start(run, out_dir=str(tmp_path / "out"))
    assert not start(run, resume=True, out_dir=str(tmp_path / "out"))


# what is wrong with configs that the hosts ship, or needs packages that are not installed here
HOSTS_OWN = (
    "CocoMetric has no eval_mode", "OpenMMLab 1.x", "names neither a type nor by_epoch", "nothing reads _delete",
    "LoRAModel cannot be built", "in mmengine; ", "is the module that registers it missing in custom_imports?",
    "no dataset 'MiniGPT4Dataset'", "the config has no model", "no metric 'MOTChallengeMetrics'",
    "VPD cannot be built: AssertionError: To use VPD model, please install",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("host", ["mmdet", "mmpretrain", "mmseg"])
def test_configs_of_the_hosts_pass(host):
    """Every tenth, but for what is wrong with them; the quick checks on the first, middle and last of every folder."""
    folder = Path(pytest.importorskip(host).__file__).parent / ".mim/configs"
    import_datasets(host)
    paths = [path for path in sorted(folder.rglob("*.py")) if "_base_" not in str(path)]
    together = [list(group) for _, group in groupby(paths, key=lambda path: path.parent)]
    ends = {group[i] for group in together for i in (0, len(group) // 2, -1)}
    wrong, read = {}, 0
    for path in sorted(ends.union(paths[::10])):
        try:
            cfg = Config.fromfile(str(path), import_custom_modules=False)
        except Exception:  # a base that the host does not ship
            continue
        read += 1
        if path in paths[::10]:
            lines = [line for line in find_faults(cfg) if not any(known in line for known in HOSTS_OWN)]
        else:
            lines = [*check_classes(cfg), *check_values(cfg)]
        wrong.update({path.name: lines} if lines else {})
    assert not wrong and read > 0.9 * len(ends)
