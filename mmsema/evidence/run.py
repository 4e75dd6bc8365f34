"""Run the rows of a table one after the other, each as the command that a user would type."""

import fcntl
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ..benchmark.report import environment
from ..engine.config import check_data, read_config
from ..engine.errors import UsageError
from ..hub import data_folder
from .store import Line, append_line, find_line, read_lines
from .tables import TABLES, Row, Table

COSTS = ("iterations", "seconds", "memory_mb", "parameters", "backbone_parameters")
TRAIN, TEST = "tools/train.py", "tools/test.py"
POINTER = "last_checkpoint"  # mmengine's file
WAIT = 0.5  # seconds between two looks at a run


class RunError(Exception):
    """A run that gave no result; its text is one line."""


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    table: str
    row: str
    seed: int
    config: str
    options: str
    folder: Path  # its work folder
    tested: Optional["Run"] = None  # whose checkpoint is tested, if nothing is trained

    def train_command(self) -> List[str]:
        options = [*self.options.split(), f"randomness.seed={self.seed}"]
        return [TRAIN, self.config, "--work-dir", str(self.folder), "--resume", "auto", "--cfg-options", *options]

    def test_command(self, checkpoint: str) -> List[str]:
        return [TEST, self.config, checkpoint, "--work-dir", str(self.folder), "--cfg-options", *self.options.split()]


def make_run(name: str, row_name: str, seed: int, work_dir: Path, quick: bool) -> Run:
    table: Table = TABLES[name]
    row: Row = table.rows[row_name]
    folder = work_dir / name / f"{row_name.replace(' ', '-').replace('/', '-')}_seed{seed}"
    tested, parts = None, [table.options, table.quick if quick else "", row.options]
    if table.tests:
        tested = make_run(table.tests, row.tested, seed, work_dir, quick)
        parts = [TABLES[table.tests].rows[row.tested].options, *parts]
    return Run(name, row_name, seed, row.config or table.config, " ".join(" ".join(parts).split()), folder, tested)


def every_nth(run: Run, table: Table) -> List[str]:
    """Options that leave of a detector's test pictures the first of every so many."""
    dataset = read_config(run.config).test_dataloader.dataset
    root = Path(dataset.data_root)
    content = json.loads((root / dataset.ann_file).read_text())
    content["images"] = content["images"][:: table.every]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    file = run.folder / "pictures.json"
    file.write_text(json.dumps(content))
    options = {
        "dataloader.dataset.data_root": ".",
        "dataloader.dataset.ann_file": file,
        "dataloader.dataset.data_prefix.img": root / dataset.data_prefix.img,
        "evaluator.ann_file": file,
    }
    return [f"test_{key}={value}" for key, value in options.items()]


def scalars(folder: Path) -> Iterator[Dict[str, Any]]:
    """What a work folder's runs wrote, oldest first: training's lines, a test's file."""
    for path in sorted(folder.glob("*/*.json")) + sorted(folder.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            try:
                value = json.loads(line)
            except ValueError:  # a line of a run that was killed
                continue
            if isinstance(value, dict):
                yield value


def results(run: Run) -> Tuple[Optional[Dict[str, float]], Dict[str, float]]:
    """The metrics of the last evaluation that is in the work folder, None if there is none, and the costs."""
    wanted, metrics, costs = TABLES[run.table].metrics, None, {}
    for line in scalars(run.folder):
        if all(name in line for name in wanted.values()):
            metrics = {column: line[name] for column, name in wanted.items()}
        if "cost/seconds" in line:
            costs = {key: line[f"cost/{key}"] for key in COSTS if f"cost/{key}" in line}
    return metrics, costs


def last_iteration(folder: Path) -> Optional[int]:
    files = sorted(folder.glob("*/vis_data/scalars.json"))
    steps = [line["iter"] for line in scalars(files[-1].parents[1]) if "iter" in line] if files else []
    return steps[-1] if steps else None


def last_checkpoint(folder: Path) -> str:
    """The newest checkpoint in a work folder, which may have been moved since mmengine wrote down where it is."""
    return str(folder / Path((folder / POINTER).read_text().strip()).name)


def versions(run: Run) -> Line:
    root = data_folder()
    try:
        describe = ["git", "-C", root, "describe", "--always", "--dirty"]
        commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    except OSError:  # without git
        commit = ""
    config = read_config(run.config)
    host = config.get("default_scope", "mmengine")
    found = environment("cpu")
    return {
        "torch": found["torch"],
        "host": f"{host} {importlib.import_module(host).__version__}",
        "device": found["device"],
        "commit": commit,
    }


class Runner:
    """Runs what is not in the results yet, from one thread or several.

    Args:
        out_dir: folder of the tables' files.
        work_dir: folder of the runs' work folders.
        quick: short runs that show that everything works.
        watch: is called with a run and its last logged iteration, again and again while it goes on.
    """

    def __init__(self, out_dir: Path, work_dir: Path, quick: bool, watch: Callable[[Run, Optional[int]], None]) -> None:
        self.out_dir, self.work_dir, self.quick, self.watch = out_dir, work_dir, quick, watch
        self.children: Set[subprocess.Popen] = set()
        self.signum = 0
        self.reading = threading.Lock()  # mmengine reads configs in one thread at a time
        self.versions: Dict[str, Line] = {}

    def plan(self, name: str, rows: Optional[Sequence[str]], seeds: Sequence[int]) -> List[Run]:
        """All rows with the first seed, then all with the next. :class:`UsageError` if there is no such row or data."""
        table = TABLES[name]
        rows = rows or list(table.rows)[:: 3 if self.quick and table.tests else 1]  # tests are many and alike
        unknown = [row for row in rows if row not in table.rows]
        if unknown:
            raise UsageError(f"--rows must be among {', '.join(table.rows)}; got {', '.join(unknown)}")
        check_data(read_config(table.config), ["train_dataloader", "test_dataloader"])
        return [make_run(name, row, seed, self.work_dir, self.quick) for seed in seeds for row in rows]

    def find_done(self, run: Run) -> Optional[Line]:
        """The line of a run, also of the same run in another table, which is then added to this one's file."""
        line = find_line(read_lines(self.out_dir / f"{run.table}.csv"), row=run.row, seed=run.seed)
        if line and (line["config"], line["options"]) != (run.config, run.options):
            raise RunError(f"{self.out_dir / run.table}.csv has this row with other options; remove its lines")
        if line or run.tested:
            return line
        for other in TABLES:
            lines = read_lines(self.out_dir / f"{other}.csv") if other != run.table else []
            line = find_line(lines, config=run.config, options=run.options, seed=run.seed)
            if line and all(metric in line for metric in TABLES[run.table].metrics):
                line = dict(line, row=run.row)
                append_line(self.out_dir / f"{run.table}.csv", line)
                return line
        return None

    def run(self, run: Run) -> Optional[Line]:
        """Run one and write its line; None if another process is at it."""
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(run.folder / "command.txt", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            done = self.find_done(run)  # it may have been written meanwhile
            return done or self._run(run, file)

    def _run(self, run: Run, lock: Any) -> Line:
        table = TABLES[run.table]
        if run.tested:
            command = run.test_command(self._checkpoint(run.tested))
            if table.every > 1 and not self.quick:
                with self.reading:
                    command += every_nth(run, table)
        else:
            command = run.train_command()
        text = shlex.join(["python", *command])
        lock.seek(0)
        before = lock.read().strip()
        if before and before != text:
            raise RunError(f"{run.folder} is of another command; remove it, or name another --work-dir")
        if not before:
            lock.write(text)
            lock.flush()
        self._call(command, run, lock.fileno())
        metrics, costs = results(run)
        if metrics is None and not run.tested:  # killed after the last checkpoint, before or during the evaluation
            self._call(run.test_command(last_checkpoint(run.folder)), run, lock.fileno())
            metrics, costs = results(run)
        if metrics is None:
            raise RunError(f"no {', '.join(table.metrics.values())} in the scalars of {run.folder}")
        with self.reading:
            if run.config not in self.versions:
                self.versions[run.config] = versions(run)
        numbers = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in costs.items()}
        names = dict(row=run.row, seed=run.seed)
        # a results file goes to other machines
        own = re.compile(rf"^([\w.]+=)?{re.escape(str(self.work_dir))}(?=/)")
        arguments = [own.sub(lambda found: (found[1] or "") + "work_dirs/evidence", part) for part in command[1:]]
        usual = shlex.join(["python", command[0], *arguments])
        about = dict(self.versions[run.config], config=run.config, options=run.options, command=usual)
        line = {key: str(value) for key, value in {**names, **metrics, **numbers, **about}.items()}
        append_line(self.out_dir / f"{run.table}.csv", line)
        return line

    def _checkpoint(self, tested: Run) -> str:
        done = find_line(read_lines(self.out_dir / f"{tested.table}.csv"), row=tested.row, seed=tested.seed)
        if not done or not (tested.folder / POINTER).is_file():
            raise RunError(
                f"no trained {tested.row} with seed {tested.seed} in {tested.folder}; run {tested.table} first"
            )
        return last_checkpoint(tested.folder)

    def _call(self, command: Sequence[str], run: Run, lock: int) -> None:
        """Run a tool of this project; the work folder stays locked while it lives, even if this process is killed."""
        if self.signum:
            raise KeyboardInterrupt
        script = data_folder() / command[0]
        output = run.folder / "output.txt"
        environ = dict(os.environ, OMP_NUM_THREADS="1")
        with open(output, "w") as file:
            child = subprocess.Popen(
                [sys.executable, script, *command[1:]], stdout=file, stderr=file, env=environ, pass_fds=[lock]
            )
            self.children.add(child)
            if self.signum:  # it came before the child was known
                child.send_signal(self.signum)
            while child.poll() is None:
                self.watch(run, last_iteration(run.folder))
                time.sleep(WAIT)
        self.children.discard(child)
        if self.signum:
            raise KeyboardInterrupt
        if code := child.returncode:
            lines = output.read_text(errors="replace").splitlines()
            errors = [line for line in lines if line.startswith("error: ")] or [line for line in lines if line.strip()]
            raise RunError(f"{errors[-1] if errors else 'no output'} (exit code {code}, all of it in {output})")

    def stop(self, signum: int, _: Any = None) -> None:
        """A signal's handler: the runs that are going on save and end, then this process does."""
        self.signum = signum
        for child in self.children.copy():
            child.send_signal(signum)

    def listen(self) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.stop)
