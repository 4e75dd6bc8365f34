"""From nothing to masks on pictures: make the shapes data set, train a SEMA Mask R-CNN on it, evaluate, draw."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/mask-rcnn_sema-pico_fpn_shapes.py"
WORK_DIR = Path("work_dirs/demo")
PICTURES = 9
PROCESSES = min(2, len(os.sched_getaffinity(0)))  # one a core: two share the work better than two threads of one do


def run(*command: str) -> None:
    print("$ python " + " ".join(command), flush=True)
    code = subprocess.call([sys.executable, *command])
    if code:
        sys.exit(code)


def predict(checkpoint: Path, count: int):
    """Pictures of the validation set, their truth, the predictions, and the classes, as draw_detections takes them."""
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
    from rich.console import Console
    from rich.table import Table

    columns = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75", "AP small": "mAP_s", "AP medium": "mAP_m"}
    table = Table("", *columns, title="Validation set, 200 pictures never trained on (COCO metrics by pycocotools)")
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        table.add_row(name, *(f"{metrics[f'coco/{kind}_{key}']:.3f}" for key in columns.values()))
    Console(width=100).print(table)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if Path.cwd() != ROOT:
        sys.exit(f"error: run this from {ROOT}")
    started = time.time()
    if not Path("data/shapes/annotations/instances_val.json").exists():
        run("tools/make_shapes.py", "data/shapes")

    from mmengine.config import Config
    from mmengine.runner import find_latest_checkpoint

    from mmsema.analysis.pictures import draw_curves, draw_detections, read_scalars

    epochs = Config.fromfile(CONFIG).train_cfg.max_epochs
    last = WORK_DIR / f"epoch_{epochs}.pth"
    unfinished = WORK_DIR.exists() and not last.exists() and find_latest_checkpoint(str(WORK_DIR))
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}", "tools/train.py")
    resume = ["--resume"] if unfinished else []
    fused = ["--cfg-options", "optim_wrapper.optimizer.fused=True"]  # on the CPU since torch 2.4
    run(*launch, CONFIG, "--launcher", "pytorch", "--work-dir", str(WORK_DIR), *resume, *fused)

    scalars = read_scalars(WORK_DIR)
    draw_curves(scalars, WORK_DIR / "curves.png")
    draw_detections(*predict(last, PICTURES), WORK_DIR / "predictions.png")
    print_table([line for line in scalars if "coco/bbox_mAP" in line][-1])
    print(f"Finished in {(time.time() - started) / 60:.1f} minutes.")
    print(f"  pictures     {WORK_DIR / 'predictions.png'}")
    print(f"  curves       {WORK_DIR / 'curves.png'}")
    print(f"  checkpoint   {last}")
    print("Next:")
    print("  .venv/bin/python tools/train.py configs/sema-pico_digits.py     real handwritten digits, two minutes")
    print("  .venv/bin/python tools/train.py configs/mask-rcnn_sema-t_fpn_1x_coco.py     the real thing, needs COCO")
    print("  backbone=dict(type='mmsema.SEMA', arch='tiny')     in a config of your own; see README.md")


if __name__ == "__main__":
    main()
