"""Train and test what a table of docs/evidence.md compares, and print the table.

    python tools/analysis_tools/evidence.py nuclei

What is in the table's file already is not run again; a run that was stopped goes on from its last checkpoint.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="nuclei, shapes, cifar10, rsscn7, ablations, whole-picture or resolution")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="default: 0 1 2")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="by default all")
    parser.add_argument("--quick", action="store_true", help="a few iterations of each row, one seed")
    parser.add_argument(
        "--jobs", type=int, help="runs at once, of one thread each (default: 1; one a processor, at most 4, if --quick)"
    )
    parser.add_argument(
        "--out-dir", type=Path, help="folder of TABLE.csv (default: results; outputs/evidence if --quick)"
    )
    parser.add_argument("--work-dir", type=Path, help="folder of the runs (default: work_dirs/evidence, or -quick)")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    arguments = parser.parse_args()
    out_dir = arguments.out_dir or Path("outputs/evidence" if arguments.quick else "results")
    work_dir = arguments.work_dir or Path("work_dirs/evidence" + ("-quick" if arguments.quick else ""))
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    jobs = arguments.jobs
    if jobs is None:
        jobs = min(4, len(os.sched_getaffinity(0))) if arguments.quick else 1
    if jobs < 1:
        parser.error(f"--jobs must be at least 1, got {jobs}")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from mmsema.engine import UsageError, ignore_known_warnings
    from mmsema.engine.errors import require_folder
    from mmsema.evidence import report
    from mmsema.evidence.run import Run, RunError, Runner
    from mmsema.evidence.store import read_lines
    from mmsema.evidence.tables import TABLES

    if arguments.table not in TABLES:
        parser.error(f"table must be one of {', '.join(TABLES)}, got {arguments.table}")
    ignore_known_warnings()
    console = Console(width=None if sys.stdout.isatty() else 140)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    now: Dict[Run, str] = {}  # what goes on
    with Progress(*columns, console=console, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("starting", total=None)

        def show(done: int = 0) -> None:
            progress.update(bar, advance=done, description="\n".join(now.copy().values()))

        def watch(run: Run, iteration: "int | None") -> None:
            now[run] = f"seed {run.seed}, {run.row}" + (f", iteration {iteration}" if iteration else "")
            show()

        def take(run: Run) -> bool:
            """Run one if it is not there, say what came of it, and return whether it failed."""
            name, error = f"seed {run.seed}, {run.row}", None
            try:
                done = runner.find_done(run)
                line = done or runner.run(run)
                text = f"{name}: " + (", ".join(f"{m} {line[m]}" for m in TABLES[run.table].metrics) if line else "")
                text += " (was there)" if done else "" if line else "another process is at it"
            except RunError as caught:
                error, text = caught, f"failed: {name}: {caught}"
            now.pop(run, None)
            progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            show(done=1)
            return error is not None

        runner = Runner(out_dir, work_dir, arguments.quick, watch)
        try:
            require_folder("--out-dir", out_dir)
            runs = [] if arguments.report else runner.plan(arguments.table, arguments.rows, seeds)
        except UsageError as error:
            progress.stop()
            print(f"error: {error}", file=sys.stderr)
            return 2
        runner.listen()
        progress.update(bar, total=len(runs))
        try:
            with ThreadPoolExecutor(jobs) as pool:
                failed = sum(pool.map(take, runs))
        except KeyboardInterrupt:
            progress.stop()
            print("stopped; the same command goes on", file=sys.stderr)
            return 128 + runner.signum

    lines = read_lines(out_dir / f"{arguments.table}.csv")
    header, *rows = report.cells(arguments.table, lines)
    table = Table(*header[:1], title=TABLES[arguments.table].title, caption=report.NOTE)
    for title in header[1:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for text in report.missing(arguments.table, lines, seeds):
        print(f"not there: {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
