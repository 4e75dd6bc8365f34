"""What an audit found: counts and examples for each cause, as lines and as a table."""

from typing import Callable, Dict, Iterable, List, Optional

from rich.table import Table

from .causes import CAUSES

EXAMPLES = 20  # kept for each cause
USES = ("train", "evaluate", "predict")


def shown(entry: dict, keys: Iterable[str]) -> str:
    """What an entry has under ``keys``, for a line."""
    return ", ".join(f"{key} {entry[key]!r:.60}" if key in entry else f"no {key}" for key in keys)


class Report:
    """Findings about one data set.

    Args:
        source: the file or folder that the lines name.
        use: what the set is for: "train", "evaluate" (compared with results) or "predict" (pictures alone count).
    """

    def __init__(self, source: str, use: str = "train") -> None:
        if use not in USES:
            raise ValueError(f"use must be one of {', '.join(USES)}, got {use!r}")
        self.source = str(source)
        self.use = use
        self.counts: Dict[str, int] = {}
        self.examples: Dict[str, List[List[str]]] = {}  # cause: [short name, what is wrong with it]
        self.pictures = self.annotations = 0
        self.states: Dict[str, str] = {}  # of the files and folders that the result depends on; see remember.py
        self.class_folders: List[str] = []
        self.paths: Optional[List[str]] = None  # of the pictures that are there; not remembered
        self.not_audited = ""  # the reason, where nothing was looked at

    def add(self, cause: str, name: object, detail: str = "", count: int = 1) -> None:
        """Count ``count`` times ``cause`` at the thing called ``name``."""
        if cause not in CAUSES:
            raise KeyError(f"cause {cause!r} is not in CAUSES")
        examples = self.examples.setdefault(cause, [])
        self.counts[cause] = self.counts.get(cause, 0) + count
        if len(examples) < EXAMPLES:
            examples.append([str(name), detail])

    def add_rows(self, cause: str, rows: Iterable[int], name: Callable[[int], str], detail=lambda row: "") -> None:
        """Count ``cause`` at each of ``rows``; names and details are made for the examples alone."""
        for row in rows:
            if self.counts.get(cause, 0) < EXAMPLES:
                self.add(cause, name(row), detail(row))
            else:
                self.counts[cause] += 1

    def rule(self, cause: str) -> str:
        return CAUSES[cause].rule_for(self.use)

    def line(self, cause: str) -> str:
        """One line: file, cause, the first example, and how many there are."""
        (name, detail), *others = self.examples[cause]
        text = f"{self.source}: {CAUSES[cause].what}: {name}"
        text += f" ({detail})" if detail else ""
        if self.counts[cause] > 1:
            text += f"; {self.counts[cause]} in all"
            text += f", also {', '.join(other[0] for other in others[:4])}" if others else ""
            text += ", ..." if self.counts[cause] > 5 else ""
        return text

    def _lines(self, rule: str) -> List[str]:
        return [self.line(cause) for cause in CAUSES if cause in self.counts and self.rule(cause) == rule]

    @property
    def stops(self) -> List[str]:
        """One line for each cause that forbids the use of the set."""
        return self._lines("stop")

    @property
    def drops(self) -> List[str]:
        """One line for each cause whose things are left out."""
        return self._lines("drop")

    @property
    def notes(self) -> List[str]:
        return self._lines("note")

    def lines(self) -> List[str]:
        """All findings, each opening with its rule."""
        found = [f"{rule}: {line}" for rule in ("stop", "drop", "note") for line in self._lines(rule)]
        return [f"not audited: {self.source}: {self.not_audited}"] if self.not_audited else found

    def table(self) -> Optional[Table]:
        """A rich table of rule, cause, count and the first names; None when there is nothing to show."""
        if not self.counts:
            return None
        table = Table(title=f"{self.source} ({self.use})", title_justify="left")
        table.add_column("rule")
        table.add_column("cause", no_wrap=True)
        table.add_column("count", justify="right")
        table.add_column("the first", overflow="fold")
        for rule in ("stop", "drop", "note"):
            for cause in (cause for cause in CAUSES if cause in self.counts and self.rule(cause) == rule):
                names = ", ".join(name for name, _ in self.examples[cause][:10])
                table.add_row(rule, cause, str(self.counts[cause]), names)
        return table

    def to_dict(self) -> dict:
        """All but the paths, for JSON."""
        return dict(vars(self), paths=None)

    @classmethod
    def from_dict(cls, content: dict) -> "Report":
        report = cls(content["source"], content["use"])
        vars(report).update(content)
        return report
