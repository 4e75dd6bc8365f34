"""Print the scorecard: promises on faulty data, configs, commands and files, each as a figure against its target.

    python tests/scorecard.py                 every line but flakes
    python tests/scorecard.py data config     these lines
    python tests/scorecard.py flakes          20 runs of the quick tier: more than an hour on 2 cores

A line counts the tests that are marked ``@pytest.mark.scorecard("<line>")``: those that passed, of all.
"""

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# what is counted, and how many there must be at least
LINES = {
    "data": ("faults planted in data, each named or counted by its rule", 30),
    "config": ("faults planted in configs, each named before anything is built", 25),
    "command": ("faults on the command line, each one line and exit code 2", 15),
    "hostile": ("checkpoints that would run code, refused on every path", 10),
    "write": ("faults while writing a checkpoint, after which one loads", 20),
    "kill": ("kill points after which the losses are those of a run never stopped, bit by bit", 10),
    "properties": ("properties of the operator, over 1,000 shapes each", 13),
}
RUNS = 20  # of the quick tier, for flakes


class Counter:
    """A pytest plugin: outcomes of the marked tests, by line."""

    def __init__(self, lines: list) -> None:
        self.lines = lines
        self.of = {}  # test -> line
        self.passed, self.failed = defaultdict(set), defaultdict(set)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list) -> None:
        chosen = []
        for item in items:
            mark = item.get_closest_marker("scorecard")
            if mark and mark.args[0] in self.lines:
                self.of[item.nodeid] = mark.args[0]
                chosen.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        line = self.of[report.nodeid]
        if report.failed or report.skipped:
            self.failed[line].add(report.nodeid)
        elif report.when == "call":
            self.passed[line].add(report.nodeid)


def count_flakes() -> bool:
    """Run the quick tier again and again; a run that fails is a flake or a fault, and neither may be."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not long and not slow", "-n", "auto", "--dist", "loadfile"]
    failed = 0
    for run in range(1, RUNS + 1):
        done = subprocess.run(
            command, cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True
        )
        failed += done.returncode != 0
        lines = (done.stdout.strip() or done.stderr.strip() or "no word").splitlines()
        print(f"run {run}/{RUNS}: {lines[-1]}", flush=True)
        for line in lines:
            if line.startswith(("FAILED", "ERROR")):
                print(line, flush=True)
    print(f"{'flakes':12} {failed}/{RUNS}  runs of the quick tier that failed (target: 0)")
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", help="by default all but flakes")
    lines = parser.parse_args().lines or list(LINES)
    unknown = [line for line in lines if line not in (*LINES, "flakes")]
    if unknown:
        parser.error(f"lines must be of {', '.join(LINES)}, flakes; got {unknown[0]}")
    if lines == ["flakes"]:
        return 0 if count_flakes() else 1
    counter = Counter(lines)
    pytest.main(
        [str(ROOT / "tests"), "-q", "--no-header", "--durations=0", "-p", "no:cacheprovider"], plugins=[counter]
    )
    good = True
    for line in lines:
        text, target = LINES[line]
        passed = len(counter.passed[line] - counter.failed[line])
        total = sum(of == line for of in counter.of.values())
        good &= passed == total >= target
        print(f"{line:12} {passed}/{total}  {text} (target: all, at least {target})")
        for test in sorted(counter.failed[line]):
            print(f"{'':12} not: {test}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
