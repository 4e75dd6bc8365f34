"""Every planted fault gives its line and count and nothing else; clean data gives nothing."""

import pytest
from faults import FAULTS, MAKE, audit


@pytest.mark.scorecard("data")
@pytest.mark.parametrize("name", FAULTS)
def test_fault(name, tmp_path):
    FAULTS[name].plant(tmp_path)
    report = FAULTS[name].audit(tmp_path)
    assert FAULTS[name].is_named(tmp_path, report), (FAULTS[name].line, report.lines(), report.counts)


@pytest.mark.parametrize("use", ["train", "evaluate"])
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("pictures", ["quick", "all", "decode"])
def test_clean_data_passes(kind, use, pictures, tmp_path):
    MAKE[kind](tmp_path)
    report = audit(kind, tmp_path, use=use, pictures=pictures)
    assert not report.stops and not report.drops, report.lines()
    assert report.pictures
