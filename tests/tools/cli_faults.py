"""Wrong commands, each with what the one line on it must say; tests/tools/test_cli.py gives them all.

``FAULTS`` is a list of (name, tool, arguments, words of the line). In the arguments ``{digits}`` and ``{shapes}`` are
configs whose data is there, ``{tmp}`` is an empty folder, and files named in it are made by :func:`plant`.
"""

from pathlib import Path
from typing import List, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parents[2]


class Fault(NamedTuple):
    name: str
    tool: str
    arguments: str
    words: Tuple[str, ...]
    cpu_only: bool = False  # the fault is that there is no CUDA device


FAULTS: List[Fault] = [
    Fault(
        "config that is not there",
        "train",
        "{root}/configs/sema-pico_digit.py",
        ("is not a file", "sema-pico_digits.py?"),
    ),
    Fault("config that is a folder", "train", "{root}/configs", ("is a folder", ".py")),
    Fault("config that is a text file", "train", "{tmp}/notes.txt", ("must be a .py file", "notes.txt")),
    Fault("config that is no Python", "test", "{tmp}/broken.py {tmp}/a.pth", ("broken.py:2",)),
    Fault(
        "option without a value", "train", "{digits} --cfg-options train_cfg.max_epochs", ("KEY=VALUE", "max_epochs")
    ),
    Fault("option for no setting", "train", "{digits} --cfg-options modle.backbone.depth=5", ("modle", "model?")),
    Fault(
        "option for no setting, then another",
        "train",
        "{digits} --cfg-options modle.backbone.depth=5 --resume --cfg-options train_cfg.max_epochs=1",
        ("modle", "model?"),
    ),
    Fault(
        "option for no setting, then another, of the check",
        "check_config",
        "{digits} --cfg-options modle.backbone.depth=5 --cfg-options train_cfg.max_epochs=1",
        ("modle", "model?"),
    ),
    Fault(
        "option of the wrong kind",
        "train",
        "{digits} --cfg-options train_dataloader.batch_size=many",
        ("batch_size", "'many'"),
    ),
    Fault(
        "checkpoint that is not there",
        "test",
        "{digits} {tmp}/nowhere.pth",
        ("checkpoint", "nowhere.pth is not a file"),
    ),
    Fault("checkpoint that is none", "test", "{digits} {tmp}/page.pth --work-dir {tmp}/out", ("page.pth",)),
    Fault(
        "resume from a file that is not there",
        "train",
        "{digits} --work-dir {tmp}/new --resume {tmp}/nowhere.pth",
        ("nowhere.pth",),
    ),
    Fault(
        "resume from weights alone",
        "train",
        "{digits} --work-dir {tmp}/new --resume {tmp}/weights.pth",
        ("weights.pth",),
    ),
    Fault("resume with nothing", "train", "{digits} --work-dir {tmp}/new --resume", ("resume",)),
    Fault("work folder that is a file", "train", "{digits} --work-dir {tmp}/notes.txt", ("notes.txt is a file",)),
    Fault(
        "work folder of another run",
        "train",
        "{digits} --work-dir {tmp}/used",
        ("epoch_3.pth", "--resume", "--work-dir"),
    ),
    Fault("work folder below a file", "train", "{digits} --work-dir {tmp}/notes.txt/run", ("notes.txt is a file",)),
    Fault("data that is not there", "train", "{shapes} --work-dir {tmp}/new", ("is missing", "make_shapes.py")),
    Fault("test data that is not there", "test", "{shapes} {tmp}/page.pth", ("is missing", "instances_val.json")),
    Fault(
        "launcher without its processes",
        "train",
        "{digits} --launcher pytorch",
        ("--launcher pytorch", "dist_train.sh"),
    ),
    Fault("amp without a GPU", "train", "{digits} --work-dir {tmp}/new --amp", ("--amp", "CUDA"), True),
    Fault("predictions to no pickle", "test", "{digits} {tmp}/page.pth --out {tmp}/out.txt", ("--out", ".pkl")),
    Fault("predictions to a folder", "test", "{digits} {tmp}/page.pth --out {tmp}/used.pkl", ("used.pkl is a folder",)),
    Fault("name of no config", "mmsema", "sema-t_8xb128_in2k {tmp}/a.pth {tmp}/a.jpg", ("sema-t_8xb128_in1k",)),
    Fault("picture that is not there", "mmsema", "sema-pico_digits {tmp}/page.pth {tmp}/nowhere.jpg", ("nowhere.jpg",)),
    Fault(
        "device that is not there",
        "mmsema",
        "sema-pico_digits {tmp}/page.pth {tmp}/a.jpg --device cuda",
        ("cuda", "no CUDA device"),
        True,
    ),
    Fault(
        "device that is none", "mmsema", "sema-pico_digits {tmp}/page.pth {tmp}/a.jpg --device gpu", ("'gpu'", "cuda")
    ),
    Fault("device of no numbers", "mmsema", "sema-pico_digits {tmp}/page.pth {tmp}/a.jpg --device meta", ("'meta'",)),
    Fault(
        "pictures to no folder",
        "mmsema",
        "sema-pico_digits {tmp}/page.pth {tmp}/a.jpg --out-dir {tmp}/notes.txt/out",
        ("out_dir", "notes.txt is a file, not a folder"),
    ),
    Fault(
        "graph to no folder",
        "export",
        "{digits} --format torchscript --out {tmp}/notes.txt/a.pt",
        ("notes.txt is a file, not a folder",),
    ),
    Fault(
        "training pictures to no folder",
        "browse_dataset",
        "{digits} --out-dir {tmp}/notes.txt",
        ("notes.txt is a file, not a folder",),
    ),
    *(
        Fault(f"{tool} to no folder", tool, f"{arguments} --out-dir {{tmp}}/notes.txt", ("notes.txt is a file, not a",))
        for tool, arguments in (("dispersion", "--quick"), ("mixer_cost", "--quick"), ("evidence", "nuclei --report"))
    ),
    Fault(
        "weights to no folder",
        "publish_model",
        "{tmp}/weights.pth {tmp}/notes.txt/a.pth",
        ("notes.txt/a-", "cannot be written"),
    ),
    Fault("config to count that is not there", "get_flops", "{tmp}/nowhere.py", ("nowhere.py is not a file",)),
    Fault(
        "config to check with a fault",
        "check_config",
        "{digits} --cfg-options model.head.in_channels=5",
        ("must be 256",),
    ),
    Fault(
        "checkpoint to publish that is not there", "publish_model", "{tmp}/nowhere.pth {tmp}/out.pth", ("nowhere.pth",)
    ),
]


def plant(folder: Path) -> None:
    """Make the files that the arguments name."""
    import torch

    (folder / "notes.txt").write_text("model = dict()\n")
    (folder / "broken.py").write_text("model = dict(\n)]\n")
    (folder / "page.pth").write_text("<html>not found</html>\n")
    (folder / "a.jpg").write_bytes(b"")
    torch.save(dict(state_dict={"a": torch.zeros(1)}), folder / "weights.pth")
    (folder / "used").mkdir()
    (folder / "used.pkl").mkdir()
    (folder / "used/epoch_3.pth").write_bytes(b"")


def command(fault: Fault, folder: Path) -> List[str]:
    """The arguments of a fault, for a folder that :func:`plant` has filled."""
    names = dict(
        root=ROOT,
        tmp=folder,
        digits=ROOT / "configs/sema-pico_digits.py",
        shapes=ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py",
    )
    return [part.format(**names) for part in fault.arguments.split()]
