"""Measure how softmax, linear and SEMA attention spread as the number of tokens grows: a table, a CSV file, a plot.

    python tools/analysis_tools/dispersion.py --out-dir outputs/dispersion
    python tools/analysis_tools/dispersion.py --config CONFIG --checkpoint WEIGHTS --pictures A.jpg B.jpg

docs/mixers.md says how to read them.
"""

import argparse
import shlex
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="for trained inputs: config of a model with a SEMA backbone")
    parser.add_argument("--checkpoint", help="for trained inputs: its weights")
    parser.add_argument("--pictures", nargs="+", default=[], help="for trained inputs: files, resized to every size")
    parser.add_argument("--queries", type=int, default=256, help="tokens looked at per map (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs and queries (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="up to 4,096 tokens and 64 queries: seconds")
    parser.add_argument("--out-dir", type=Path, default="outputs/dispersion", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.queries < 1:
        parser.error(f"--queries must be at least 1, got {arguments.queries}")

    import torch
    from rich.console import Console
    from rich.table import Table

    from mmsema.analysis import dispersion
    from mmsema.checkpoint import CheckpointError
    from mmsema.engine import UsageError
    from mmsema.engine.errors import require_folder

    sides = dispersion.QUICK_SIDES if arguments.quick else dispersion.SIDES
    queries = min(arguments.queries, 64) if arguments.quick else arguments.queries
    try:
        require_folder("--out-dir", arguments.out_dir)
        rows = dispersion.dispersion(
            arguments.config, arguments.checkpoint, arguments.pictures, sides, queries, arguments.seed
        )
    except (UsageError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "tools/analysis_tools/dispersion.py", *sys.argv[1:]])
    remarks = dict(queries=queries, seed=arguments.seed, torch=torch.__version__, command=command)
    dispersion.write_csv(rows, arguments.out_dir / "dispersion.csv", **remarks)
    dispersion.plot(rows, arguments.out_dir / "dispersion.png")

    table = Table("inputs", "attention")
    for name in ("tokens", "largest weight", "bounds", "entropy / ln n", "|out - mean| / rms |v|", "/ |out|"):
        table.add_column(name, justify="right")
    for (inputs, attention), group in dispersion.groups(rows).items():
        for row in group:
            bounds = f"{row.lower:.1e} to {row.upper:.1e}"
            numbers = f"{row.largest:.3g}", bounds, f"{row.entropy_share:.3f}", f"{row.to_mean:.3g}"
            table.add_row(inputs, attention, f"{row.tokens:,}", *numbers, f"{row.to_mean_relative:.3f}")
        powers = [f"n^{dispersion.slope(group, column):+.2f}" for column in ("largest", "to_mean", "to_mean_relative")]
        table.add_row(inputs, attention, "all", powers[0], "", "", *powers[1:], end_section=True)
    Console(width=120).print(table)
    print(f"written: {arguments.out_dir / 'dispersion.csv'}, {arguments.out_dir / 'dispersion.png'}")


if __name__ == "__main__":
    main()
