"""From nothing to masks on pictures: make the shapes data set, train a SEMA Mask R-CNN on it, evaluate, draw."""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/mask-rcnn_sema-pico_fpn_shapes.py"
ANNOTATIONS = Path("data/shapes/annotations")
WORK_DIR = Path("work_dirs/demo")
LOG = WORK_DIR / "demo.log"
PICTURES = 9
PROCESSES = min(2, len(os.sched_getaffinity(0)))  # one a core: two share the work better than two threads of one do
WARNING = re.compile(r"\bWARNING\b|Warning: ")  # as logging and the warnings module write it

console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)


def show_end_of_log(lines: int = 15) -> None:
    text = LOG.read_text(errors="replace")
    # a failed process is followed by a report of the launcher, which says nothing about the cause
    text = re.split(r"^\S* ?\S* \d+ torch/distributed/elastic/", text, maxsplit=1, flags=re.MULTILINE)[0]
    for line in text.rstrip().splitlines()[-lines:]:
        console.print("  " + line, markup=False, style="dim", soft_wrap=True)


def run(*command: str, watch: Callable[[], None]) -> None:
    """Run a Python command with its output in the log, and call ``watch`` every second."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
    with LOG.open("ab") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                watch()
                time.sleep(1)
        finally:
            process.terminate()  # where this process is interrupted
            process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


@contextlib.contextmanager
def step(name: str, what: str) -> Iterator[None]:
    """One line when a step is done: what it was and how long it took."""
    started = time.time()
    yield
    console.print(f"{name:9} {what:66} {time.time() - started:4.0f} s", soft_wrap=True)


@contextlib.contextmanager
def log_output() -> Iterator[None]:
    with LOG.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def train(epochs: int, resume: bool) -> None:
    """Train in processes of their own; the bar reads what mmengine's logger writes for every 25th iteration."""
    config = read_config()
    pictures = len(json.loads((ANNOTATIONS / "instances_train.json").read_text())["images"])
    batch = config.train_dataloader.batch_size * PROCESSES
    before = set(WORK_DIR.glob("*/vis_data/scalars.json"))
    columns = ("[progress.description]{task.description}", BarColumn(30), "{task.percentage:3.0f} %")
    bar = Progress(
        *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console, transient=True
    )
    validated = 0

    def watch() -> None:
        nonlocal validated
        files = set(WORK_DIR.glob("*/vis_data/scalars.json")) - before
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        losses = [line for line in lines if "loss" in line]
        if losses:
            newest = losses[-1]
            description = f"epoch {newest['epoch']} of {epochs}, loss {newest['loss']:.2f}"
            bar.update(task, completed=newest["step"], description=description)
        results = [line for line in lines if "coco/bbox_mAP" in line]
        for line in results[validated:]:
            loss = [other["loss"] for other in losses if other["epoch"] == line["step"]][-1]
            console.print(
                f"            epoch {line['step']} of {epochs}: loss {loss:.2f}, "
                f"box AP {line['coco/bbox_mAP']:.3f}, mask AP {line['coco/segm_mAP']:.3f}"
            )
        validated = len(results)

    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}", "tools/train.py")
    options = ["--resume"] if resume else []
    fused = ["--cfg-options", "optim_wrapper.optimizer.fused=True"]  # on the CPU since torch 2.4
    with bar:
        task = bar.add_task("starting", total=epochs * -(-pictures // batch))
        run(*launch, CONFIG, "--launcher", "pytorch", "--work-dir", str(WORK_DIR), *options, *fused, watch=watch)
        watch()
    warnings = dict.fromkeys(line for line in LOG.read_text(errors="replace").splitlines() if WARNING.search(line))
    for line in list(warnings)[:5]:
        console.print(line, markup=False, style="yellow")


def read_config():
    from mmengine.config import Config

    return Config.fromfile(CONFIG)


def predict(checkpoint: Path, count: int):
    """Pictures of the validation set, their truth, the predictions, and the classes, as draw_detections takes them."""
    from mmsema.engine.quiet import ignore_known_warnings, import_datasets

    ignore_known_warnings()
    import_datasets("mmdet")

    import cv2
    import numpy as np
    from mmdet.apis import inference_detector, init_detector
    from mmengine.structures import InstanceData
    from pycocotools.coco import COCO

    model = init_detector(CONFIG, str(checkpoint), device="cpu")
    classes = model.dataset_meta["classes"]
    coco = COCO("data/shapes/annotations/instances_val.json")
    infos = coco.loadImgs(coco.getImgIds()[:count])
    paths = [str(Path("data/shapes/val", info["file_name"])) for info in infos]
    images = [cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB) for path in paths]
    truths = []
    for info in infos:
        annotations = coco.loadAnns(coco.getAnnIds(info["id"]))
        names = [("crowd of " if a["iscrowd"] else "") + classes[a["category_id"] - 1] for a in annotations]
        labels = np.array([a["category_id"] - 1 for a in annotations])
        masks = np.stack([coco.annToMask(a) for a in annotations])
        truths.append(InstanceData(labels=labels, masks=masks, label_names=names))
    predictions = []
    for path in paths:
        found = inference_detector(model, path).pred_instances
        predictions.append(found[found.scores > 0.5].cpu().numpy())
    return images, truths, predictions, classes


def print_table(metrics: dict) -> None:
    columns = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75", "AP small": "mAP_s", "AP medium": "mAP_m"}
    table = Table("", *columns, title="Validation set, 200 pictures never trained on (COCO metrics by pycocotools)")
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        table.add_row(name, *(f"{metrics[f'coco/{kind}_{key}']:.3f}" for key in columns.values()))
    console.print(table)


def make_shapes() -> None:
    if not (ANNOTATIONS / "instances_val.json").exists():
        with step("shapes", "1,600 pictures to train on and 200 to validate on, in data/shapes"):
            if code := subprocess.call([sys.executable, "tools/make_shapes.py", "data/shapes"]):
                sys.exit(code)


def demo() -> None:
    started = time.time()
    make_shapes()

    from mmengine.runner import find_latest_checkpoint

    epochs = read_config().train_cfg.max_epochs
    last = WORK_DIR / f"epoch_{epochs}.pth"
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    with log_output():
        resume = find_latest_checkpoint(str(WORK_DIR)) is not None
    if last.exists():
        console.print(f"training  is finished already; to train again, remove {WORK_DIR}")
    else:
        if not resume:
            LOG.write_text("")
        console.print(f"training  Mask R-CNN with a SEMA-pico backbone, {PROCESSES} processes; the whole log: {LOG}")
        with step("training", f"{epochs} epochs" + (", after those of the interrupted run" if resume else "")):
            train(epochs, resume)
    with step("drawing", "predictions and curves"), log_output():
        from mmsema.analysis.pictures import draw_curves, draw_detections, read_scalars

        scalars = read_scalars(WORK_DIR)
        draw_curves(scalars, WORK_DIR / "curves.png")
        draw_detections(*predict(last, PICTURES), WORK_DIR / "predictions.png")
    print_table([line for line in scalars if "coco/bbox_mAP" in line][-1])
    print(f"Finished in {(time.time() - started) / 60:.1f} minutes.")
    print(f"  pictures     {WORK_DIR / 'predictions.png'}")
    print(f"  curves       {WORK_DIR / 'curves.png'}")
    print(f"  checkpoint   {last}")
    print("Next:")
    print("  .venv/bin/python tools/train.py configs/sema-pico_digits.py   real handwritten digits, two minutes")
    print("  .venv/bin/python tools/train.py configs/mask-rcnn_sema-t_fpn_1x_coco.py   needs COCO")
    print("  backbone=dict(type='mmsema.SEMA', arch='tiny')   in a config of your own, see README.md")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if Path.cwd() != ROOT:
        sys.exit(f"error: run this from {ROOT}")
    try:
        demo()
    except subprocess.CalledProcessError as error:
        show_end_of_log()
        sys.exit(f"error: training failed with exit code {error.returncode}; the lines above end its log, {LOG}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the command again to go on from the last finished epoch")


if __name__ == "__main__":
    main()
