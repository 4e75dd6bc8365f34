"""What the tables name exists and fits together; what is said to be best."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmsema.engine.config import read_config
from mmsema.evidence import report
from mmsema.evidence.run import make_run
from mmsema.evidence.tables import TABLES, Row, Table

RUNS = {
    (run.config, run.options): run
    for name, table in TABLES.items()
    for row in table.rows
    for run in [make_run(name, row, 0, Path("work"), False)]
}


@pytest.mark.long
@pytest.mark.parametrize("run", [run for run in RUNS.values() if not run.tested], ids=lambda r: f"{r.table}-{r.row}")
def test_rows_are_accepted_and_their_backbones_fit(run):
    cfg = read_config(run.config, run.options.split())
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.eval()  # mmdet's ResNet returns nothing
    maps = backbone(torch.zeros(1, 3, 32, 32))
    channels = [one.shape[1] for one in maps]
    head = cfg.model.get("roi_head") or cfg.model.head
    wanted = cfg.model.neck.in_channels if "roi_head" in cfg.model else [head.in_channels]
    assert channels == list(wanted)
    assert cfg.train_cfg.val_interval == cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end


def test_options_of_tests_are_accepted():
    for name, table in TABLES.items():
        if table.tests:
            row, *_ = table.rows
            read_config(table.config, make_run(name, row, 0, Path("work"), True).options.split())


@pytest.mark.parametrize("name", TABLES)
def test_quick_options_are_accepted(name):
    read_config(TABLES[name].config, f"{TABLES[name].options} {TABLES[name].quick}".split())


def lines(**rows):
    return [
        dict(row=name, seed=str(seed), score=str(value), seconds="0.5")
        for name, values in rows.items()
        for seed, value in enumerate(values)
    ]


def test_nothing_within_the_spread_is_better(monkeypatch):
    rows = {name: Row() for name in "abcd"}
    table = Table("t", "c", "", rows, {"score": "score"}, "")
    monkeypatch.setitem(TABLES, "t", table)
    found = lines(a=[0.1, 0.3], b=[0.4, 0.5], c=[0.45, 0.6], d=[0.9])
    spreads = report.spreads(table, found)
    assert list(spreads) == ["d", "c", "b", "a"]
    assert report.marked(spreads, "score") == ["c", "b"]  # d has one seed
    header, *cells = report.cells("t", found)
    assert header == ["", "seeds", "score", "s per iteration"]
    assert cells[0] == ["d", "1", "0.900", "0.50"] and cells[1] == ["c", "2", "0.525 (0.450 to 0.600)*", "0.50"]
    assert report.marked(report.spreads(table, lines(a=[0.1], b=[0.2])), "score") == []
    assert report.missing("t", found, (0, 1)) == ["seed 1: d"]
    assert report.missing("t", [], (0,)) == ["seed 0: all"]


def test_plots(tmp_path, monkeypatch):
    rows = {name: Row() for name in "ab"}
    monkeypatch.setitem(TABLES, "t", Table("t", "c", "", rows, {"score": "score"}, ""))
    report.plot("t", lines(a=[0.1, 0.3], b=[0.4]), tmp_path / "a.png")
    rows = {f"{name} x{scale}": Row() for name in ("sema", "window") for scale in (0.5, 1.0)}
    monkeypatch.setitem(TABLES, "s", Table("s", "c", "", rows, {"score": "score"}, "", tests="t"))
    report.plot_scales("s", lines(**{name: [0.5] for name in rows}), tmp_path / "b.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("a.png", "b.png"))


def test_a_table_of_tests_has_a_column_for_every_scale(monkeypatch):
    rows = {f"{name} x{scale}": Row() for name in ("a", "b") for scale in (2.0, 0.5)}
    monkeypatch.setitem(TABLES, "s", Table("s", "c", "", rows, {"score": "score"}, "", tests="t"))
    found = lines(**{"a x2.0": [0.5], "a x0.5": [0.25], "b x0.5": [0.75]})
    assert report.cells("s", found) == [["score", "x0.5", "x2"], ["b", "0.750", ""], ["a", "0.250", "0.500"]]
