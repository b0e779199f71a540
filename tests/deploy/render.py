"""The chart as Helm renders it: python -m tests.deploy.render writes deploy/kuberay.yaml anew.

Helm's own code runs, as a library (helm-python-sdk), in a process of its own: a Go runtime does not
live well beside others that fork.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "chart"
MANIFEST = ROOT / "deploy" / "kuberay.yaml"
HEAD = """\
# What `helm template aot deploy/chart --namespace aot` makes of the chart's own values, with one
# stream, for those who do without Helm: kubectl apply --namespace aot -f deploy/kuberay.yaml
# Written by `make drawings`: change the chart. The secrets it names: docs/deployment.md.
"""
EXAMPLE = {"streams": [{"name": "gate", "urlSecret": {"name": "cameras", "key": "gate"}}]}
_RENDER = """
import json, sys
from helm_python import Chart
with Chart.load(sys.argv[1]) as chart:
    print(json.dumps(chart.render(values=json.load(sys.stdin), name="aot", namespace="aot")))
"""
_LINT = """
import json, sys
from helm_python.chart import lint
print(json.dumps(lint(sys.argv[1], json.load(sys.stdin), strict=True)))
"""


class RenderError(Exception):
    """What Helm said."""


def render(values: dict[str, Any]) -> dict[str, str]:
    """Text by the template's name.

    Raises:
        RenderError: Helm refuses the values or a template.
    """
    return _run(_RENDER, values)


def lint(values: dict[str, Any]) -> dict[str, Any]:
    """What `helm lint --strict` finds."""
    return _run(_LINT, values)


def documents(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that would be applied."""
    texts = [text for name, text in render(values).items() if name.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def manifest() -> str:
    """The text of deploy/kuberay.yaml."""
    texts = render(EXAMPLE)
    kept = [texts[name].strip() for name in sorted(texts) if name.endswith(".yaml")]
    lines = [line.rstrip() for text in kept if text for line in ("---", *text.splitlines())]
    return HEAD + "\n".join(line for line in lines if line) + "\n"


def _run(program: str, values: dict[str, Any]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program, str(CHART)],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RenderError(done.stderr.strip())
    return json.loads(done.stdout)


if __name__ == "__main__":
    MANIFEST.write_text(manifest())
