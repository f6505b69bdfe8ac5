"""The distributions: what they hold, and that gpt1 runs where nothing but its wheel was installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpt1.version import __version__

ROOT = Path(__file__).parents[1]
COPIED = ("gpt1", "tests", "docs", "benchmarks", "deploy")
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "_build", "results")
LOAD_EVERYTHING = """
import importlib.resources, pkgutil, gpt1
from gpt1.report.page import Page
from gpt1.serving.app import STATIC
from gpt1.serving.page_files import page_routes
assert "a title" in Page("a title").render()
assert {route.path for route in page_routes(STATIC)} >= {"/", "/app.js", "/vendor/vendor.json"}, STATIC
assert (importlib.resources.files("gpt1") / "py.typed").is_file()
for module in pkgutil.walk_packages(gpt1.__path__, "gpt1."):
    importlib.import_module(module.name) if module.name != "gpt1.__main__" else None
print(gpt1.__file__)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("build"), reason="build is not installed: pip install build"),
]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that has to succeed; it does not see this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    for path in ROOT.iterdir():  # a build leaves files in its folder
        if path.name in COPIED:
            shutil.copytree(path, folder / "source" / path.name, ignore=NOT_SOURCE)
        elif path.is_file() and not path.name.startswith("."):
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(path, folder / "source")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source", cwd=folder)
    return folder / "dist"


def sources(folder: Path, *, code_only: bool = False) -> set[str]:
    """The files that a checkout has below `folder`, relative to the checkout."""
    files = {path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in files if not code_only or path.suffix == ".py"}


def test_the_wheel_holds_the_package_and_nothing_else(distributions: Path):
    wheel = distributions / f"gpt1-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources(Path("gpt1"))


def test_the_source_distribution_holds_what_its_tests_and_documentation_need(distributions: Path):
    with tarfile.open(distributions / f"gpt1-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = (
        sources(Path("gpt1")) | sources(Path("tests"), code_only=True) | sources(Path("benchmarks"), code_only=True)
    )
    assert needed <= names, needed - names
    assert {"Makefile", "constraints.txt", "ARCHITECTURE.md", "CHANGELOG.md", "docs/index.md", "LICENSE"} <= names


@pytest.fixture(scope="module")
def command_folder(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a new environment in which the wheel was installed.

    Its dependencies are those of this environment, whose path is added after the wheel was installed.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (wheel,) = distributions.glob("*.whl")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (own,) = folder.glob("lib/python3.*/site-packages")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in packages))
    return python.parent


def test_the_command_runs_in_an_empty_environment(command_folder: Path, tmp_path: Path):
    assert __version__ in run(command_folder / "gpt1", "--version", cwd=tmp_path)
    assert "finetune" in run(command_folder / "gpt1", "--help", cwd=tmp_path)
    assert "RUN" in run(command_folder / "gpt1", "serve", "--help", cwd=tmp_path)
    (tmp_path / "texts.txt").write_text("A text about the files of a folder.\n" * 50)
    run(command_folder / "gpt1", "tokenize", "texts.txt", "--out", "corpus", "--vocab-size", "300", cwd=tmp_path)
    assert (tmp_path / "corpus" / "manifest.json").exists()


def test_every_module_page_and_template_is_installed(command_folder: Path, tmp_path: Path):
    where = run(command_folder / "python", "-c", LOAD_EVERYTHING, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(command_folder.parent)


def test_extras_are_named_in_the_metadata(distributions: Path):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"gpt1-{__version__}.dist-info/METADATA").decode()
    extras = {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Provides-Extra")}
    assert extras >= {"serve", "sklearn", "hub", "onnx", "eval", "track", "ray", "excel", "all"}
