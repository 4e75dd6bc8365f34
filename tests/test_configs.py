"""Every shipped config: named in the index, headed as promised, built, run forward and backward at reduced size."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmsema  # noqa: F401, so that configs find mmseg::

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from make_model_zoo import load_models, render  # noqa: E402

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
BLOCKS = 2, 1, 1, 1  # enough to have a block that is not the first of its stage


def load(path: Path) -> Config:
    if "mmseg::" in path.read_text():
        pytest.importorskip("mmseg")
    cfg = Config.fromfile(str(path))
    init_default_scope(cfg.default_scope)
    return cfg


def test_index_names_every_config_once_in_lower_case():
    models = load_models()
    names = [model["Name"] for model in models]
    assert sorted(names) == sorted(path.stem for path in CONFIGS)
    for model in models:
        assert model["Name"] == model["Name"].lower() and "." not in model["Name"]
        assert model["Config"] == f"configs/{model['Name']}.py"


def test_basenames_are_unique():
    """mim finds configs by their bare names, among everything that the package carries."""
    names = [path.name for folder in ("configs", "tools") for path in (ROOT / folder).rglob("*.py")]
    assert len(names) == len(set(names))


def test_tables_are_up_to_date():
    for path, text in render().items():
        assert path.read_text() == text, f"{path.name} is out of date, run: python docs/make_model_zoo.py"


@pytest.mark.parametrize("path", [p for p in CONFIGS if "pico" not in p.stem], ids=lambda p: p.stem)
def test_header_says_results_cost_and_command(path):
    title, results, command = path.read_text().splitlines()[:3]
    assert all(line.startswith("# ") and len(line) > 20 for line in (title, results, command))
    for words in ("Paper's row: ", "Our row: ", "GPU memory and hours: "):
        assert words in results
    assert f"configs/{path.name}" in command and command.startswith(("# python tools/", "# tools/"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_parameters_are_those_of_the_index(path):
    with torch.device("meta"):
        model = MODELS.build(load(path).model)
    (entry,) = (model for model in load_models() if model["Name"] == path.stem)
    assert entry["Metadata"]["Parameters"] == sum(p.numel() for p in model.parameters())


def reduced(cfg: Config) -> Config:
    """The same model with few blocks, small dense layers and few regions."""
    from mmsema.models.sema import ARCHITECTURES

    backbone = cfg.model.backbone
    if isinstance(backbone.get("arch"), str):  # not a ResNet, and not one stage
        backbone.arch = dict(ARCHITECTURES[backbone.arch], depths=BLOCKS)
    if "decode_head" in cfg.model:
        cfg.model.decode_head.channels = cfg.model.auxiliary_head.channels = 32
    if "roi_head" in cfg.model:
        heads = cfg.model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.fc_out_channels = 32
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_forward_and_backward(path):
    from test_hosts import batch

    cfg = reduced(load(path))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    if cfg.default_scope == "mmseg":
        from test_mmseg import batch as labelled_pictures

        data = model.data_preprocessor(labelled_pictures(96, 64), True)
    elif cfg.default_scope == "mmdet":
        classes = cfg.train_dataloader.dataset.get("metainfo", {}).get("classes", range(3))
        data = model.data_preprocessor(batch(num_classes=min(len(classes), 3), sizes=((96, 96), (96, 64))), True)
    else:
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(label) for label in (0, 1)]
        data = dict(inputs=torch.randint(0, 256, (2, 3, 64, 64)), data_samples=samples)
        data = MODELS.build(dict(cfg.data_preprocessor, type="ClsDataPreprocessor"))(data, True)
    amp = cfg.optim_wrapper.get("dtype", "float32")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp == "bfloat16"):
        loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert loss.isfinite()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
