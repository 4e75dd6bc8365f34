"""Write the tables of docs/evidence.md, and its plots, from results/*.csv: python docs/make_evidence.py

A table stands between "<!-- table NAME -->" and "<!-- end -->"; the text around it is written by hand.
"""

import re
from pathlib import Path
from typing import List

from mmsema.evidence import report
from mmsema.evidence.store import Line, read_lines
from mmsema.evidence.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/evidence.md"
PLACE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SEEDS = (0, 1, 2)


def lines_of(name: str) -> List[Line]:
    return read_lines(ROOT / f"results/{name}.csv")


def table(name: str) -> str:
    """The table, and which runs it still lacks."""
    lines = lines_of(name)
    seeds = sorted({int(line["seed"]) for line in lines}) if TABLES[name].tests else SEEDS
    gaps = report.missing(name, lines, seeds)
    return f"\n{report.markdown(name, lines)}" + (f"\nNot run: {'; '.join(gaps)}.\n" if gaps else "") + "\n"


def render(page: str) -> str:
    """The page with the tables that the results give."""
    return PLACE.sub(lambda found: found[1] + table(found[2]) + found[3], page)


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(render(text))
    for _, name, _ in PLACE.findall(text):
        plot = report.plot_scales if TABLES[name].tests else report.plot
        if lines_of(name):
            plot(name, lines_of(name), ROOT / f"docs/images/evidence_{name}.png")
