"""The runner of the tables: order, what is skipped, kills, failures, two processes; training is played by a script."""

import csv
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmsema.evidence import run as module
from mmsema.evidence.run import versions  # as it is: the fixture replaces the module's
from mmsema.evidence.store import append_line, read_lines
from mmsema.evidence.tables import TABLES, Row, Table

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/analysis_tools/evidence.py"
# trains two epochs, a checkpoint after each; what it does is in calls.txt; "at=STEP do=WHAT" happens once
FAKE = """
import json, os, sys, time
from pathlib import Path

kind = Path(sys.argv[0]).stem
folder = Path(sys.argv[sys.argv.index("--work-dir") + 1])
options = dict(option.split("=") for option in sys.argv[sys.argv.index("--cfg-options") + 1:])
pointer, log = folder / "last_checkpoint", folder / str(time.time_ns()) / "vis_data/scalars.json"
log.parent.mkdir(parents=True)

def write(**values):
    with open(log, "a") as file:
        file.write(json.dumps(values) + "\\n")

def event(step):
    happened = folder / "happened"
    first = options.get("at") == step and not happened.exists()
    if first:
        happened.touch()
    with open("calls.txt", "a") as file:  # last: a test that sees the line may end this process
        file.write(f"{kind} {folder.name} {step}\\n")
    if first:
        if options["do"] == "fail":
            sys.exit("warning: first\\nerror: no luck today")
        if options["do"] == "kill":
            os.kill(os.getppid(), 9)
            os.kill(os.getpid(), 9)
        began = time.time()
        while options["do"] == "wait" or Path("calls.txt").read_text().count(step) < 2:  # or "meet" another run
            if time.time() - began > 60:
                sys.exit("error: waited in vain")
            time.sleep(0.02)

score = float(options.get("score", 0.25)) + 0.125 * float(options.get("randomness.seed", 0))
done = int(pointer.read_text()[-5]) if kind == "train" and pointer.exists() else 0
for epoch in range(done, 2 if kind == "train" else 0):
    event(f"epoch{epoch + 1}")
    write(loss=1.0, iter=10 * epoch + 10)
    write(**{"cost/seconds": 0.5, "cost/memory_mb": 700.0, "cost/parameters": 3000000, "cost/iterations": 20,
             "cost/backbone_parameters": 2000000})
    pointer.write_text(str(folder.resolve() / f"epoch_{epoch + 1}.pth"))
if kind == "train" and done < 2 or kind == "test":
    event("evaluation")
    write(score=score, step=2)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the tool's neighbours and a table of two rows, "a" and "b"."""
    for name in ("train", "test"):
        path = tmp_path / f"tools/{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "read_config", lambda config, options=(): {})
    monkeypatch.setattr(module, "check_data", lambda cfg, loaders: None)
    monkeypatch.setattr(module, "versions", lambda run: {"torch": "2", "commit": "abc"})
    monkeypatch.setattr(module, "WAIT", 0.02)
    set_table(monkeypatch)
    return tmp_path


def set_table(monkeypatch, a="score=0.25", b="score=0.5", name="tiny", **more):
    fields = dict(title="Tiny", config="tiny", options="", metrics={"score": "score"}, quick="quick=1", **more)
    monkeypatch.setitem(TABLES, name, Table(rows={"a": Row(a), "b": Row(b)}, **fields))


def evidence(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [str(TOOL), "tiny", *map(str, arguments)])
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        for one, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(one, handler)


def calls() -> list:
    return Path("calls.txt").read_text().splitlines()


def test_all_rows_with_one_seed_then_the_next_and_nothing_twice(project, monkeypatch, capsys):
    assert evidence(monkeypatch, "--seeds", 0, 1) == 0
    order = [(line["row"], line["seed"]) for line in read_lines(Path("results/tiny.csv"))]
    assert order == [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1")]
    line = read_lines(Path("results/tiny.csv"))[2]
    assert line["score"] == "0.375" and line["seconds"] == "0.5" and line["backbone_parameters"] == "2000000"
    assert line["command"] == (
        "python tools/train.py tiny --work-dir work_dirs/evidence/tiny/a_seed1 --resume auto "
        "--cfg-options score=0.25 randomness.seed=1"
    )
    before = calls()
    assert evidence(monkeypatch, "--seeds", 0, 1) == 0
    assert calls() == before
    out = capsys.readouterr().out
    assert "seed 1, b: score 0.625 (was there)" in out and "0.562 (0.500 to 0.625)*" in out
    assert evidence(monkeypatch, "--seeds", 0, 1, 2, "--report") == 0
    assert "not there: seed 2: all" in capsys.readouterr().out


def test_a_failed_run_is_a_line_and_the_others_go_on(project, monkeypatch, capsys):
    set_table(monkeypatch, a="at=epoch2 do=fail")
    assert evidence(monkeypatch, "--seeds", 0) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "failed: seed 0, a: error: no luck today (exit code 1, all of it in" in out
    assert [line["row"] for line in read_lines(Path("results/tiny.csv"))] == ["b"]
    assert evidence(monkeypatch, "--seeds", 0) == 0  # and it goes on from its checkpoint
    assert [call for call in calls() if "a_seed0" in call] == [
        "train a_seed0 epoch1",
        "train a_seed0 epoch2",
        "train a_seed0 epoch2",
        "train a_seed0 evaluation",
    ]


@pytest.mark.parametrize("step, after", [("epoch2", "train"), ("evaluation", "test")])
def test_goes_on_after_a_kill(project, monkeypatch, step, after):
    set_table(monkeypatch, a=f"at={step} do=kill")
    pid = os.fork()
    if not pid:
        evidence(monkeypatch, "--seeds", 0)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert not Path("results/tiny.csv").exists()
    assert evidence(monkeypatch, "--seeds", 0) == 0
    assert [line["row"] for line in read_lines(Path("results/tiny.csv"))] == ["a", "b"]
    own = [call.replace(" a_seed0", "") for call in calls() if "a_seed0" in call]
    assert own.count("train epoch1") == 1 and own[-1] == f"{after} evaluation"


@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_ends_what_runs(project, monkeypatch, capfd, jobs):
    set_table(monkeypatch, a="at=epoch1 do=wait", b="at=epoch1 do=wait")
    pid = os.fork()
    if not pid:
        os._exit(evidence(monkeypatch, "--seeds", 0, 1, "--jobs", jobs))
    while not Path("calls.txt").exists() or len(calls()) < jobs:
        time.sleep(0.02)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert time.monotonic() - began < 30  # the scripts wait for 60
    assert "stopped; the same command goes on" in capfd.readouterr().err
    time.sleep(0.5)
    assert sorted(calls()) == [f"train {row}_seed0 epoch1" for row in "ab"[:jobs]]  # nothing was started after it
    assert evidence(monkeypatch, "--seeds", 0, "--rows", "a") == 0  # the folder's lock went with the process


def test_several_at_once(project, monkeypatch, capsys):
    set_table(monkeypatch, a="at=epoch1 do=meet", b="at=epoch1 do=meet")
    assert evidence(monkeypatch, "--seeds", 0, "--jobs", 2) == 0
    assert sorted(line["row"] for line in read_lines(Path("results/tiny.csv"))) == ["a", "b"]
    with pytest.raises(SystemExit, match="2"):
        sys.exit(evidence(monkeypatch, "--jobs", 0))
    assert "--jobs must be at least 1, got 0" in capsys.readouterr().err


def test_a_run_of_another_process_is_left_to_it(project, monkeypatch, capsys):
    import fcntl

    folder = Path("work_dirs/evidence/tiny/a_seed0")
    folder.mkdir(parents=True)
    with open(folder / "command.txt", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert evidence(monkeypatch, "--seeds", 0) == 0
    assert "seed 0, a: another process is at it" in capsys.readouterr().out
    assert [line["row"] for line in read_lines(Path("results/tiny.csv"))] == ["b"]


def test_the_same_run_of_another_table_is_taken_over(project, monkeypatch):
    set_table(monkeypatch, name="other", b="score=0.75")
    assert evidence(monkeypatch, "--seeds", 0) == 0
    monkeypatch.setattr(sys, "argv", ["evidence.py"])
    runner = module.Runner(Path("results"), Path("work_dirs/evidence"), False, lambda run, at: None)
    a, b = runner.plan("other", None, [0])
    assert runner.find_done(a)["command"] == read_lines(Path("results/tiny.csv"))[0]["command"]
    assert [line["row"] for line in read_lines(Path("results/other.csv"))] == ["a"]
    assert runner.find_done(b) is None


def test_results_of_other_options_are_not_mixed(project, monkeypatch, capsys):
    assert evidence(monkeypatch, "--seeds", 0) == 0
    set_table(monkeypatch, a="score=0.125")
    assert evidence(monkeypatch, "--seeds", 0) == 1
    assert "results/tiny.csv has this row with other options" in " ".join(capsys.readouterr().out.split())
    Path("results/tiny.csv").unlink()
    assert evidence(monkeypatch, "--seeds", 0) == 1
    assert "is of another command" in " ".join(capsys.readouterr().out.split())


def test_checkpoints_of_another_table_are_tested(project, monkeypatch, capsys):
    rows = {"a x2": Row("scale=2", tested="a")}
    fields = dict(title="Tests", config="tiny", options="", metrics={"score": "score"}, quick="")
    monkeypatch.setitem(TABLES, "tests", Table(rows=rows, tests="tiny", **fields))
    runner = module.Runner(Path("results"), Path("work_dirs/evidence"), False, lambda run, at: None)
    (run,) = runner.plan("tests", None, [0])
    with pytest.raises(module.RunError, match="no trained a with seed 0 in .*; run tiny first"):
        runner.run(run)
    assert evidence(monkeypatch, "--seeds", 0) == 0
    assert runner.run(run)["command"] == (
        "python tools/test.py tiny work_dirs/evidence/tiny/a_seed0/epoch_2.pth "
        "--work-dir work_dirs/evidence/tests/a-x2_seed0 --cfg-options score=0.25 scale=2"
    )


def test_quick_runs_do_not_enter_the_results(project, monkeypatch):
    assert evidence(monkeypatch, "--quick") == 0
    assert not Path("results").exists()
    lines = read_lines(Path("outputs/evidence/tiny.csv"))
    assert {line["row"]: (line["seed"], line["options"]) for line in lines} == {
        "a": ("0", "quick=1 score=0.25"),
        "b": ("0", "quick=1 score=0.5"),
    }
    runner = module.Runner(Path("results"), Path("work_dirs"), True, lambda run, at: None)
    runs = runner.plan("resolution", None, [0])
    assert len(runs) == len(TABLES["resolution"].rows) / 3 and {run.tested.row for run in runs} >= {"sema", "window"}


def test_unknown_names(project, monkeypatch, capsys):
    assert evidence(monkeypatch, "--rows", "c") == 2
    assert capsys.readouterr().err == "error: --rows must be among a, b; got c\n"
    monkeypatch.setattr(sys, "argv", [str(TOOL), "tyni"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TOOL), run_name="__main__")
    assert "table must be one of nuclei, shapes" in capsys.readouterr().err


def test_missing_data_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(TOOL), "nuclei"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TOOL), run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("error: data/nuclei/annotations/instances_train.json is missing") and "docs/datasets.md" in line
    )


def add_many(path: Path, row: str) -> None:
    for seed in range(30):
        append_line(path, dict(row=row, seed=str(seed), score="1"))


def test_two_processes_add_to_one_file(tmp_path):
    path = tmp_path / "results/table.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_many, args=(path, row)) for row in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with open(path) as file:
        lines = list(csv.DictReader(file))
    assert {(line["row"], line["seed"]) for line in lines} == {(row, str(seed)) for row in "ab" for seed in range(30)}
    assert len(lines) == 60
    append_line(path, dict(row="a", seed="0", score="2", more="x"))
    assert read_lines(path) == lines  # once
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.long
def test_real_runs_killed_and_gone_on_with(tmp_path):
    """Shapes, quick, killed with its child when training has begun."""
    command = [sys.executable, ROOT / "tools/make_shapes.py", "data/shapes", "--train", "8", "--val", "4"]
    subprocess.run(command, cwd=tmp_path, check=True)
    command = [sys.executable, str(TOOL), "shapes", "--quick", "--rows", "sema", "convnext"]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as process:
        while not list(tmp_path.glob("work_dirs/evidence-quick/shapes/sema_seed0/*/*.log")):
            assert process.poll() is None
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(command, cwd=tmp_path, check=True)
    lines = read_lines(tmp_path / "outputs/evidence/shapes.csv")
    lines.sort(key=lambda line: line["row"] != "sema")  # two run at once
    assert [line["row"] for line in lines] == ["sema", "convnext"]
    assert lines[0]["iterations"] == "2" and 0 < float(lines[0]["seconds"]) < 20 and float(lines[0]["memory_mb"]) > 300
    assert int(lines[0]["backbone_parameters"]) == 1_943_440 < int(lines[0]["parameters"])


def test_results_name_no_folder_of_this_machine(project, monkeypatch, tmp_path):
    assert evidence(monkeypatch, "--seeds", 0, "--work-dir", tmp_path / "elsewhere") == 0
    commands = [line["command"] for line in read_lines(Path("results/tiny.csv"))]
    assert commands and all("--work-dir work_dirs/evidence/tiny/" in one for one in commands)
    assert not any(str(tmp_path) in one for one in commands)


@pytest.mark.parametrize("folder", ["tools", "train", "with space"])
def test_a_work_folder_of_any_name(project, monkeypatch, folder):
    assert evidence(monkeypatch, "--seeds", 0, "--work-dir", folder) == 0
    commands = [line["command"] for line in read_lines(Path("results/tiny.csv"))]
    assert all(one.startswith("python tools/train.py tiny --work-dir work_dirs/evidence/tiny/") for one in commands)


def test_results_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    line = versions(module.make_run("nuclei", "sema", 0, Path("work"), False))
    assert line["commit"] == "" and line["host"].startswith("mmdet ")


def test_a_part_of_the_pictures_in_a_folder_with_a_space(tmp_path, monkeypatch):
    dataset = SimpleNamespace(data_root=str(tmp_path), ann_file="a.json", data_prefix=SimpleNamespace(img="all"))
    cfg = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))
    monkeypatch.setattr(module, "read_config", lambda config: cfg)
    images = [dict(id=i) for i in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(dict(images=images, annotations=[dict(image_id=i) for i in range(5)])))
    run = module.Run("t", "a", 0, "tiny", "", tmp_path / "with space")
    run.folder.mkdir()
    options = module.every_nth(run, SimpleNamespace(every=3))
    assert f"test_evaluator.ann_file={run.folder}/pictures.json" in options
    left = json.loads((run.folder / "pictures.json").read_text())
    assert [one["id"] for one in left["images"]] == [one["image_id"] for one in left["annotations"]] == [0, 3]
