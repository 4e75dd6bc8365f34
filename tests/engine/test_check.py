"""Every planted fault is named in one line, alone and all at once; what ships is not blamed."""

from argparse import Namespace

import pytest
from config_faults import FAULTS, plant

from mmsema.engine.config import load_config
from mmsema.engine.errors import UsageError


def lines_on(path, options=(), **more) -> list:
    arguments = Namespace(config=str(path), cfg_options=list(options), launcher="none", work_dir=None, **more)
    with pytest.raises(UsageError) as caught:
        load_config(arguments)
    return str(caught.value).split("\nerror: ")


@pytest.mark.slow
@pytest.mark.scorecard("config")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_fault_is_named_in_one_line(fault, tmp_path):
    lines = lines_on(plant(fault, tmp_path), fault.options)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in fault.words), lines[0]
    assert "\n" not in lines[0] and len(lines[0]) < 400
