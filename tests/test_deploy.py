"""What runs the server elsewhere: as far as it can be checked where neither systemd nor Docker runs."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.models.embedded import INSTALL
from fieldstone.settings import resolve_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "fieldstone.service").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
TRIED = {"models.generator": "http://vllm:8000/v1#local", "search.store": "qdrant://qdrant:6333"}


def is_a_command(arguments):
    """Whether Fieldstone takes these, as far as the workspace, which is not there."""
    done = CliRunner(env={"FIELDSTONE_KEYS": "/nowhere"}).invoke(app, arguments)
    assert "there is no workspace at" in done.output, done.output


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_the_unit_is_one(tmp_path):
    unit = tmp_path / "fieldstone.service"
    unit.write_text(UNIT.replace("/opt/fieldstone/bin/fieldstone", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_starts_a_server():
    _, *arguments = shlex.split(re.search("^ExecStart=(.+)$", UNIT, re.MULTILINE)[1])
    is_a_command(arguments)


def test_the_compose_file_fits_together():
    services = COMPOSE["services"]
    assert {name: its.get("profiles") for name, its in services.items()} == {
        "fieldstone": None,
        "vllm": ["vllm"],
        "qdrant": ["qdrant"],
    }
    for its in services.values():
        assert set(its["networks"]) <= set(COMPOSE["networks"])
        named = [its for its in its["volumes"] if its[0] not in "./$"]
        assert {volume.split(":")[0] for volume in named} <= set(COMPOSE["volumes"])
    ours = services["fieldstone"]
    assert (DEPLOY / ours["build"]["context"] / ours["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert all(port.startswith("127.0.0.1:") for port in ours["ports"])
    assert COMPOSE["networks"]["inside"]["internal"]
    assert all(services[name]["networks"] == ["inside"] for name in ("vllm", "qdrant"))
    is_a_command(ours["command"])


def test_what_the_workspace_is_told_are_settings():
    told = [name for name in COMPOSE["services"]["fieldstone"]["environment"] if "__" in name]
    told += re.findall(r"(FIELDSTONE_\w+__\w+)=", DOCKERFILE)
    assert len(told) == 3
    docs = (ROOT / "docs" / "serve.md").read_text()
    for name in told:
        place = name.removeprefix("FIELDSTONE_").lower().replace("__", ".")
        value = TRIED.get(place, "0.0.0.0")
        assert place == "serve.host" or f"{name}={value}" in docs
        settings = resolve_settings(environment={name: value})
        section, key = place.split(".")
        assert getattr(getattr(settings, section), key) == value


def test_the_image_has_what_it_needs():
    copied = [
        name for line in re.findall(r"^COPY (?!--)(.+)", DOCKERFILE, re.MULTILINE) for name in line.split()
    ]
    assert all((ROOT / name).exists() for name in copied)
    let_in = re.findall("^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(let_in) == set(copied) - {"./"}
    assert INSTALL in DOCKERFILE
    assert "/readyz" in DOCKERFILE.partition("HEALTHCHECK")[2]
    assert re.search("^USER (?!root)", DOCKERFILE.rpartition("FROM")[2], re.MULTILINE)
    is_a_command(yaml.safe_load(re.search("^CMD (.+)$", DOCKERFILE, re.MULTILINE)[1]))


def test_the_federation_fits_together():
    whole = yaml.safe_load((DEPLOY / "federation.yaml").read_text())
    services = whole["services"]
    assert set(services) == {"coordinator", "site"}
    for its in services.values():
        assert (DEPLOY / its["build"]["context"] / its["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
        assert f"ARG {next(iter(its['build']['args']))}=" in DOCKERFILE
        assert {v.split(":")[0] for v in its["volumes"] if v[0] not in "./$"} <= set(whole["volumes"])
        assert its["environment"]["FLWR_TELEMETRY_ENABLED"] == "0"
        assert its["healthcheck"]["disable"]  # the image's would ask a server
    for name, verb in (("coordinator", "run"), ("site", "join")):
        command = shlex.split(services[name]["command"])
        assert command[:2] == ["federate", verb]
        help_ = CliRunner().invoke(app, ["federate", verb, "--help"]).output
        assert all(option in help_ for option in command if option.startswith("--"))
    _, *settings = services["coordinator"]["command"].split(" --set ")
    resolve_settings(flags=settings)
    assert f"--set {' --set '.join(settings)}" in (ROOT / "docs" / "federate.md").read_text()
    is_a_command(shlex.split(services["site"]["command"].replace("${COORDINATOR:-coordinator:9092}", "c:1")))
