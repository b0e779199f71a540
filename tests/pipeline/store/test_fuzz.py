"""Records with bytes changed: every one refused with a typed error, none kills the process.

The mutants are read in a process of their own, which writes down each verdict before the next one
is read, so that a crash or a hang is a failed test that names the mutant, not a lost test run.
"""

import random
import subprocess
import sys
from collections import Counter

import pytest
import torch

from aot import ClipTokens
from pipeline.store import envelope
from pipeline.store.arrow import decode_clip, encode_clip
from pipeline.values.errors import CorruptValue, SchemaMismatch
from workers.types import CompressedClip

KEY = "lobby/0/0"


def make_record(dtype: str) -> bytes:
    seeded = torch.Generator().manual_seed(3)
    tokens = ClipTokens(
        tokens=torch.randn(20, 16, generator=seeded),
        frame=torch.arange(20) % 8,
        cell=torch.arange(20),
        mass=torch.rand(20, generator=seeded),
        kind=(torch.arange(20) % 3).to(torch.uint8),
        grid=(5, 4),
    )
    times = tuple(i / 2 for i in range(8))
    clip = CompressedClip("lobby", 0, 0, 0.0, 4.0, times, tokens)
    return encode_clip(clip, fingerprint="fuzz", dtype=dtype)  # type: ignore[arg-type]


def mutate(record: bytes, number: int) -> bytes:
    """A changed copy: bits, bytes, words, blocks; cut, grown, shuffled; seeded by its number."""
    dice = random.Random(number)
    data = bytearray(record)
    at = dice.choice((dice.randrange(len(data)), dice.randrange(64), 64 + dice.randrange(1024)))
    length = min(dice.choice((1, 2, 4, 8, 64)), len(data) - at)
    match number % 8:
        case 0:
            data[at] ^= 1 << dice.randrange(8)
        case 1:
            data[at : at + length] = dice.randbytes(length)
        case 2:
            word = dice.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)))
            data[at : at + 4] = word.to_bytes(4, "little")[: len(data) - at]
        case 3:
            del data[at:]
        case 4:
            data[at:at] = dice.randbytes(length)
        case 5:
            del data[at : at + length]
        case 6:
            other = dice.randrange(len(data) - length)
            data[at : at + length], data[other : other + length] = (
                data[other : other + length],
                data[at : at + length],
            )
        case 7:
            for _ in range(dice.randrange(2, 40)):
                data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


def judge(first: int, last: int, forged: bool) -> None:
    """Read mutants `first..last` and print what came of each; `forged` ones have a right digest."""
    records = [make_record("bf16"), make_record("int8")]
    for number in range(first, last):
        record = records[number // 8 % 2]
        mutant = mutate(record, number)
        if forged:
            mutant = envelope.seal(mutant[envelope.HEADER_BYTES :], KEY)
        print(number, end=" ", flush=True)
        try:
            # Every other one from memory that may be written, which the tensors share.
            decode_clip(memoryview(bytearray(mutant)) if number % 2 else mutant, key=KEY)
            print("unchanged" if mutant == record else "accepted", flush=True)
        except (CorruptValue, SchemaMismatch) as error:
            print("refused" if mutant != record else f"wrongly refused: {error}", flush=True)


def verdicts(first: int, last: int, *, forged: bool) -> Counter[str]:
    done = subprocess.run(
        [sys.executable, __file__, str(first), str(last), "forged" if forged else "plain"],
        capture_output=True,
        text=True,
        timeout=240 + (last - first) * 0.01,  # finds a hang; other work may have the machine
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (
        f"ended with {done.returncode} at {lines[-1:]}: {done.stderr[-800:]}"
    )
    assert len(lines) == last - first
    return Counter(line.partition(" ")[2] for line in lines)


def check(num_mutants: int) -> None:
    counted = verdicts(0, num_mutants, forged=False)
    assert set(counted) <= {"refused", "unchanged"}, counted
    assert counted["refused"] > 0.95 * num_mutants


def check_forged(num_mutants: int) -> None:
    """Changed values may pass, since no digest tells; a crash or an untyped error may not."""
    counted = verdicts(0, num_mutants, forged=True)
    assert set(counted) <= {"refused", "unchanged", "accepted"}, counted
    assert counted["refused"] > 0.2 * num_mutants


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_the_unchanged_record_is_accepted(dtype):
    assert decode_clip(make_record(dtype), key=KEY).clip.index == 0


def test_500_mutants_are_refused_and_none_kills_the_reader():
    check(500)


def test_500_mutants_with_a_right_digest_kill_nothing():
    check_forged(500)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_10000_mutants_with_a_right_digest_kill_nothing():
    check_forged(10_000)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_10000_mutants_are_refused_and_none_kills_the_reader():
    check(10_000)


if __name__ == "__main__":
    judge(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "forged")
