"""Reading, loading, converting and publishing weights; every way a checkpoint can be wrong."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from mila import Classifier
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmsema import MILA, SEMA
from mmsema.checkpoint import CheckpointError, convert_mila, load_weights, publish_model, read_checkpoint
from mmsema.checkpoint import read as reading

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))


def build(seed: int = 0, backbone=SEMA, **options) -> SEMA:
    torch.manual_seed(seed)
    model = backbone(**{"arch": SMALL, **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def unchanged():
    """A model that the test must leave as it was."""
    model = build(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield model
    assert same(before, model.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "_orig_mod.module."])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_all_the_usual_forms_load(prefix, key, tmp_path):
    source, target = build(0), build(1)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    if "backbone." in prefix:
        state["head.fc.weight"] = torch.zeros(10, 64)
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "weights.pth")
    report = load_weights(target, tmp_path / "weights.pth")
    assert same(source.state_dict(), target.state_dict())
    assert len(report.loaded) == len(source.state_dict()) and not report.missing
    assert report.ignored == (["head.fc.weight"] if "backbone." in prefix else [])


def test_report_says_how_many_what_and_why(tmp_path):
    classifier, detector = build(0, out_indices=(3,)), build(1)
    state = {"backbone." + name: tensor for name, tensor in classifier.state_dict().items()}
    state |= {"head.fc.weight": torch.zeros(10, 64), "head.fc.bias": torch.zeros(10)}
    total = len(detector.state_dict())
    report = str(load_weights(detector, {"state_dict": state}))
    assert report.startswith(f"loaded {total - 6} of {total} tensors from checkpoint")
    assert "not in the checkpoint, left as they were: norm0 (2), norm1 (2), norm2 (2)" in report
    assert "ignored because the model has none: head (2)" in report


def refused(model, source, *words) -> None:
    with pytest.raises(CheckpointError) as error:
        load_weights(model, source)
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    for word in words:
        assert word in text


def test_other_architectures_are_named(unchanged):
    with torch.device("meta"):
        tiny, small = SEMA("tiny"), SEMA("small")
    as_files = {
        name: {k: torch.zeros(v.shape) for k, v in m.state_dict().items()} for name, m in (("t", tiny), ("s", small))
    }
    refused(unchanged, as_files["t"], "looks like SEMA or MILA 'tiny'", "embed_dims=8, depths=(1, 1, 2, 1)")
    for model, file, words in ((small, "t", ("'tiny'", "'small'")), (tiny, "s", ("'small'", "'tiny'"))):
        refused(model, as_files[file], *words)  # all of tiny's tensors fit into small


@pytest.mark.parametrize(
    "names, words",
    [
        (["layers.0.blocks.0.attn.qk.weight"], ["MILA", "tools/model_converters/convert_mila.py"]),
        (["stages.0.blocks.0.attn.w_msa.relative_position_bias_table"], ["a Swin Transformer"]),
        (["layer1.0.conv1.weight", "fc.weight"], ["a ResNet"]),
        (["encoder.a", "encoder.b"], ["0 of the model's", "something else", "encoder.a, encoder.b"]),
    ],
)
def test_foreign_keys_are_named(unchanged, names, words):
    refused(unchanged, {"state_dict": {name: torch.zeros(2) for name in names}}, *words)


def test_little_is_not_enough(unchanged):
    state = build(0).state_dict()
    some = dict(list(state.items())[: len(state) // 3])
    refused(unchanged, some, f"{len(some)} of the model's {len(state)} tensors, at least 50%")


def test_other_shapes_and_broken_numbers_are_refused(unchanged):
    state = build(0).state_dict()
    refused(unchanged, {**state, "norm3.weight": torch.zeros(3)}, "norm3.weight: (3,)", "(64,)", "--drop norm3")
    refused(
        unchanged,
        {**state, "norm3.weight": torch.full((64,), float("nan"))},
        "NaN or infinity in 1 tensors",
        "norm3.weight",
    )
    refused(unchanged, {"epoch": 3, "optimizer": {}}, "holds no tensors", "epoch, optimizer")


def broken_file(kind: str, path: Path) -> None:
    torch.save(build(0).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": content[: len(content) // 2],
            "almost whole": content[:-100],
            "HTML": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
            "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "text": b"not weights at all",
            "safetensors": (96).to_bytes(8, "little") + b'{"a":{}}',
        }[kind]
    )


@pytest.mark.parametrize(
    "kind, words",
    [
        ("empty", "it is empty"),
        ("truncated", "truncated"),
        ("almost whole", "truncated"),
        ("HTML", "an HTML page"),
        ("git-lfs", "a git-lfs pointer"),
        ("text", "does not look like a PyTorch checkpoint"),
        ("safetensors", "a safetensors file"),
    ],
)
def test_broken_files_say_what_they_look_like(unchanged, kind, words, tmp_path):
    path = tmp_path / "weights.pth"
    broken_file(kind, path)
    refused(unchanged, path, str(path), f"({path.stat().st_size} bytes)", words)


def test_missing_file_and_foreign_objects(unchanged, tmp_path):
    refused(unchanged, tmp_path / "nowhere.pth", "is not a file")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(unchanged, tmp_path / "list.pth", "holds a list")


class Hostile:
    def __init__(self, *call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("old_torch", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(unchanged, zipped, old_torch, tmp_path, monkeypatch):
    if old_torch:
        monkeypatch.setattr(reading, "_TORCH_TAKES_ALLOWED", False)
    canary, path = tmp_path / "canary", tmp_path / "hostile.pth"
    hostile = dict(state_dict=build(0).state_dict(), meta=dict(deep=[Hostile(os.mkdir, str(canary))]))
    torch.save(hostile, path, _use_new_zipfile_serialization=zipped)
    refused(unchanged, path, "mkdir", "could run code")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Hostile(os.mkdir, str(canary))))  # what an unsafe load would have done
    assert canary.exists()

    stepping_stone = Hostile(getattr, HistoryBuffer, "__init__")  # from whose __globals__ everything can be reached
    torch.save(dict(state_dict=stepping_stone), path, _use_new_zipfile_serialization=zipped)
    refused(unchanged, path, "getattr", "could run code")


@pytest.mark.parametrize("old_torch", [False, True])
def test_training_checkpoints_are_read(old_torch, tmp_path, monkeypatch):
    """With the scalars that mmengine logs, also where torch has no allow-list of the caller's."""
    if old_torch:
        monkeypatch.setattr(reading, "_TORCH_TAKES_ALLOWED", False)
    buffer = HistoryBuffer()
    buffer.update(1.5)
    torch.save(
        dict(state_dict=build(0).state_dict(), message_hub=dict(log_scalars=dict(loss=buffer))),
        tmp_path / "epoch_1.pth",
    )
    read = read_checkpoint(tmp_path / "epoch_1.pth")
    assert read["message_hub"]["log_scalars"]["loss"].current() == 1.5
    assert same(read["state_dict"], build(0).state_dict())


@pytest.mark.parametrize("old_torch", [False, True])
def test_arrays_and_numbers_of_every_plain_dtype_are_read(old_torch, tmp_path, monkeypatch):
    """A data set's metainfo, which training checkpoints hold, may have any: a palette is uint8."""
    if old_torch:
        monkeypatch.setattr(reading, "_TORCH_TAKES_ALLOWED", False)
    integers = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    dtypes = ["bool", *integers, "longlong", "float16", "float32", "float64", "<U3", "S3"]
    arrays = {name: np.ones(3).astype(name) for name in dtypes}
    torch.save(dict(meta=dict(arrays=arrays, numbers={k: v[0] for k, v in arrays.items()})), tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")["meta"]
    for name, array in arrays.items():
        assert read["arrays"][name].dtype == array.dtype and (read["arrays"][name] == array).all()
        assert read["numbers"][name] == array[0]


def test_objects_in_arrays_are_refused(tmp_path, unchanged):
    torch.save(dict(meta=np.array([Path("a")], dtype=object)), tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "a.pth")
    assert "truncated" not in str(error.value) and "\n" not in str(error.value)


def test_init_cfg_pretrained_is_loud(tmp_path):
    init_default_scope("mmdet")
    source = build(0)
    torch.save(dict(state_dict={"backbone." + k: v for k, v in source.state_dict().items()}), tmp_path / "good.pth")
    torch.save(dict(state_dict={"a": torch.zeros(1)}), tmp_path / "bad.pth")
    config = dict(type="mmsema.SEMA", arch=SMALL)
    good = dict(type="Pretrained", checkpoint=str(tmp_path / "good.pth"))
    for init_cfg in (
        good,
        dict(good, prefix="backbone."),
        dict(good, prefix="backbone"),
        [good, dict(type="TruncNormal", layer="Linear", std=0.02)],  # weights come last, as in mmengine
    ):
        model = MODELS.build(dict(config, init_cfg=init_cfg))
        model.init_weights()
        assert same(model.state_dict(), source.state_dict())
    model = MODELS.build(dict(config, init_cfg=[dict(type="Pretrained", checkpoint=str(tmp_path / "bad.pth"))]))
    with pytest.raises(CheckpointError, match="0 of the model's"):
        model.init_weights()
    model = MODELS.build(
        dict(config, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "good.pth"), prefix="neck."))
    )
    with pytest.raises(CheckpointError, match="no tensor whose name starts with 'neck.'"):
        model.init_weights()


@pytest.fixture(scope="module")
def mila() -> Classifier:
    torch.manual_seed(0)
    model = Classifier(width=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), image_side=64, classes=10)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def test_converted_mila_gives_milas_outputs(mila):
    model = MILA(SMALL, out_indices=(3,))
    report = load_weights(model, convert_mila({"model": mila.state_dict()}), min_matched=1.0)
    assert not report.ignored
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        (ours,), theirs = model.double().eval()(x), mila(x)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # our RoPE table is kept in float32


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_converted_mila_warms_sema_up(mila, prefix):
    state = {prefix + name: tensor.float() for name, tensor in mila.state_dict().items()}
    if prefix == "backbone.":
        state = {
            name.replace("backbone.norm.", "backbone.norm3."): t for name, t in state.items() if "head" not in name
        }
        state["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    model = SEMA(SMALL, out_indices=(3,))
    assert not load_weights(model, convert_mila({"state_dict": state}), min_matched=1.0).missing


def test_what_is_not_milas_is_refused(mila):
    with pytest.raises(CheckpointError, match="not MILA's: it looks like SEMA or MILA with embed_dims=8"):
        convert_mila(build(0).state_dict())
    with pytest.raises(CheckpointError, match="no name is known for 1 of its tensors, first absolute_pos_embed"):
        convert_mila({**mila.state_dict(), "absolute_pos_embed": torch.zeros(1, 9, 8)})


def run(*command, code: int = 0) -> subprocess.CompletedProcess:
    return commands.run(sys.executable, *command, code=code)


@pytest.mark.slow
def test_convert_mila_command(mila, tmp_path):
    torch.save({"model": mila.state_dict()}, tmp_path / "mila.pth")
    done = run(ROOT / "tools/model_converters/convert_mila.py", tmp_path / "mila.pth", tmp_path / "sema.pth")
    assert f"{len(SEMA(SMALL, out_indices=(3,)).state_dict())} tensors of the backbone; 7 left out" in done.stdout
    assert same(torch.load(tmp_path / "sema.pth", weights_only=True)["state_dict"], convert_mila(mila.state_dict()))
    done = run(ROOT / "tools/model_converters/convert_mila.py", tmp_path / "sema.pth", tmp_path / "twice.pth", code=2)
    assert "is not MILA's" in done.stderr and "Traceback" not in done.stderr


def test_published_files_are_named_by_their_hash_and_checked(tmp_path):
    buffer = HistoryBuffer()
    buffer.update(1.5)
    state = {f"backbone.{name}": tensor for name, tensor in build(0).state_dict().items()}
    meta = dict(epoch=12, cfg="secret path", dataset_meta=dict(classes=("cat", "dog"), palette=[(1, 2, 3)]))
    trained = dict(
        state_dict=dict(state, **{"head.fc.weight": torch.zeros(2)}), optimizer={}, message_hub=buffer, meta=meta
    )
    torch.save(trained, tmp_path / "epoch_12.pth")
    done = run(
        ROOT / "tools/model_converters/publish_model.py",
        tmp_path / "epoch_12.pth",
        tmp_path / "sema.pth",
        "--drop",
        "head",
    )
    path = Path(done.stdout.strip())
    assert path == publish_model(
        tmp_path / "epoch_12.pth", tmp_path / "sema.pth", drop=["head"]
    )  # the same bytes again
    published = torch.load(path, weights_only=True)
    assert same(published["state_dict"], state)
    assert published["meta"]["dataset_meta"] == meta["dataset_meta"] and "cfg" not in published["meta"]
    assert not load_weights(build(1), path).missing

    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(build(1), path, "is damaged", "SHA-256")
    shutil.copy(tmp_path / "epoch_12.pth", tmp_path / "run-20261121.pth")  # a date is no hash
    read_checkpoint(tmp_path / "run-20261121.pth")
    shutil.copy(tmp_path / "epoch_12.pth", tmp_path / "run-0badc0de.pth")  # of others, whatever it may mean
    with pytest.warns(UserWarning, match="its name says SHA-256 0badc0de..., its content has"):
        read_checkpoint(tmp_path / "run-0badc0de.pth")
    with pytest.raises(CheckpointError, match="no tensor whose name starts with 'neck'; it has backbone.stem"):
        publish_model(tmp_path / "epoch_12.pth", tmp_path / "sema.pth", drop=["neck"])


def classifier_config(tmp_path: Path) -> Path:
    """The digits classifier, smaller; data and all."""
    path = tmp_path / "small.py"
    base, arch = str(ROOT / "configs/sema-pico_digits.py"), dict(SMALL, _delete_=True)
    path.write_text(f"_base_ = {base!r}\nmodel = dict(backbone=dict(arch={arch!r}), head=dict(in_channels=64))\n")
    return path


@pytest.mark.slow
def test_tools_refuse_what_does_not_fit_and_read_the_rest_safely(tmp_path):
    """tools/test.py needs every tensor; a classifier's bare backbone is enough to start training, not to evaluate."""
    config, state = classifier_config(tmp_path), build(0, out_indices=(3,)).state_dict()
    torch.save(state, tmp_path / "backbone.pth")
    total = len(state) + 2
    done = run(ROOT / "tools/test.py", config, tmp_path / "backbone.pth", "--work-dir", tmp_path, code=2)
    assert f"error: checkpoint has {total - 2} of the model's {total} tensors, at least 100% are needed" in done.stderr
    assert "Traceback" not in done.stderr
    options = [f"load_from={tmp_path / 'backbone.pth'}", "train_cfg.max_epochs=1", "optim_wrapper.optimizer.lr=0.0"]
    options += ["train_dataloader.batch_size=480", "default_hooks.checkpoint.interval=1"]
    command = [ROOT / "tools/train.py", config, "--work-dir", tmp_path / "train", "--cfg-options", *options]
    done = run(*command)
    assert f"loaded {total - 2} of {total} tensors" in done.stdout + done.stderr
    trained = read_checkpoint(tmp_path / "train/epoch_1.pth")["state_dict"]
    name = "stages.2.1.mixer.qk_proj.weight"
    assert torch.equal(trained["backbone." + name], state[name])
