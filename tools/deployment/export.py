"""Export a config's backbone or classifier to ONNX, torch.export or TorchScript and compare the file with the model.

    python tools/deployment/export.py configs/sema-t_8xb128_in1k.py CHECKPOINT --format onnx --part model --out t.onnx

docs/export.md says what the file takes and gives.
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file (Python code that is executed), or the name of one of mmsema's")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint file; without one the weights are random")
    parser.add_argument("--format", choices=["onnx", "torch_export", "torchscript"], required=True)
    parser.add_argument("--out", required=True, help="file to write, ends in .onnx, .pt2 or .pt, as the format does")
    parser.add_argument("--part", choices=["backbone", "model"], default="backbone",
                        help="the backbone, or a classifier whole (default: %(default)s)")  # fmt: skip
    arguments = parser.parse_args()

    from rich.console import Console
    from rich.table import Table

    from mmsema.checkpoint import CheckpointError
    from mmsema.engine import UsageError, ignore_known_warnings
    from mmsema.export import TOLERANCE, build, compare, export

    ignore_known_warnings()
    console = Console()
    try:
        module = build(arguments.config, arguments.checkpoint, arguments.part)
        with console.status(f"exporting to {arguments.out}; seconds for torchscript, else minutes for a large model"):
            export(module, arguments.out, arguments.format)
        rows = compare(module, arguments.out, arguments.format)
    except (UsageError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    table = Table("pictures", title=f"{arguments.out} beside the model, random pictures")
    table.add_column("largest output", justify="right")
    table.add_column("largest difference", justify="right")
    for row in rows:
        table.add_row(" x ".join(map(str, row.shape)), f"{row.largest:.3g}", f"{row.difference:.1e}")
    console.print(table)
    if not all(row.difference <= TOLERANCE for row in rows):  # not a number is none either
        sys.exit(f"error: {arguments.out} differs from the model by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
