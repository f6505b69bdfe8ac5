"""Facts that several files of the project repeat are the same in all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.version import __version__

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"

if not WORKFLOW.exists():
    pytest.skip("a source distribution does not hold the files that are for GitHub", allow_module_level=True)


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_newest_version_of_the_changelog_is_the_version_of_the_package():
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == __version__
    dates = [date for _, date in headings[1:]]
    assert all(dates), "a released version has a date"
    assert dates == sorted(dates, reverse=True)
    citation = read_yaml(ROOT / "CITATION.cff")
    assert (citation["version"], str(citation["date-released"])) == headings[1]


def test_the_version_is_defined_in_one_file():
    assert "version" not in project()["project"]
    assert project()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gpt1.version.__version__"}


def test_the_workflow_tests_every_python_that_the_package_names():
    named = [c.rpartition(" ")[2] for c in project()["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert read_yaml(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert project()["project"]["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/workflows/ci.yml", "README.md"])
def test_every_make_target_that_is_named_exists(name: str):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|run: )make ([a-z-]+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


def test_every_package_that_the_project_asks_for_is_pinned():
    pinned = {normalize_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text("utf-8").split()}
    table = project()["project"]
    groups = [table["dependencies"], *table["optional-dependencies"].values()]
    requirements = {normalize_name(re.split(r"[<>=[]", one)[0]) for group in groups for one in group} - {
        "gpt1"
    }  # its own extras
    assert requirements <= pinned, requirements - pinned


def normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[bf]*.yml")), ids=lambda p: p.name)
def test_an_issue_form_asks_with_fields_of_different_names(path: Path):
    form = read_yaml(path)
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_a_bug_form_asks_for_the_command_its_output_the_version_and_the_platform():
    form = read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")
    required = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert required == {"command", "output", "version", "platform"}
