"""The pages are correct: commands parse, link targets exist, settings exist, the Python examples run."""

from __future__ import annotations

import ast
import csv
import inspect
import json
import pydoc
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import gpt1
from gpt1.cli.main import cli as commands
from gpt1.config import FinetuneConfig, PretrainConfig, field_name, merge_settings
from gpt1.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
CONFIGS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
MACHINE = re.compile(r"(?<![\w.])/(work|tmp|home|root|Users|mnt)/\w|\bvenv/bin\b(?!/activate)|[A-Z]:\\")

each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


@dataclass(frozen=True)
class Block:
    """The text between two fences."""

    language: str
    line: int
    lines: list[str]


def blocks_and_prose(page: Path) -> tuple[list[Block], str]:
    blocks: list[Block] = []
    prose: list[str] = []
    inside: Block | None = None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            if inside:
                blocks.append(inside)
                inside = None
            else:
                inside = Block(line.strip().removeprefix("```"), number + 1, [])
        elif inside:
            inside.lines.append(line)
        else:
            prose.append(line)
    assert inside is None, f"{page.name}: the fence of line {inside.line} is not closed"
    return blocks, "\n".join(prose)


def command_lines(block: Block) -> Iterator[tuple[int, str]]:
    """(line, command): `gpt1 …` after a prompt, after `next:` or alone, with its continued lines."""
    whole, start = "", 0
    for number, line in enumerate(block.lines, block.line):
        line = re.sub(r"^\s*(\$ |next: )?", "", line)
        if not whole and not re.match(r"([A-Z_0-9]+=\S+ )*gpt1 ", line):
            continue
        whole, start = f"{whole} {re.split(r' {3,}', line)[0]}".strip(), start or number  # a remark has a gap before it
        if whole.endswith("\\"):
            whole = whole.removesuffix("\\").rstrip()
            continue
        yield start, whole
        whole, start = "", 0


def spans(prose: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def gpt1_calls(line: str) -> Iterator[list[str]]:
    """The words after `gpt1` of every command of a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    call: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if set(word) <= set("<>"):
            redirected = True
        elif set(word) <= set("|&;"):
            while call and re.fullmatch(r"[A-Z_0-9]+=.*", call[0]):
                del call[0]
            if call and call[0] == "gpt1":
                yield call[1:]
            call, redirected = [], False
        elif redirected:
            redirected = False
        else:
            call.append(word)


def list_options(command: click.Command) -> set[str]:
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in found if name.startswith("-")} | {"-h", "--help"}


def check_call(words: list[str], mention: bool) -> None:
    """AssertionError unless gpt1 takes these words. A mention in a sentence may name a command and no more; what is
    left out ([OPTIONS], …) is only asked whether its options exist."""
    if not words or words[0].startswith("-"):
        assert set(words) <= {"-h", "--help", "--version"}, words
        return
    assert words[0] in commands.commands, f"there is no command '{words[0]}'"
    command, rest = commands.commands[words[0]], words[1:]
    if (mention and not rest) or "--help" in rest:
        return
    if any(re.search(r"[\[\]…]|\.\.\.", word) for word in rest):
        flags = {word.strip("[]").partition("=")[0] for word in rest if word.lstrip("[").startswith("--")}
        assert flags <= list_options(command), flags - list_options(command)
        return
    try:
        given = command.make_context(words[0], list(rest)).params
        if config := CONFIGS.get(words[0]):
            names = config.__dataclass_fields__
            merge_settings(
                config, {name: value for name, value in given.items() if name in names and value is not None}
            )
    except (click.ClickException, UserError) as error:
        raise AssertionError(str(error)) from None


@each_page
def test_every_command_is_one_that_gpt1_takes(page: Path):
    blocks, prose = blocks_and_prose(page)
    lines = [(line, call, False) for block in blocks for line, call in command_lines(block)]
    lines += [(0, span, True) for span in spans(prose) if re.match(r"gpt1( |$)", span)]
    for line, text, mention in lines:
        for words in gpt1_calls(text):
            try:
                check_call(words, mention)
            except AssertionError as error:
                pytest.fail(f"{page.name}{f':{line}' if line else ''}: {text}\n{error}")


@each_page
def test_every_flag_in_a_sentence_is_a_flag_of_gpt1(page: Path):
    every = set().union(*(list_options(command) for command in commands.commands.values())) | {"--version"}
    for span in spans(blocks_and_prose(page)[1]):
        if span.startswith("--"):
            assert set(re.findall(r"--[a-z][\w-]*", span)) <= every, span


@each_page
def test_every_settings_file_holds_settings_with_allowed_values(page: Path):
    for block in blocks_and_prose(page)[0]:
        if block.language != "yaml":
            continue
        content = yaml.safe_load("\n".join(block.lines))
        taken = []
        for config in CONFIGS.values():
            try:
                taken.append(
                    merge_settings(config, {field_name(config, name): value for name, value in content.items()})
                )
            except UserError as error:
                reason = error
        assert taken, f"{page.name}:{block.line}: {reason}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).strip().lower()).replace(" ", "-")


def symbols(path: Path) -> set[str]:
    """What a file defines: functions, classes, `Class.method`, constants, `Class.field`."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{within}{node.name}.")
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(within + node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(within + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(path.read_text("utf-8")).body, "")
    return found


@each_page
def test_every_link_inside_the_project_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", blocks_and_prose(page)[1]):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target} does not exist"
        if there.suffix == ".py":  # `file.py#Class.method` names what the file defines
            assert not anchor or anchor in symbols(there), f"{page.name}: {name} defines no '{anchor}'"
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", blocks_and_prose(there)[1], re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target} has no such heading"


@each_page
def test_no_page_contains_a_path_of_a_local_machine(page: Path):
    assert not MACHINE.search(page.read_text("utf-8"))


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = {page.name for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb")]} - {"index.md"}
    pages |= {f"../{page.name}" for page in ROOT.glob("*.md")}
    assert pages <= set(re.findall(r"^- \[[^]]*\]\((\S+?)\)", index, re.M))  # of these docs/conf.py makes the sidebar


PAPER = [
    *(f"Equation {n}" for n in range(1, 6)),
    *(f"Figure {n}" for n in (1, 2)),
    *(f"Table {n}" for n in range(1, 6)),
    *(f"Section {n}" for n in ("3.1", "3.2", "3.3", "4.1", "5")),
]


def test_the_page_of_the_paper_links_each_equation_figure_table_and_section_to_code():
    page = (ROOT / "docs" / "paper.md").read_text("utf-8")
    top, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    by_title = {part.partition(":")[0]: part for part in parts}
    assert list(by_title) == PAPER
    for title, part in by_title.items():
        links = re.findall(r"\[`([\w.]+)`\]\(\.\./gpt1/\S+\.py#([\w.]+)\)", part)
        assert links, f"{title} leads to no code"
        assert all(text == anchor for text, anchor in links), links
        assert title.startswith(("Figure", "Table", "Section")) or "```math" in part
        assert f"(#{slug(part.splitlines()[0])})" in top, f"{title} is not in the table at the top"


def test_the_page_of_the_api_names_all_that_gpt1_exports():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert {f"gpt1.{name}" for name in gpt1.__all__ if name != "__version__"} <= set(re.findall(r":: (\S+)", page))
    blocks = re.split(r"^\.\. ", page, flags=re.MULTILINE)[1:]
    for name, block in ((re.findall(r":: (\S+)", block)[0], block) for block in blocks):
        documented = pydoc.locate(name)
        assert documented is not None, f"there is no {name}"
        for members in re.findall(r":members: (.+)", block):
            assert all(hasattr(documented, member) for member in members.split(", ")), f"{name}: {members}"


NOTEBOOKS = [pytest.param(path, id=path.name) for path in ROOT.glob("docs/*.ipynb")]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_holds_no_outputs_and_uses_names_that_exist(path: Path):
    """`make docs` runs it."""
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    modules: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt1"):
            for alias in node.names:
                found = pydoc.locate(f"{node.module}.{alias.name}")
                assert found is not None, f"{node.module} has no {alias.name}"
                modules[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("pretrain", "finetune"):
            given = (
                {keyword.arg for keyword in node.keywords} - list_parameters(modules[node.func.id]) - {"text", "label"}
            )
            assert given <= CONFIGS[node.func.id].__dataclass_fields__.keys(), given


def list_parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_the_ratios_of_the_readme_are_those_that_the_benchmarks_expect():
    expected = json.loads((ROOT / "benchmarks" / "expected.json").read_text("utf-8"))["ratios"].values()
    ratios = [ratio for of in expected for ratio in of.values()]
    table = next(part for part in (ROOT / "README.md").read_text("utf-8").split("## ") if part.startswith("Results"))
    quoted = re.findall(r"([\d.]+) ×(?! \d)", table)  # not "4 × 512"
    assert quoted
    for figure in quoted:
        decimals = len(figure.partition(".")[2])
        assert any(f"{ratio:.{decimals}f}" == figure for ratio in ratios), f"{figure} × is expected of no benchmark"


@pytest.mark.parametrize("name", ["settings", "commands"])
def test_generated_pages_are_up_to_date(name: str):
    script = ROOT / "docs" / f"make_{name}.py"
    expected: Callable[[], str] = runpy.run_path(str(script))["page"]
    on_disk = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    assert on_disk == expected(), f"write it again: python docs/make_{name}.py"


def test_one_script_takes_every_picture_of_the_servers_page():
    taken = runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))["PICTURES"]
    shown = re.findall(r"\]\((page-.+?\.png)\)", (ROOT / "docs" / "serving.md").read_text("utf-8"))
    assert shown == [f"page-{view}.png" for view in taken]
    assert set(shown) == {path.name for path in (ROOT / "docs").glob("page-*.png")}


@each_page
def test_lines_of_prose_have_at_most_100_characters(page: Path):
    unbroken = ("|", "!", "#", "<!--", "`")  # tables, pictures, headings, comments, long commands
    long = [line for line in blocks_and_prose(page)[1].splitlines() if len(line) > 100]
    assert [line for line in long if not line.startswith(unbroken)] == []


@each_page
def test_the_python_examples_of_a_page_compile(page: Path):
    for block in blocks_and_prose(page)[0]:
        if block.language == "python":
            compile("\n".join(block.lines), f"{page.name}:{block.line}", "exec")


def test_the_python_examples_of_using_run(
    prose: list[str], tiny_pretrain_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With models that take a second instead of those on the page."""
    pretrain, finetune = gpt1.pretrain, gpt1.finetune
    small = {"precision": "fp32", "device": "cpu"}

    def quick_pretrain(corpus: Any, **settings: Any) -> Path:
        merge_settings(
            PretrainConfig, {name: settings[name] for name in settings.keys() & PretrainConfig.__dataclass_fields__}
        )
        settings.pop("epochs", None)
        return pretrain(corpus, **{**settings, **tiny_pretrain_settings, "steps": 4})

    def quick_finetune(train_on: Any, **settings: Any) -> Path:
        return finetune(train_on, **{**settings, **small, "epochs": 1})

    monkeypatch.setattr(gpt1, "pretrain", quick_pretrain)
    monkeypatch.setattr(gpt1, "finetune", quick_finetune)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    for number, text in enumerate(prose):
        (tmp_path / "books" / f"{number}.txt").write_text(text, "utf-8")
    for name in ("reviews.csv", "test.csv"):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            rows = [
                (f"{name}: the {i}th is {'good' if i % 2 else 'bad'}", "pos" if i % 2 else "neg") for i in range(40)
            ]
            csv.writer(file).writerows([("text", "label"), *rows])
    page = ROOT / "docs" / "using.md"
    namespace: dict[str, Any] = {}
    blocks = [block for block in blocks_and_prose(page)[0] if block.language == "python"]
    assert blocks
    for block in blocks:
        exec(compile("\n" * (block.line - 1) + "\n".join(block.lines), str(page), "exec"), namespace)


def test_architecture_names_files_and_symbols_that_exist():
    _, prose = blocks_and_prose(ROOT / "ARCHITECTURE.md")
    files = [str(path.relative_to(ROOT)) for folder in ("gpt1", "tests") for path in (ROOT / folder).rglob("*.py")]
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "gpt1").rglob("*.py"))
    for span in spans(prose):
        if re.fullmatch(r"[\w/]+\.py", span):
            assert any(f"/{file}".endswith(f"/{span}") for file in files), span
        elif re.fullmatch(r"[A-Za-z_]\w+(\.\w+)*(\(\w*\))?", span) and "." not in span.removesuffix(".json"):
            assert re.search(rf"\b{re.escape(span.split('(')[0])}\b", source), span
        elif re.fullmatch(r"[A-Za-z_]\w+(\.\w+)+", span) and not span.endswith((".html", ".yaml", ".jsonl", ".json")):
            assert all(re.search(rf"\b{part}\b", source) for part in span.split(".")), span
