"""What the person at the terminal can mend."""

from typing import Sequence


class UsageError(Exception):
    """Something the caller can mend; its text is one line for the person at the terminal."""


class ConfigFaults(UsageError):
    """Everything that is wrong with a config, one line each; as text, the tools print ``error: `` before every line."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\nerror: ".join(lines))
        self.lines = list(lines)
