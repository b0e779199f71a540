"""The decode bench's keys and arithmetic; its figures are for `aot bench decode`."""

import json

import pytest

from bench.decode import GopFigures, run, summarise


def figures(gop: int, **changes) -> GopFigures:
    values = {"plan_s": 2.0, "decode_all_s": 5.0, "ffmpeg_s": 6.0, "rounds": [{}, {}], **changes}
    return GopFigures(gop, 4.5, **values)


def test_ratios_are_cpu_time_over_the_plans():
    result = summarise([figures(50), figures(250, decode_all_s=3.0)], seconds=10)
    assert (result["vs_decode_all_gop50"], result["vs_decode_all_gop250"]) == (2.5, 1.5)
    assert result["vs_ffmpeg_gop50"] == 3.0
    assert result["x_realtime_gop50"] == 10.0
    assert result["identical"] is True


def test_without_ffmpeg_its_ratio_is_none():
    assert summarise([figures(50, ffmpeg_s=None)], seconds=10)["vs_ffmpeg_gop50"] is None


def test_one_differing_frame_is_enough_to_say_so():
    result = summarise([figures(50), figures(250, identical=False)], seconds=10)
    assert result["identical"] is False


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_runs_and_its_line_is_json():
    result = json.loads(json.dumps(run(seconds=2, loops=1, rounds=1)))
    keys = {f"vs_{peer}_gop{gop}" for peer in ("decode_all", "ffmpeg") for gop in (50, 250)}
    assert keys | {"bench", "commit", "device", "identical"} <= result.keys()
    assert result["identical"] is True
    assert result["bench"] == "decode"
