"""The chart and its manifest: Helm's own code renders, Kubernetes' and KubeRay's schemas judge.

No cluster is here: that pods start is not shown by this.
"""

import importlib.util
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.ingest.fleet import STOP_S
from pipeline.settings import StreamSettings, load_settings
from pipeline.values.labels import selector_of
from tests.deploy import render as helm

kubernetes_validate = pytest.importorskip("kubernetes_validate")
HERE = Path(__file__).parent
VERSION = "1.31"
CPU = {"nvidia.com/gpu": "0"}

SETS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "one stream": helm.EXAMPLE,
    "everything on": {
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
        "model": {"cacheClaim": "models", "tokenSecret": {"name": "hub", "key": "token"}},
        "streams": [
            {"name": "gate", "url": "rtsp://10.0.0.21:554/sub", "fps": 0.5, "hold_still": True},
            {"name": "yard", "urlSecret": {"name": "cameras", "key": "yard"}},
            {
                "name": "dock",
                "url": "rtsp://10.1.0.9/sub",
                "label_selector": {"site": "north"},
                "label_fallback": True,
            },
        ],
        "networks": ["10.0.0.0/8"],
        "redis": {"url": "rediss://r:6380/0?ssl_cert_reqs=required", "caSecret": {"name": "ca"}},
        "ray": {
            "tls": True,
            "tokenSecret": "token",
            "gcs": {"redisAddress": "redis:6379", "passwordSecret": {"name": "gcs"}},
        },
        "decode": {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"operator": "Exists"}]},
        "sites": [{"name": "north", "labels": {"site": "north"}, "maxReplicas": 2, "cores": 4}],
        "serve": {"ingress": {"enabled": True, "host": "aot.example", "tlsSecret": "cert"}},
        "settings": {"ingest": {"fps": 2.0}, "model": {"dtype": "float16"}},
        "monitoring": {"enabled": True},
    },
    "without cards, scaling and service": {
        "serve": {"enabled": False},
        "ray": {"autoscaling": False},
        "monitoring": {"enabled": True},
    },
    "a service without a card": {"serve": {"gpus": 0}},
}


@pytest.fixture(scope="module")
def rendered():
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("helm-python-sdk, which carries Helm, is not installed")
    known: dict[str, list[dict[str, Any]]] = {}

    def of(name: str) -> list[dict[str, Any]]:
        if name not in known:
            known[name] = helm.documents(SETS[name])
        return known[name]

    return of


@pytest.fixture(params=SETS)
def documents(request, rendered):
    return rendered(request.param)


def closed(schema: Any) -> Any:
    """The same where a property that it does not name is an error: a server would drop it."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    open_to_all = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_to_all:
        made.setdefault("additionalProperties", False)
    return made


def check_kuberay(document: dict[str, Any]) -> None:
    """Against KubeRay's definition, and every template of a pod against Kubernetes'."""
    schema = closed(json.loads((HERE / "kuberay" / f"{document['kind']}.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft4Validator(schema).validate(document)
    for template in templates(document["spec"], schema["properties"]["spec"]):
        check_kubernetes({"kind": "PodTemplate", "apiVersion": "v1", "template": template})


def templates(value: Any, schema: Any):
    """Templates of pods, where the definition says that one stands."""
    if schema.get("x-is") == "PodTemplateSpec":
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from templates(each, schema["items"])
    elif isinstance(value, dict) and "properties" in schema:
        for name, each in value.items():
            yield from templates(each, schema["properties"][name])


def check_kubernetes(document: dict[str, Any]) -> None:
    named = {"metadata": {"name": "checked"}, **document}
    kubernetes_validate.validate(named, VERSION, strict=True)


def pods(documents) -> list[dict[str, Any]]:
    """What every pod is asked to be."""
    found = []
    for one in documents:
        spec = one.get("spec", {})
        groups = [spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", [])]
        held = [group["template"] for group in groups if group]
        held += [spec[name] for name in ("template", "submitterPodTemplate") if name in spec]
        found += [template["spec"] for template in held]
    return found


def test_every_document_fits_its_definition(documents):
    assert documents
    for one in documents:
        group = one["apiVersion"].partition("/")[0]
        if group == "ray.io":
            check_kuberay(one)
        elif group != "monitoring.coreos.com":  # the operator's: not checked here
            check_kubernetes(one)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(headGroupSpecs={}),
        lambda spec: spec.update(enableInTreeAutoscaling="yes"),
        lambda spec: spec["workerGroupSpecs"][0].update(minReplica=1),
        lambda spec: spec["headGroupSpec"]["template"]["spec"].update(securityContexts={}),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].pop("name"),
        lambda spec: spec["authOptions"].update(mode="tokens"),
    ],
)
def test_what_does_not_fit_is_found(rendered, spoil):
    [cluster] = [deepcopy(one) for one in rendered("one stream") if one["kind"] == "RayCluster"]
    check_kuberay(cluster)
    spoil(cluster["spec"])
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_kuberay(cluster)


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_say(rendered, name):
    found = helm.lint(SETS[name])
    told = [m for m in found["messages"] if m["error"] != "icon is recommended"]
    assert (told, found["errors"], found["total_charts_linted"]) == ([], [], 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"decode": {"coers": 4}}, "coers"),
        ({"streams": [{"name": "gate"}]}, "streams/0"),
        ({"streams": [{"name": "gate", "url": "rtsp://me:secret@10.0.0.1/a"}]}, "streams/0/url"),
        ({"redis": {"url": "rediss://:secret@redis:6380/0"}}, "redis/url"),
        ({"compress": {"gpus": 0}}, "gpus"),
        ({"sites": [{"name": "north"}]}, "labels"),
    ],
)
def test_values_that_cannot_be_are_refused(rendered, values, said):
    with pytest.raises(helm.RenderError, match=said):
        helm.render(values)


def test_the_manifest_is_what_the_chart_makes(rendered):
    assert helm.MANIFEST.read_text() == helm.manifest()


def test_the_settings_are_ones_that_the_product_takes(documents, tmp_path):
    [config] = [one for one in documents if one["metadata"]["name"] == "aot-settings"]
    path = tmp_path / "aot.yaml"
    path.write_text(config["data"]["aot.yaml"])
    settings = load_settings(path)
    assert settings.ray.session_resources == {"decoding": 1}
    assert settings.serve.host == "0.0.0.0"


def test_settings_of_ones_own_win_and_streams_arrive(rendered, tmp_path):
    documents = rendered("everything on")
    [config] = [one for one in documents if one["metadata"]["name"] == "aot-settings"]
    path = tmp_path / "aot.yaml"
    path.write_text(config["data"]["aot.yaml"])
    settings = load_settings(path)
    assert (settings.ingest.fps, settings.model.dtype) == (2.0, "float16")
    assert (
        settings.model.id == yaml.safe_load((helm.CHART / "values.yaml").read_text())["model"]["id"]
    )
    assert [stream.name for stream in settings.streams] == ["gate", "yard", "dock"]
    [cluster] = [one for one in documents if one["kind"] == "RayCluster"]
    groups = cluster["spec"]["workerGroupSpecs"]
    [decode] = [one for one in groups if one["groupName"] == "decode"]
    pod = decode["template"]["spec"]
    asked = {stream.url_env for stream in settings.streams if stream.url_env}
    assert asked <= {variable["name"] for variable in pod["containers"][0]["env"]}
    assert settings.store.url.endswith("?ssl_cert_reqs=required&ssl_ca_certs=/etc/aot/ca/ca.crt")


def test_a_site_has_nodes_of_its_own_that_its_streams_ask_for(rendered, tmp_path):
    documents = rendered("everything on")
    [cluster] = [one for one in documents if one["kind"] == "RayCluster"]
    groups = {one["groupName"]: one for one in cluster["spec"]["workerGroupSpecs"]}
    assert set(groups) == {"decode", "decode-north", "compress"}
    here, north = groups["decode"], groups["decode-north"]
    assert ("labels" in here, north["labels"]) == (False, {"site": "north"})
    assert (north["maxReplicas"], north["rayStartParams"]["num-cpus"]) == (2, "4")
    assert north["template"]["spec"]["nodeSelector"] == {"pool": "cpu"}
    [config] = [one for one in documents if one["metadata"]["name"] == "aot-settings"]
    [dock] = [one for one in yaml.safe_load(config["data"]["aot.yaml"])["streams"][2:]]
    asked = selector_of(StreamSettings(**dock).model_dump_json())
    assert asked.matches(north["labels"])
    assert not asked.is_required


def test_no_pod_runs_as_root_or_may_become_it(documents):
    found = pods(documents)
    assert len(found) >= 3
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_every_mount_has_its_volume_and_every_container_a_limit_of_memory(documents):
    for pod in pods(documents):
        there = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= there
            assert "memory" in container["resources"]["limits"]


def test_no_image_floats(documents):
    for pod in pods(documents):
        for container in pod["containers"]:
            assert re.fullmatch(r"[\w./-]+(:\d[\w.-]+|@sha256:[0-9a-f]{64})", container["image"])


def test_sessions_go_where_decoding_is_and_workers_where_cards_are(rendered):
    [cluster] = [one for one in rendered("as they are") if one["kind"] == "RayCluster"]
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    decoding = json.loads(json.loads(groups["decode"]["rayStartParams"]["resources"]))
    cores = int(groups["decode"]["rayStartParams"]["num-cpus"])
    assert decoding == {"decoding": cores}
    assert "resources" not in groups["compress"]["rayStartParams"]
    cards = groups["compress"]["rayStartParams"]["num-gpus"]
    limits = groups["compress"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == cards
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_token_is_on(documents):
    clusters = [one for one in documents if one["kind"] == "RayCluster"]
    assert [one["spec"]["authOptions"]["mode"] for one in clusters] == ["token"]


def test_what_the_operator_refuses_is_not_asked(documents):
    """Rules that KubeRay checks beside its definitions (controllers/ray/utils/validation.go)."""
    for one in documents:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] == "RayCluster":
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
            assert len(name) <= 53
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                assert not ("resources" in group and "resources" in group["rayStartParams"])
                assert "restartPolicy" not in group["template"]["spec"]  # autoscaler v2
            for group in spec["workerGroupSpecs"]:
                assert group["minReplicas"] <= group["maxReplicas"]
        if one["kind"] == "RayJob":
            assert len(name) <= 47
            assert "clusterSelector" in spec
            assert not {"backoffLimit", "suspend", "rayClusterSpec"} & set(spec)


def test_a_service_gets_time_to_end(rendered):
    [serve] = [one for one in rendered("as they are") if one["kind"] == "Deployment"]
    assert serve["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > STOP_S


def test_the_chart_is_of_this_version_and_its_ray_the_pinned_one():
    root = helm.ROOT
    project = (root / "pyproject.toml").read_text()
    [version] = re.findall(r'^version = "(.+)"$', project, re.M)
    [ray] = re.findall(r"^ray==(.+)$", (root / "constraints.txt").read_text(), re.M)
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    assert (chart["version"], chart["appVersion"], values["ray"]["version"]) == (
        version,
        version,
        ray,
    )
    assert values["image"]["tag"].startswith(version)
