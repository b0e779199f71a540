"""Reads every video of a folder and prints what became of it, one line of JSON each.

Run in a process of its own by `test_decode_mutants.py`, so that a crash of the decoder takes no
test run with it:  python -m tests.workers.decode.mutants FOLDER
"""

import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from tests.workers.decode.oracle import SMALL
from workers.decode.frame import resize
from workers.decode.reader import VideoReader
from workers.errors import SourceError
from workers.types import VideoSource


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One kind of damage: flipped bits, a hole, zeros, a cut end, a swapped or doubled stretch."""
    damaged = bytearray(data)
    kind = rng.randrange(7)
    at = rng.randrange(len(damaged))
    length = rng.randint(1, 2000)
    if kind == 0:
        for _ in range(rng.choice((1, 8, 64, 256))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del damaged[at : at + length]
    elif kind == 2:
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    elif kind == 3:
        del damaged[max(1, at) :]
    elif kind == 4:
        damaged[at:at] = damaged[at : at + length]
    elif kind == 5:
        damaged = damaged[:at] + damaged[rng.randrange(len(damaged)) :]
    else:  # a number in the headers
        at = rng.randrange(min(len(damaged), 4096))
        extremes = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32))
        damaged[at : at + 4] = rng.choice(extremes).to_bytes(4, "big")
    return bytes(damaged)


def read(path: str) -> dict[str, object]:
    """What became of a file: frames and damage, or the code of a typed error."""
    last: dict[int, float] = {}
    frames = 0
    try:
        with VideoReader(VideoSource(path, "mutant", fps=2.0), SMALL) as reader:
            for frame in reader:
                assert frame.pts_s > last.get(frame.epoch, float("-inf")), "times must rise"
                assert frame.pixels.shape == (64, 72, 3)
                last[frame.epoch] = frame.pts_s
                frames += 1
            report = reader.report
        return {"frames": frames, "sound": report.is_sound, "truncated": report.truncated}
    except SourceError as error:
        return {"frames": frames, "error": error.code, "message": str(error)}


def main(folder: Path) -> None:
    resize(np.zeros((72, 64, 3), np.uint8), SMALL)  # loads what differs by build: torch's CUDA one
    before_kib = _peak_kib()
    for path in sorted(map(os.fspath, folder.iterdir())):
        name = ascii(os.path.basename(path))
        print(json.dumps({"name": name, "started": True}), flush=True)
        started = time.monotonic()
        outcome = read(path)
        outcome["seconds"] = time.monotonic() - started
        outcome["grown_kib"] = _peak_kib() - before_kib
        print(json.dumps({"name": name, **outcome}), flush=True)


def _peak_kib() -> int:
    """Largest resident size of this process so far (`ru_maxrss` would start at the parent's)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
