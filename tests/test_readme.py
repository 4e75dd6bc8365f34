"""What README and docs tell one to type and to write is there and works."""

import ast
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

import pytest
import torch
import yaml
from commands import run
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, Registry, init_default_scope
from old_torch import needs_module_tracker

import mmsema
from mmsema import registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "kernels/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
SCREENS = 110  # lines of README: two screens
# what a command may begin with that is not ours
FOREIGN = (
    "git",
    "cd",
    "python3",
    ".venv-release/bin/pip",
    ".venv-release/bin/python",
    ".venv-release/bin/twine",
    "mim",
    "pip",
    "apt",
    "sudo",
    "wget",
    "curl",
    "unzip",
    "pre-commit",
    "twine",
    "export",
)
MADE = ("configs/mine.py", "configs/nuclei.py", "configs/bccd.py")  # by the reader
# folders whose files a page may name; data/ and the like are made by the commands themselves
FOLDERS = ("configs/", "tools/", "tests/", "docs/", "kernels/", "mmsema/", "requirements/")


class Block(NamedTuple):
    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def fenced(language: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield Block(page, text[: match.start()].count("\n") + 2, match[1])


def lines() -> Iterator[Block]:
    for page in PAGES:
        yield from (Block(page, number, line) for number, line in enumerate(page.read_text().splitlines(), 1))


def spans() -> Iterator[Block]:
    """Code inside sentences."""
    for page in PAGES:
        text = re.sub(
            r"^```.*?^```", lambda m: re.sub(r"[^\n]", "", m[0]), page.read_text(), flags=re.DOTALL | re.MULTILINE
        )
        for match in re.finditer(r"`([^`]+)`", text):
            yield Block(page, text[: match.start()].count("\n") + 1, " ".join(match[1].split()))


def commands() -> List[Block]:
    """Every command line, in blocks and in sentences."""
    found = []
    indented = [Block(b.page, b.line, b.text.strip()) for b in lines() if re.match(r"    (python|make|tools/)", b.text)]
    for block in (*fenced("bash"), *indented):
        for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
            found += [Block(block.page, block.line, part) for part in line.split(" #")[0].split(" && ") if part.strip()]
    starts = ("make ", "python tools/", "python docs/", "python tests/", "python -m mmsema")
    return found + [span for span in spans() if span.text.startswith(starts)]


def named_files() -> List[Block]:
    words = [Block(b.page, b.line, word) for b in (*spans(), *commands()) for word in b.text.split()]
    return [word for word in words if word.text.startswith(FOLDERS) and word.text not in MADE]


CONFIG_BLOCKS = [b for b in fenced("python") if re.match(r"_base_|optim_wrapper|model = dict", b.text)]
SCRIPTS = [b for b in fenced("python") if b not in CONFIG_BLOCKS]


def help_of(tool: str, cache={}) -> str:  # noqa: B006
    if tool not in cache:
        cache[tool] = run(sys.executable, *tool.split(), "--help", cwd=ROOT).stdout
    return cache[tool]


def fault(command: str) -> Optional[str]:
    """What is wrong with a command line; None if nothing is."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    first, rest = words[0], words[1:]
    if first == "make":
        targets = re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        known = {target for line in targets for target in line.split()}
        wrong = [word for word in rest if "=" not in word and word not in known]
        return f"make has no target {wrong[0]}" if wrong else None
    if first.startswith("tools/"):
        return None if (ROOT / first).is_file() else f"{first} is not there"
    if first not in ("python", "torchrun"):
        return None if first in FOREIGN else f"{first} is no command that this test knows"
    if rest[0] == "-m":
        tool, rest = " ".join(rest[:2]), rest[2:]
        if not tool.startswith("-m mmsema"):
            return None
        if importlib.util.find_spec(tool.split()[1]) is None:
            return f"there is no module {tool}"
        if tool == "-m mmsema.collect_env":
            return f"{tool} takes no arguments" if rest else None
    else:
        tool, rest = rest[0], rest[1:]
        if not (ROOT / tool).is_file():
            return f"{tool} is not there"
    options = [word.split("=")[0] for word in rest if word.startswith("--")]
    known = re.findall(r"--[\w-]+", help_of(tool)) if options else []
    wrong = [option for option in options if option not in known]
    return f"{tool} has no option {wrong[0]}" if wrong else None


def test_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= SCREENS


@pytest.mark.slow
def test_commands_name_what_is_there():
    found = commands()
    assert len(found) > 50
    wrong = [f"{block}: {block.text}: {reason}" for block in found if (reason := fault(block.text))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("command, said", [
    ("python -m mmsema.collect_env", "No problem found."),
    pytest.param(
        "python tools/analysis_tools/get_flops.py sema-t_8xb128_in1k", "24,392,200", marks=needs_module_tracker
    ),
])  # fmt: skip
def test_cheap_commands_run(command, said):
    assert command in [block.text.strip() for block in commands()]
    done = run(sys.executable, *command.split()[1:], cwd=ROOT)
    assert said in done.stdout, done.stdout + done.stderr


def test_files_that_are_named_are_there():
    found = named_files()
    assert len(found) > 50
    wrong = [f"{b}: {b.text}" for b in found if not any(ROOT.glob(b.text.rstrip("/.,:").split("::")[0]))]
    assert not wrong, "\n".join(wrong)


def test_configs_that_are_named_are_there():
    stems = {path.stem for path in (ROOT / "configs").glob("*.py")}
    words = [Block(b.page, b.line, word) for b in (*spans(), *commands()) for word in b.text.split()]
    found = [b for b in words if re.fullmatch(r"(sema-|mask-rcnn_sema-|retinanet_sema-|upernet_sema-)[\w-]+", b.text)]
    assert len(found) > 5
    assert not [f"{b}: {b.text}" for b in found if b.text not in stems]


def test_extras_that_are_named_are_there():
    extras = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
    texts = "".join(page.read_text() for page in PAGES)
    used = {extra for found in re.findall(r'"(?:\.|mmsema)\[([\w,]+)\]"', texts) for extra in found.split(",")}
    assert {"onedl", "openmmlab", "seg", "export"} <= used <= extras


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or something in one, or is registered under its last part."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        if found is not None:
            return True
    registries = [value for value in vars(registry).values() if isinstance(value, Registry)]
    for one in registries:
        one.import_from_location()
    return any(parts[-1] in one.module_dict for one in registries)


def test_python_names_are_there():
    found = [
        Block(s.page, s.line, m)
        for s in spans()
        for m in re.findall(r"^mmsema(?:_kernels)?(?:\.(?!log\b)\w+)+", s.text)
    ]
    assert len(found) > 5
    assert not [f"{block}: {block.text}" for block in found if not resolves(block.text)]


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_scripts_import_what_is_there(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            if any(alias.name == "onnxruntime" for alias in node.names):
                pytest.importorskip("onnxruntime")
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), block.text


@pytest.mark.parametrize("block", CONFIG_BLOCKS, ids=str)
def test_configs_build(block, tmp_path):
    """A whole config, or one setting for any model with a backbone."""
    if "mmseg::" in block.text:
        pytest.importorskip("mmseg")
    text = re.sub(r'^_base_ = "(?!\w+::)', f'_base_ = "{ROOT}/configs/', block.text)  # beside ours
    (tmp_path / "config.py").write_text(text)
    cfg = Config.fromfile(str(tmp_path / "config.py"))
    init_default_scope(cfg.get("default_scope", "mmengine"))
    if "model" in cfg:
        model = MODELS.build(cfg.model)
        assert isinstance(model.backbone, mmsema.SEMA)
    else:
        model = torch.nn.Module()
        model.backbone = mmsema.SEMA("pico")
    if "optim_wrapper" in cfg:
        build_optim_wrapper(model, cfg.optim_wrapper)


def test_readmes_operator():
    (block,) = [block for block in SCRIPTS if block.page.name == "README.md" and block.page.parent == ROOT]
    scope: dict = {}
    exec(block.text, scope)
    assert f"# {tuple(scope['out'].shape)}" in block.text
    from mmsema_kernels import sema_attention_reference

    torch.testing.assert_close(scope["out"], sema_attention_reference(scope["q"], scope["k"], scope["v"]))


def test_api_page_has_every_public_name():
    page = (ROOT / "docs/api.md").read_text()
    for module in (
        "mmsema_kernels",
        "mmsema.apis",
        "mmsema.audit",
        "mmsema.checkpoint",
        "mmsema.engine",
        "mmsema.models",
    ):
        known = importlib.import_module(module)
        names = [
            name
            for name in known.__all__
            if inspect.isroutine(getattr(known, name)) or inspect.isclass(getattr(known, name))
        ]
        assert not [name for name in names if not re.search(rf":: {module}\.{name}$", page, re.MULTILINE)]


def test_table_of_arguments_is_the_signature():
    page = (ROOT / "docs/use_in_your_config.md").read_text().split("## Arguments")[1].split("\n## ")[0]
    shown = re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", page, re.MULTILINE)
    parameters = list(inspect.signature(mmsema.SEMA).parameters.values())
    assert [name for name, _ in shown] == [one.name for one in parameters]
    assert [ast.literal_eval(default) for _, default in shown] == [one.default for one in parameters]


def test_drawings_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    for path, text in importlib.import_module("make_figures").render().items():
        assert path.read_text() == text, f"{path.name} is out of date, run: python docs/make_figures.py"


def test_public_ci_runs_what_ours_does():
    """The workflow and .ci/run call the same two commands, on the Python versions that setup.py names."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]
    steps = [step["run"].split(" PYTHON=")[0] for step in workflow["steps"] if "run" in step]
    ours = [line.replace("exec ", "") for line in (ROOT / ".ci/run").read_text().splitlines() if "make " in line]
    assert steps == ours == ["make lint", "make test"]
    pythons = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text())
    assert set(pythons) <= set(workflow["strategy"]["matrix"]["python"])


def test_hooks_call_what_lint_calls():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = (ROOT / "Makefile").read_text().replace("$(VENV_PYTHON)", ".venv/bin/python")
    for hook in hooks:
        part = f"\n{hook['entry'].split()[1]}:" if hook["entry"].startswith("make ") else hook["entry"]
        assert re.search(re.escape(part) + r"\s", recipe), hook["entry"]
