"""Cuts what tests need out of KubeRay's definitions: python -m tests.deploy.kuberay.extract CRDS

CRDS is `helm-chart/kuberay-operator/crds` of a checkout of github.com/ray-project/kuberay (Apache
License 2.0, see NOTICE beside this file). A definition is 1 MB, most of it what Kubernetes says of
a pod's template, of which there are many copies; the tests check those against Kubernetes' own
schema, so here only `{"x-is": "PodTemplateSpec"}` is left of each. What only the operator writes
is left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
KINDS = ("RayCluster", "RayJob", "RayService")


def extract(definition: dict[str, Any]) -> dict[str, Any]:
    """The schema of version v1 without templates of pods, descriptions and status."""
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]
    return _cut(schema)


def _cut(node: Any) -> Any:
    if isinstance(node, list):
        return [_cut(each) for each in node]
    if not isinstance(node, dict):
        return node
    if _is_template(node):
        return {"x-is": "PodTemplateSpec"}
    return {name: _cut(value) for name, value in node.items() if name != "description"}


def _is_template(node: dict[str, Any]) -> bool:
    parts = node.get("properties")
    if not isinstance(parts, dict) or not isinstance(parts.get("spec"), dict):
        return False
    return "containers" in parts["spec"].get("properties", {})


def main(folder: Path) -> None:
    """Write one file a kind."""
    for kind in KINDS:
        path = folder / f"ray.io_{kind.lower()}s.yaml"
        schema = extract(yaml.safe_load(path.read_text()))
        text = json.dumps(schema, sort_keys=True, separators=(",", ":"))
        (HERE / f"{kind}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
