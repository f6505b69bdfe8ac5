"""The files for containers and clusters: valid, and in agreement with the server that they start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.cli.serve import serve
from gpt1.serving.app import create_app
from gpt1.serving.metrics import Metrics
from gpt1.serving.models import ServedModels
from gpt1.serving.settings import serve_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"

if not (ROOT / ".github").exists():
    pytest.skip("a source distribution does not hold the files that are for GitHub", allow_module_level=True)


def command(name: str) -> str:
    """A command that a package of Python installed; the test is skipped without it."""
    if not (found := shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)):
        pytest.skip(f"{name} is not installed: pip install 'gpt1[test]'")
    return found


def read(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def objects() -> dict[str, Any]:
    """The objects of the Kubernetes manifest, by kind."""
    return {one["kind"]: one for one in read("kubernetes.yaml")}


def pod() -> Any:
    return objects()["Deployment"]["spec"]["template"]["spec"]


def serve_commands() -> list[tuple[str, list[str]]]:
    (container,) = pod()["containers"]
    return [("kubernetes", container["args"]), ("compose", read("compose.yaml")[0]["services"]["server"]["command"])]


def test_hadolint_finds_nothing_in_the_dockerfile():
    found = subprocess.run([command("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("schema", "path"),
    [("compose-spec", "deploy/compose.yaml"), ("github-workflows", ".github/workflows/ci.yml")],
)
def test_a_file_follows_the_schema_of_its_format(schema: str, path: str):
    checked = [command("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", ROOT / path]
    found = subprocess.run(checked, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(not find_spec("kubernetes_validate"), reason="pip install kubernetes-validate (110 MB)")
def test_kubernetes_accepts_every_object_of_the_manifest():
    import kubernetes_validate

    for one in read("kubernetes.yaml"):
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'gpt1[ray]'")
def test_ray_serve_accepts_its_config_file():
    from ray.serve.schema import ServeDeploySchema

    (content,) = read("ray.yaml")
    accepted = ServeDeploySchema.model_validate(content)
    assert [one.name for one in accepted.applications[0].deployments] == ["gpt1"]


@pytest.mark.parametrize(("name", "words"), serve_commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_server_knows_the_flags_of_a_file(name: str, words: list[str]):
    assert words[0] == "serve"
    given = serve.make_context("serve", words[1:]).params
    config = serve_settings({key: value for key, value in given.items() if key not in ("runs", "verify")})
    assert not config.is_loopback


def test_the_server_knows_the_settings_of_the_ray_file_which_leaves_it_time():
    (content,) = read("ray.yaml")
    (application,) = content["applications"]
    config = serve_settings({name: value for name, value in application["args"].items() if name != "runs"})
    (deployment,) = application["deployments"]
    assert content["http_options"]["request_timeout_s"] > config.timeout
    assert content["http_options"]["host"] == application["args"]["host"]
    assert deployment["graceful_shutdown_timeout_s"] >= config.drain_timeout
    assert deployment["max_ongoing_requests"] <= config.max_queue


def test_probes_ask_for_paths_that_the_server_has(workspace: Path):
    config, metrics = serve_settings({}), Metrics()
    models = ServedModels([workspace / "runs"], config, metrics)
    paths = create_app(models, config, None, metrics, print).app.openapi()["paths"]
    models.close()
    (container,) = pod()["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/health/ready", "readiness": "/health/ready", "liveness": "/health/live"}
    assert {*probes.values()} <= paths.keys()
    assert "/health/live" in (ROOT / "Dockerfile").read_text()


def test_a_server_has_the_time_to_answer_what_it_accepted():
    words = pod()["containers"][0]["args"]
    drain = float(words[words.index("--drain-timeout") + 1])
    wait = pod()["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > drain + wait
    grace = read("compose.yaml")[0]["services"]["server"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > serve_settings({}).drain_timeout


def test_the_objects_of_the_manifest_belong_together():
    labels = objects()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects()["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert objects()["Service"]["spec"]["selector"] == labels
    scaled = objects()["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == objects()["Deployment"]["metadata"]["name"]
    assert "replicas" not in objects()["Deployment"]["spec"], "the autoscaler decides"
    assert pod()["containers"][0]["resources"].keys() == {"requests", "limits"}


def test_no_container_runs_as_root_or_writes_its_image():
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    server = read("compose.yaml")[0]["services"]["server"]
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert f"USER {pod()['securityContext']['runAsUser']}" in lines


def test_the_image_holds_everything_that_its_dockerfile_copies():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {path.partition("/")[0] for path in copied} == sent
    assert all((ROOT / path).exists() for path in copied)
