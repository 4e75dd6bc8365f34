"""Write docs/model_zoo.md from the model index."""

from pathlib import Path
from typing import Dict, List

import yaml

ROOT = Path(__file__).resolve().parents[1]
METRICS = {
    "Image Classification": "Top 1 Accuracy",
    "Object Detection": "box AP",
    "Instance Segmentation": "mask AP",
    "Semantic Segmentation": "mIoU",
}
SECTIONS = {"Image Classification": "Classification", "Semantic Segmentation": "Semantic segmentation"}
HEADER = """# Model zoo

Written by docs/make_model_zoo.py from configs/metafile*.yml; change those instead. "not run" means that nobody has
trained this here for all of its epochs. Results of the paper are the paper's. Weights are of small models on small
data, in float16; the results beside them are theirs. Results without weights (digits, shapes, ResNet-18)
are of runs whose weights are not kept here, to keep the repository small.
"""


def load_models() -> List[dict]:
    """The entries of every metafile that model-index.yml imports."""
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    return [model for file in index["Import"] for model in yaml.safe_load((ROOT / file).read_text())["Models"]]


def cells(model: dict) -> Dict[str, str]:
    """One table row: column name to text."""
    meta = model["Metadata"]
    row = {
        "Config": f"[{model['Name']}](../{model['Config']})",
        "Data": meta["Training Data"],
        "Epochs": str(meta.get("Epochs", "")),
        "Parameters (M)": f"{meta['Parameters'] / 1e6:.1f}",
    }
    for result in model["Results"]:
        metric = METRICS[result["Task"]]
        if metric == "Top 1 Accuracy":
            row["Paper's top-1 (%)"] = str(meta.get("Paper Top 1 Accuracy", ""))
        value = result["Metrics"].get(metric)
        row[{"Top 1 Accuracy": "Our top-1 (%)"}.get(metric, f"Our {metric}")] = (
            "not run" if value is None else str(value)
        )
    if "Weights" in model:
        size = (ROOT / model["Weights"]).stat().st_size
        row["Weights"] = f"[{size / 1e6:.1f} MB](../{model['Weights']})"
    return row


def table(models: List[dict]) -> str:
    rows = [cells(model) for model in models]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render() -> Dict[Path, str]:
    """The files that depend on the model index, and what has to be in them."""
    models = load_models()
    by_task: Dict[str, List[dict]] = {}
    for model in models:
        task = SECTIONS.get(model["Results"][0]["Task"], "Detection and instance segmentation")
        by_task.setdefault(task, []).append(model)
    zoo = HEADER + "".join(f"\n## {task}\n\n{table(chosen)}" for task, chosen in by_task.items())
    return {ROOT / "docs/model_zoo.md": zoo}


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text)
