"""What padding costs: a config's test at several batch sizes, with and without the sizes of the pictures."""

import argparse
from typing import List, Optional, Tuple

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from ..engine.config import check_data, load_config, require_file
from ..engine.failure import run_or_fail
from ..engine.launch import build_runner


def settings(cfg: Config, batch_sizes: List[int]) -> List[Tuple[int, Optional[str]]]:
    """Batch sizes and the backbone's ``pad_value``: the config's, and None, as text; no text for another backbone."""
    backbone = cfg.model.backbone
    if backbone.type.split(".")[-1] not in ("SEMA", "MILA"):
        return [(size, None) for size in batch_sizes]
    values = dict.fromkeys((str(backbone.get("pad_value", 0.0)), "None"))
    return [(size, value) for value in values for size in batch_sizes]


def evaluate_settings(arguments: argparse.Namespace) -> None:
    """What tools/analysis_tools/padding_effect.py does, with its parsed arguments: prints a table of all metrics."""
    require_file(arguments.checkpoint, "checkpoint")
    columns = []
    for size, pad_value in settings(load_config(arguments), arguments.batch_sizes):
        cfg = load_config(arguments)
        check_data(cfg, ["test_dataloader"])
        cfg.load_from, cfg.test_dataloader.batch_size = arguments.checkpoint, size
        cfg.experiment_name = f"batch_{size}_pad_value_{pad_value}"
        if pad_value == "None":
            cfg.model.backbone.pad_value = None
        runner, found = build_runner(cfg, min_matched=1.0), {}
        run_or_fail(runner, lambda runner=runner, found=found: found.update(runner.test()))
        columns.append((f"batch {size}" + (f"\npad_value={pad_value}" if pad_value else ""), found))
    table = Table("metric", title=f"{arguments.config}\n{arguments.checkpoint}")
    for head, _ in columns:
        table.add_column(head, justify="right")
    for metric in columns[0][1]:
        table.add_row(metric, *(f"{found[metric]:.4f}" for _, found in columns))
    Console(width=40 + 20 * len(columns)).print(table)
