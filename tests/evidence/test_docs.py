"""docs/evidence.md says what results/*.csv say."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
from make_evidence import PAGE, PLACE, TABLES, lines_of, render, table  # noqa: E402

NUMBER = re.compile(r"(?<![\w.])(?:0\.\d{3}|\d\d\.\d)(?![\w.])")  # AP, percent


def test_tables_are_those_of_the_results():
    assert PAGE.read_text() == render(PAGE.read_text()), "out of date, run: python docs/make_evidence.py"


def test_every_table_has_results_a_plot_and_one_command_a_run():
    for _, name, _ in PLACE.findall(PAGE.read_text()):
        lines = lines_of(name)
        assert lines and (ROOT / f"docs/images/evidence_{name}.png").exists()
        assert len({line["command"] for line in lines}) == len(lines)
        for line in lines:
            assert line["command"].startswith("python tools/") and line["torch"] and line["commit"] and line["device"]
            assert "dirty" not in line["commit"]


def test_scores_in_the_text_are_in_its_tables():
    page = PAGE.read_text()
    tables = "".join(found[0] for found in PLACE.finditer(page))
    text = PLACE.sub("", page)
    assert set(NUMBER.findall(text)) <= set(NUMBER.findall(tables))


def test_a_table_of_tests_lacks_only_what_its_own_seeds_lack(monkeypatch):
    first, *others = TABLES["resolution"].rows
    found = [{"row": row, "seed": "2", "mask AP": "0.5", "box AP": "0.5"} for row in others]
    monkeypatch.setattr("make_evidence.lines_of", lambda name: found)
    assert f"Not run: seed 2: {first}.\n" in table("resolution")
    found.append(dict(found[0], row=first))
    assert "Not run" not in table("resolution")
