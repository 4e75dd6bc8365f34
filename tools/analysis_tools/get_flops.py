"""Count a config's parameters and multiply-accumulates for one picture, window attention and mean included."""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, or the name of one of mmsema's")
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of the picture (default: 224 224 for a classifier, 800 1333 for a detector)",
    )
    arguments = parser.parse_args()
    if arguments.shape and min(arguments.shape) < 1:
        parser.error(f"--shape must be two numbers of at least 1, got {arguments.shape}")

    from rich.console import Console
    from rich.table import Table

    from mmsema.analysis.complexity import count_operations
    from mmsema.engine import UsageError, ignore_known_warnings

    ignore_known_warnings()
    try:
        counted = count_operations(arguments.config, arguments.shape)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    table = Table("part", title=f"{arguments.config}, input {counted.input_shape}")
    table.add_column("parameters", justify="right")
    table.add_column("GMACs", justify="right")
    for part in counted.parts:
        table.add_row(part.name, f"{part.parameters:,}", f"{part.macs / 1e9:.4f}")
        if part.name == "backbone":
            table.add_row("  of that: window attention", "", f"{counted.attention.macs / 1e9:.4f}")
            table.add_row("  of that: mean of all values", "", f"{counted.mean.macs / 1e9:.4f}")
    table.add_section()
    table.add_row("total", f"{counted.total.parameters:,}", f"{counted.total.macs / 1e9:.4f}")
    Console(width=80).print(table)
    if counted.regions:
        print(f"The second stage is counted for {counted.regions} regions, the most that the config allows.")


if __name__ == "__main__":
    main()
