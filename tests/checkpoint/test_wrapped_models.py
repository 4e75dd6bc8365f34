"""Weights from and for models inside wrappers, on the meta device, and read by several threads at once."""

import threading

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from mmsema import SEMA
from mmsema.checkpoint import CheckpointError, load_weights, read_checkpoint


def backbone(width: int = 8) -> SEMA:
    return SEMA(dict(embed_dims=width, depths=(1, 1), num_heads=(1, 2)), out_indices=(0, 1))


def build(seed: int = 0) -> nn.Module:
    """A model with a backbone, and what is not one."""
    torch.manual_seed(seed)
    return nn.ModuleDict(dict(backbone=backbone(), head=nn.Linear(16, 3)))


def compile_part(model: nn.Module) -> nn.Module:
    model["backbone"] = torch.compile(model["backbone"])
    return model


def wrap_block(model: nn.Module) -> nn.Module:
    model["backbone"].stages[0][0] = checkpoint_wrapper(model["backbone"].stages[0][0])
    return model


WRAPPERS = dict(
    none=lambda model: model,
    compiled=torch.compile,
    parallel=nn.DataParallel,
    both=lambda model: torch.compile(nn.DataParallel(model)),
    compiled_part=compile_part,
    wrapped_block=wrap_block,
)


@pytest.mark.parametrize("target", WRAPPERS)
@pytest.mark.parametrize("source", WRAPPERS)
def test_wrappers_do_not_matter(source, target):
    saved, model = WRAPPERS[source](build(0)), WRAPPERS[target](build(1))
    report = load_weights(model, saved.state_dict(), min_matched=1.0)
    assert not report.missing and not report.ignored
    for a, b in zip(saved.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_wrapped_backbone_is_described():
    other = nn.ModuleDict(dict(backbone=backbone(16), head=nn.Linear(16, 3)))
    with pytest.raises(CheckpointError, match="embed_dims=16, .* the model is SEMA or MILA with embed_dims=8"):
        load_weights(compile_part(build()), compile_part(other).state_dict())


@pytest.mark.parametrize("load", ["load_state_dict", "mmengine", "assign"])
def test_a_model_from_the_meta_device_gives_the_same_maps(load):
    torch.manual_seed(0)
    expected, x = backbone().eval(), torch.randn(1, 3, 40, 40)
    for parameter in expected.parameters():
        nn.init.normal_(parameter, std=0.3)  # attention that is not uniform
    with torch.device("meta"):
        model = backbone().eval()
    if load == "assign":
        model.load_state_dict(expected.state_dict(), assign=True)
    else:
        model = model.to_empty(device="cpu")
        for name, buffer in model.named_buffers():
            if name.endswith("rope"):
                buffer.fill_(torch.nan)  # what memory may hold
        if load == "mmengine":
            load_state_dict(model, expected.state_dict(), strict=True)
        else:
            model.load_state_dict(expected.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model(x), expected(x), strict=True))


def test_fsdp_can_fill_what_it_made_room_for():
    with torch.device("meta"):
        mixer = backbone().stages[0][0].mixer
    mixer = mixer.to_empty(device="cpu")
    mixer.rope.fill_(torch.nan)
    mixer.reset_parameters()
    assert torch.equal(mixer.rope, backbone().stages[0][0].mixer.rope)


def test_a_model_without_memory_is_named():
    with torch.device("meta"):
        model = backbone()
    with pytest.raises(CheckpointError, match=r"meta device, .* call model.to_empty\(device=...\) before checkpoint"):
        load_weights(model, backbone().state_dict())


def test_threads_do_not_take_the_list_of_what_is_allowed_from_one_another(tmp_path, monkeypatch):
    file = tmp_path / "a.pth"
    torch.save(dict(state_dict=dict(weight=torch.ones(1)), loss=HistoryBuffer([1.0], [1])), file)
    load, threads, read = torch.load, [], []

    def load_while_another_reads(*arguments, **options):
        if not threads:
            threads.append(threading.Thread(target=lambda: read.append(read_checkpoint(file))))
            threads[0].start()
            threads[0].join(0.5)  # it ends, or waits for this one
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", load_while_another_reads)
    read.append(read_checkpoint(file))
    threads[0].join()
    assert [list(checkpoint) for checkpoint in read] == [["state_dict", "loss"]] * 2
