"""Every wrong command ends with one line on stderr and exit code 2, before anything is trained or written."""

import importlib.util
import sys

import pytest
import torch
from cli_faults import FAULTS, ROOT, command, plant
from old_torch import HAS_MODULE_TRACKER

TOOLS = dict(
    train="tools/train.py",
    test="tools/test.py",
    mmsema="mmsema/__main__.py",
    get_flops="tools/analysis_tools/get_flops.py",
    check_config="tools/analysis_tools/check_config.py",
    browse_dataset="tools/analysis_tools/browse_dataset.py",
    dispersion="tools/analysis_tools/dispersion.py",
    mixer_cost="tools/analysis_tools/mixer_cost.py",
    evidence="tools/analysis_tools/evidence.py",
    export="tools/deployment/export.py",
    publish_model="tools/model_converters/publish_model.py",
)


def call(tool: str, arguments: list, monkeypatch, capsys) -> tuple:
    """Exit code, lines of stderr, and stdout of a tool, run in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
    name = "mmsema.__main__" if tool == "mmsema" else f"tool_{tool}"
    spec = importlib.util.spec_from_file_location(name, ROOT / TOOLS[tool])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    capsys.readouterr()
    try:
        code = module.main() or 0
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return code, [line for line in printed.err.splitlines() if line.strip()], printed.out


@pytest.mark.scorecard("command")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_wrong_command_ends_with_one_line(fault, tmp_path, monkeypatch, capsys):
    if fault.cpu_only and torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    if fault.tool == "get_flops" and not HAS_MODULE_TRACKER:
        pytest.skip("another line is printed before torch 2.4")
    monkeypatch.chdir(tmp_path)
    plant(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, lines, out = call(fault.tool, command(fault, tmp_path), monkeypatch, capsys)
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and lines[-1] == errors[0], (code, lines)
    assert "Traceback" not in "".join(lines) + out
    assert all(word in errors[0] for word in fault.words), errors[0]
    if "out" not in fault.arguments and "new" not in fault.arguments:
        assert sorted(tmp_path.rglob("*")) == before


def test_traceback_shows_where(tmp_path, monkeypatch, capsys):
    arguments = [ROOT / "configs/sema-pico_digits.py", "--launcher", "pytorch"]
    code, lines, _ = call("train", [*arguments, "--traceback"], monkeypatch, capsys)
    assert code == 2 and lines[0].startswith("Traceback") and lines[-1].startswith("error: --launcher pytorch")
