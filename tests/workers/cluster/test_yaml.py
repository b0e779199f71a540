"""The cluster's file as Ray's own launcher reads it."""

import shlex
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parents[3] / "ray_cluster.yaml"


@pytest.fixture(scope="module")
def written() -> dict:
    return yaml.safe_load(PATH.read_text())


@pytest.fixture
def prepared(written) -> dict:
    return prepare_config(written)


def starts(config: dict, role: str) -> list[str]:
    [command] = [c for c in config[f"{role}_start_ray_commands"] if "ray start" in c]
    return shlex.split(command)


def test_the_launcher_accepts_it(prepared):
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


def test_the_launcher_refuses_a_broken_one(written):
    with pytest.raises(Exception, match="unknown_key"):
        validate_config(prepare_config({**written, "unknown_key": 1}))


def test_the_three_kinds_of_node_have_the_resources_we_ask_for(prepared):
    kinds = {name: kind["resources"] for name, kind in prepared["available_node_types"].items()}
    assert kinds["head"]["CPU"] == 0
    assert kinds["decode"]["decoding"] == kinds["decode"]["CPU"]
    assert "GPU" not in kinds["decode"]
    assert kinds["gpu"]["GPU"] == 1
    assert "decoding" not in kinds["gpu"]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_node_starts_with_the_token_on(prepared, role):
    command = starts(prepared, role)
    assert command[0] == "RAY_AUTH_MODE=token"
    assert "--disable-usage-stats" in command
    assert prepared["file_mounts"]["~/.ray/auth_token"].endswith(".ray/auth_token")


def test_the_dashboard_stays_on_the_loopback_interface(prepared):
    assert "--dashboard-host=127.0.0.1" in starts(prepared, "head")


def test_the_options_of_ray_start_exist(prepared):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for role in ("head", "worker"):
        options = {word.split("=")[0] for word in starts(prepared, role) if word.startswith("--")}
        assert options
        assert options <= known


def test_it_holds_no_secret(written):
    assert "RAY_AUTH_TOKEN" not in PATH.read_text()
