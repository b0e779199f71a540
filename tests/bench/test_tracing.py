"""The tracing bench's arithmetic; its figures are for `aot bench tracing`."""

import json

import pytest

from bench.tracing import Figures, run, summarise


def test_the_share_is_a_trace_over_a_clip_and_the_ratio_a_median():
    figures = Figures(trace_s=2e-4, nothing_s=1e-6, off_s=(0.1, 0.2, 0.1), on_s=(0.1, 0.3, 0.2))
    found = summarise(figures)
    assert (found["share"], found["ratio"], found["clip_cpu_ms"]) == (0.002, 1.5, 100.0)
    assert found["ratios"] == [1.0, 1.5, 2.0]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_runs_and_its_line_is_json():
    result = json.loads(json.dumps(run(seconds=16, rounds=1, traces=50)))
    assert result["bench"] == "tracing"
    assert result["trace_cpu_us"] > result["off_cpu_us"] > 0
