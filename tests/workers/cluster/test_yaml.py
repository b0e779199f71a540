"""The cluster's file as Ray's own launcher reads it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private import aws
from ray.autoscaler._private.util import prepare_config, validate_config

from pipeline.settings import load_settings

CLONE = Path(__file__).parents[3]
PATH = CLONE / "ray_cluster.yaml"


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


def test_the_head_has_what_it_asks_its_cloud_for_machines_by(prepared):
    """Ray imports it where a node provider of AWS is made, and does not depend on it."""
    assert prepared["provider"]["type"] == "aws"
    source = Path(aws.__file__).with_name("config.py").read_text()
    assert "import boto3" in source
    assert any("boto3" in command for command in prepared["head_setup_commands"])


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


def test_sessions_ask_for_what_decoding_nodes_alone_declare(prepared):
    kinds = prepared["available_node_types"]
    asked = load_settings(CLONE / "configs" / "cluster.yaml").cluster_settings().session_resources
    assert asked == {"decoding": 1.0}
    for name, kind in kinds.items():
        can = all(kind["resources"].get(key, 0) >= count for key, count in asked.items())
        assert can == (name == "decode")


def test_the_config_names_a_redis_that_all_nodes_reach():
    url = load_settings(CLONE / "configs" / "cluster.yaml").store.url
    assert re.match(r"rediss?://(?!localhost|127\.)", url)


def test_what_is_mounted_is_in_the_clone_or_made_by_make_wheel(prepared):
    mounted = {local for local in prepared["file_mounts"].values() if not local.startswith("~")}
    assert {local for local in mounted if not (CLONE / local).exists()} <= {"build/wheel"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_commands_install_the_clone_and_ask_no_index(prepared, tmp_path):
    """As on a node: the mounts in a home folder, the commands in a shell, no index to ask."""
    home = tmp_path / "home"
    build = [sys.executable, "-m", "build", "--quiet", "--outdir", str(tmp_path / "wheel"), "."]
    subprocess.run(build, cwd=CLONE, check=True, timeout=300)
    shutil.copy(CLONE / "constraints.txt", tmp_path / "wheel")
    for remote, local in prepared["file_mounts"].items():
        source = tmp_path / "wheel" if local == "build/wheel" else CLONE / local
        target = home / remote.removeprefix("~/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not local.startswith("~"):
            shutil.copytree(source, target)
    subprocess.run([sys.executable, "-m", "venv", home / "aot-env"], check=True, timeout=120)
    aged = [home / "aot-env" / "bin" / "pip", "uninstall", "-q", "-y", "setuptools"]
    subprocess.run(aged, check=True, timeout=120)  # older than what torch asks for
    [site] = (home / "aot-env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    clean = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    variables = {**clean, "HOME": str(home), "PIP_NO_INDEX": "1"}
    (home / ".bashrc").touch()

    for command in prepared["setup_commands"]:
        subprocess.run(["bash", "-c", command], env=variables, cwd=home, check=True, timeout=300)

    config = "~/aot-stream/configs/cluster.yaml"
    said = subprocess.run(
        ["bash", "-c", f". ~/.bashrc; which aot; aot config --config {config} --json"],
        env=variables,
        cwd=home,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.stdout.startswith(str(home / "aot-env" / "bin" / "aot"))
    assert "decoding" in said.stdout
    assert "RAY_AUTH_MODE=token" in (home / ".bashrc").read_text()
    assert (site / "pipeline" / "cli" / "__init__.py").exists()


def test_it_holds_no_secret(written):
    assert "RAY_AUTH_TOKEN" not in PATH.read_text()
