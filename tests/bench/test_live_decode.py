"""The bench of live decoding, on a small camera."""

from bench.live_decode import run


def test_it_tells_of_each_gop_and_rate_what_both_ways_take():
    figures = run(rounds=1, seconds=2, height=360, width=640)
    told = {name: pair for name, pair in figures.items() if name.startswith("gop_")}
    assert len(told) == 6
    assert all(bare_s > 0 and live_s > 0 for bare_s, live_s in told.values())
