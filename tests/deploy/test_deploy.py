"""The files that start the server in containers: they parse, fit each other, and name nothing that does not exist."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.control.test_metrics import DOCUMENTED
from vecserver.cli.serve import serve
from vecserver.control.access.scopes import Scope
from vecserver.control.access.tokens import digest_of, read_tokens

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana/vecserver.json").read_text())
SERVICES = pytest.mark.parametrize("service", COMPOSE["services"].values(), ids=COMPOSE["services"])
KNOWN_KEYS = {
    *("build", "image", "restart", "stop_grace_period", "ports", "read_only", "tmpfs", "cap_drop", "security_opt"),
    *("depends_on", "command", "user", "volumes", "environment", "entrypoint"),
}


def samples() -> set[str]:
    """Every name that a sample can have."""
    ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {f"{name}{end}" for name, (kind, *_) in DOCUMENTED.items() for end in ends[kind]}


def expressions() -> list[str]:
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    variables = [each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return targets + [query["query"] for query in variables]


def test_every_metric_of_the_dashboard_exists():
    """And every figure of a pool that the document explains is on it, but for what does not change."""
    named = {name for text in expressions() for name in re.findall(r"\b(?:vecserver|process)_\w+", text)}
    assert named <= samples()
    shown = {name for name in DOCUMENTED if any(each.startswith(name) for each in named)}
    assert set(DOCUMENTED) - shown <= {
        *("vecserver_pool_workers", "vecserver_pool_creation_seconds", "vecserver_pool_resets"),
        *("vecserver_websockets_opened", "vecserver_openenv_sessions_started", "vecserver_insecure"),
        *(name for name in DOCUMENTED if name.startswith("process_")),
    }


@pytest.mark.parametrize("text", expressions())
def test_an_expression_is_whole_and_its_labels_exist(text):
    """Brackets close, and what is grouped by or matched is a label of one of its metrics."""
    assert all(text.count(opening) == text.count(closing) for opening, closing in ("()", "[]", "{}"))
    names = [name for name in DOCUMENTED if re.search(rf"\b{name}(_total|_bucket|_sum|_count)?\b", text)]
    labels = {label for name in names for label in DOCUMENTED[name][1]} | {"le", "job"}
    used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")}
    used |= set(re.findall(r"(\w+)=~?\"", text))
    assert used <= labels, used - labels


def test_panels_stand_beside_each_other():
    """Each has a number, a place, a unit, a description and a query, and none covers another."""
    taken = set()
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_grafana_finds_its_data_and_its_dashboard():
    """What is provisioned is what compose.yaml mounts and serves, and what the dashboard asks for."""
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/vecserver.yaml").read_text())[
        "providers"
    ]
    grafana = COMPOSE["services"]["grafana"]
    mounted = {volume.split(":")[1] for volume in grafana["volumes"]}
    assert f"{provider['options']['path']}/vecserver.json" in mounted
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted
    assert source["url"] == "http://prometheus:9090"
    variable = next(each for each in DASHBOARD["templating"]["list"] if each["name"] == "datasource")
    assert (variable["query"], variable["current"]["value"]) == (source["type"], source["uid"])


def test_prometheus_scrapes_the_server():
    """By its service's name, on its port, at its path."""
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["vecserver:8000"]}]
    assert job["metrics_path"] == "/metrics"
    assert set(config) <= {"global", "scrape_configs"}
    assert job["authorization"] == {"credentials_file": "/etc/prometheus/tokens/prometheus"}


def test_prometheus_has_a_token_that_the_server_takes(tmp_path):
    """What ``tokens`` runs makes both ends of it, in the volume that both mount, once."""
    services = COMPOSE["services"]
    (line,) = services["tokens"]["command"]
    (tmp_path / "tokens").mkdir()
    run = (*services["tokens"]["entrypoint"], line)
    paths = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    (tmp_path / "vecserver").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vecserver "$@"\n')
    (tmp_path / "vecserver").chmod(0o700)
    for _ in range(2):
        subprocess.run(run, cwd=tmp_path, check=True, env={**os.environ, "PATH": paths})
        (token,) = read_tokens(tmp_path / "tokens/tokens.toml")
        secret = (tmp_path / "tokens/prometheus").read_text().strip()
        assert (token.name, token.scope, token.sha256) == ("prometheus", Scope.READ, digest_of(secret))
    (at_server,) = (volume for volume in services["vecserver"]["volumes"] if volume.startswith("tokens:"))
    (at_prometheus,) = (volume for volume in services["prometheus"]["volumes"] if volume.startswith("tokens:"))
    assert services["vecserver"]["command"][-1] == at_server.split(":")[1] + "/tokens.toml"
    assert at_prometheus.split(":")[1] == "/etc/prometheus/tokens"


def test_compose_has_its_services_and_their_volumes():
    """Each volume that is mounted is declared, and each file is there."""
    assert set(COMPOSE) == {"name", "services", "volumes"}
    assert set(COMPOSE["services"]) == {"tokens", "vecserver", "prometheus", "grafana"}
    mounted = [volume.split(":") for service in COMPOSE["services"].values() for volume in service.get("volumes", [])]
    named = {source for source, *_ in mounted if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    for source, target, *mode in mounted:
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], source
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", [])) <= set(COMPOSE["services"])


@SERVICES
def test_a_service_is_shut_in(service):
    """Known keys, a version that is pinned, ports of this machine alone, no root, nothing to write but its volumes."""
    assert set(service) <= KNOWN_KEYS
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), port
        assert port.split(":")[1] == port.split(":")[2], "a client takes the port from the server"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "build" in service or not service["user"].startswith("0")
    assert "privileged" not in service


def test_the_image_is_what_it_is_said_to_be():
    """Two stages of a slim image, extras as an argument, user 1000, port 8000, its own health check."""
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert stages == ["python:${PYTHON}", "python:${PYTHON}"]
    assert re.search(r"^ARG PYTHON=3\.\d+-slim$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^ARG EXTRAS=\S*\bweb\b", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^USER 1000$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^EXPOSE 8000 9000-9063$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*\\\n.*'/health'", DOCKERFILE, re.MULTILINE)
    assert "latest" not in DOCKERFILE
    published = COMPOSE["services"]["vecserver"]["ports"]
    assert [port.split(":")[2] for port in published] == re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[
        0
    ].split()


def test_the_images_command_has_options_that_exist():
    """Of ``vecserver serve``."""
    words = json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    words += json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    assert words[:2] == ["tini", "-g"]
    assert words[3:5] == ["vecserver", "serve"]
    known = {f"--{name.replace('_', '-')}" for name in serve.__annotations__}
    assert {word for word in words[5:] if word.startswith("--")} <= known


def test_the_build_takes_what_the_dockerfile_needs():
    """Each path that is let through exists, and nothing else reaches a builder."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    let_through = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert all((ROOT / path).exists() for path in let_through)
    assert {"pyproject.toml", "constraints.txt", "vecserver", "clients"} <= set(let_through)


def test_a_space_is_one_of_openenvs():
    """The front matter that Hugging Face reads, and the file that OpenEnv's tools do."""
    readme = (ROOT / "deploy/huggingface/README.md").read_text()
    _, front, body = readme.split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["sdk"], front["app_port"], front["base_path"]) == ("docker", 8000, "/web")
    assert "openenv" in front["tags"]
    assert len(front["short_description"]) <= 60
    assert front["colorFrom"] in {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert body.lstrip().startswith("# vecserver")
    described = yaml.safe_load((ROOT / "deploy/huggingface/openenv.yaml").read_text())
    module, _, name = described.pop("app").partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert described == {
        "spec_version": 1,
        "name": "vecserver",
        "type": "space",
        "runtime": "fastapi",
        "port": front["app_port"],
    }
