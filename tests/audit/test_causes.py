"""The rules in docs/data_audit.md are those of the code."""

from pathlib import Path

from faults import FAULTS

from mmsema.audit import CAUSES, Cause

DOC = Path(__file__).resolve().parents[2] / "docs/data_audit.md"
HEAD = "| cause | rule | what | the hosts on their own |\n|---|---|---|---|\n"


def row(name: str, cause: Cause) -> str:
    rule = f"{cause.rule}, {cause.evaluation}" if cause.evaluation else cause.rule
    return f"| {name} | {rule} | {cause.what} | {cause.host} |\n"


def test_the_documented_rules_are_the_rules():
    table = HEAD + "".join(row(name, cause) for name, cause in CAUSES.items())
    assert DOC.read_text().endswith(table), table


def test_rules_are_known():
    assert {cause.rule for cause in CAUSES.values()} == {"stop", "drop", "note"}


def test_every_cause_that_stops_or_drops_has_a_planted_fault():
    planted = {fault.cause for fault in FAULTS.values()}
    # in test_audit.py and test_audit_config.py
    other = {"folder-missing", "folder-hidden", "folder-names", "evaluator-pictures"}
    assert {name for name, cause in CAUSES.items() if cause.rule != "note"} - planted - other == set()
