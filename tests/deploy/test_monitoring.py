"""Alert rules and dashboard name what the running code counts, and nothing else."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pipeline.ingest.metrics import Metrics
from pipeline.serve.metrics import ServiceMetrics
from workers.live.session import LiveProgress
from workers.live.tally import PushTally

FILES = Path(__file__).parents[2] / "deploy" / "chart" / "files"
ALERTS, DASHBOARD = FILES / "alerts.yaml", FILES / "dashboard.json"
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")


@pytest.fixture(scope="module")
def counted() -> dict[str, set[str]]:
    """Labels by the name of every series that the code makes."""
    metrics, service = Metrics(), ServiceMetrics()
    metrics.watch_spool("front", lambda: 1)
    metrics.see(LiveProgress("front", gaps={"stalled": 1}, freshness_s=1.0, tokens_in=1))
    metrics.watch_worker("inline", PushTally)
    service.requests.labels("/v1/ask", "200").inc()
    service.seconds.labels("/v1/ask").observe(1)
    service.first_token.observe(1)
    pages = (metrics.render().decode(), service.expose().decode())
    return {
        sample.name: set(sample.labels)
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def rules() -> list[dict]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


@pytest.fixture(scope="module")
def panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text())["panels"]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\baot_\w+", expression))


def expressions(rules, panels) -> list[str]:
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [rule["expr"] for rule in rules] + asked


def test_every_metric_that_is_asked_for_is_counted(rules, panels, counted):
    asked = expressions(rules, panels)
    assert len(asked) > 30
    for expression in asked:
        assert names_in(expression)
        assert names_in(expression) <= set(counted), expression


def test_every_label_that_is_asked_for_is_there(rules, panels, counted):
    for expression in expressions(rules, panels):
        asked = set(LABEL.findall(expression))
        for by in re.findall(r"by \(([^)]*)\)", expression):
            asked |= {label.strip() for label in by.split(",")}
        there = set().union(*(counted[name] for name in names_in(expression)))
        assert asked <= there, expression


def test_every_metric_that_is_counted_is_seen_somewhere(rules, panels, counted):
    seen = set().union(*(names_in(expression) for expression in expressions(rules, panels)))
    left_out = {"aot_stream_position_seconds"}  # grows with the clock: a figure of one stream
    bare = {name for name in counted if not name.endswith(("_sum", "_count", "_created"))}
    assert bare - seen == left_out


def test_every_alert_says_how_bad_it_is_and_what_to_do(rules):
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names))
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]


def test_labels_that_an_alert_names_are_among_its_own(rules, counted):
    for rule in rules:
        text = " ".join(rule["annotations"].values())
        named = set(re.findall(r"\$labels\.(\w+)", text))
        there = set().union(*(counted[name] for name in names_in(rule["expr"])))
        assert named <= there, rule["alert"]


def test_panels_lie_side_by_side_and_not_one_over_another(panels):
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_itself_takes_the_rules(tmp_path):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    done = subprocess.run(
        [program, "check", "rules", ALERTS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_an_alert_is_raised_by_what_it_is_for(tmp_path):
    """`promtool test rules`: series in, alerts out."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here (Debian: prometheus)")
    test = tmp_path / "test.yaml"
    away = {"series": 'aot_stream_up{stream="front"}', "values": "1+0x4 0+0x10"}
    spooled = {"series": 'aot_stream_spooled_bytes{stream="front"}', "values": "0+0x4 9+0x10"}
    summary = "Stream front gives no pictures."
    checks = [
        {"eval_time": "4m", "alertname": "AotStreamAway", "exp_alerts": []},
        {"eval_time": "9m", "alertname": "AotStreamAway", "exp_alerts": [None]},
        {"eval_time": "4m", "alertname": "AotStoreAway", "exp_alerts": []},
    ]
    rule = next(
        rule
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == "AotStreamAway"
    )
    description = rule["annotations"]["description"].replace("{{ $labels.stream }}", "front")
    checks[1]["exp_alerts"] = [
        {
            "exp_labels": {"severity": "warning", "stream": "front"},
            "exp_annotations": {"summary": summary, "description": description},
        }
    ]
    series = {"interval": "1m", "input_series": [away, spooled], "alert_rule_test": checks}
    test.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [series]}))
    done = subprocess.run(
        [program, "test", "rules", test], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
