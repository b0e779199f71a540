"""Damaged media through a decoder's real process: pictures or a typed error, in bounded memory.

Every file is served over HTTP on loopback, as a camera's recording would be.
"""

import random
import time
from collections import Counter

import pytest

from tests.videos import write_case
from tests.workers.decode.mutants import mutate
from tests.workers.live.web import serve_http
from workers.errors import SourceError
from workers.live.process import DecoderProcess

SEEDS = (
    *("h264_ts", "h264_fragmented", "h264_flv", "h264_mkv", "hevc_ts", "vp9", "av1", "mpeg2_ts"),
    *("h264_closed_p", "h264_avi_b"),
)
"""Codecs and containers; the last two are not read over HTTP: moov at the end, and AVI."""
STALL_S = 10.0
MAX_MEMORY_BYTES = 512 << 20
MAX_S = 30.0


@pytest.fixture
def serve():
    """`serve(data)`: a URL that gives these bytes."""
    served = {}

    def answer(request):
        data = served[request.path]
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    with serve_http(answer) as address:

        def add(data: bytes, name: str) -> str:
            served.clear()
            served[f"/{name}"] = data
            return f"{address}/{name}"

        yield add


def read_mutants(tmp_path, serve, request_for, count):
    """How each ended: (code or `sound`, pictures, seconds, peak bytes)."""
    for number in range(count):
        seed = write_case(tmp_path, SEEDS[number % len(SEEDS)])
        url = serve(mutate(seed.read_bytes(), random.Random(number)), seed.name)
        pictures, error, began_s = 0, None, time.monotonic()
        with DecoderProcess(request_for(url, fps=2.0), stall_s=STALL_S) as decoder:
            try:
                for _ in decoder:
                    pictures += 1
            except SourceError as caught:
                error = caught
        code = "" if error is None else error.code
        yield (
            f"{code}: {error}" if code == "SourceCrashed" else code,
            pictures,
            time.monotonic() - began_s,
            decoder.memory_bytes,
        )


def check_mutants(tmp_path, serve, request_for, count):
    ends = list(read_mutants(tmp_path, serve, request_for, count))

    codes = Counter(code for code, *_ in ends)
    memory_bytes = max(end[3] for end in ends)
    print(
        f"{count} files: {dict(codes)}; {memory_bytes >> 20} MiB, {max(e[2] for e in ends):.1f} s"
    )
    assert len(ends) == count
    assert not [code for code in codes if "exit code" in code], "an error that has no type"
    assert 0 < memory_bytes <= MAX_MEMORY_BYTES
    assert max(seconds for _, _, seconds, _ in ends) < MAX_S
    assert sum(bool(code) for code, *_ in ends) >= count / 20
    assert sum(pictures > 0 for _, pictures, *_ in ends) > count / 2


@pytest.mark.timeout(300)
def test_thirty_mutants(tmp_path, serve, request_for):
    check_mutants(tmp_path, serve, request_for, 30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_mutants(tmp_path, serve, request_for):
    check_mutants(tmp_path, serve, request_for, 1000)
