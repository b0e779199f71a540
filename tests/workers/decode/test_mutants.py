"""Damaged files: frames or a typed error, never a crash, a hang or a bare traceback."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.videos import write_case
from tests.workers.decode.mutants import mutate

REPOSITORY = Path(__file__).parents[3]
SEEDS = (
    "h264_closed_b",
    "h264_open_gop",
    "h264_ts",
    "h264_avi_b",
    "h264_flv",
    "h264_fragmented",
    "hevc_open_cra_rasl",
    "hevc_ts",
    "vp9",
    "av1",
    "mpeg2_ts",
    "mjpeg_avi",
)


def read_folder(folder: Path, timeout_s: float) -> dict[str, dict]:
    """Outcome by file name; fails where the reading process crashed or hung."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.decode.mutants", str(folder)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-2000:]}"
    outcomes = {line["name"]: line for line in lines if "started" not in line}
    assert not any("\n" in outcome.get("message", "") for outcome in outcomes.values())
    return outcomes


def check_mutants(tmp_path: Path, count: int, timeout_s: float) -> None:
    cases, mutants = tmp_path / "cases", tmp_path / "mutants"
    cases.mkdir()
    mutants.mkdir()
    for number in range(count):
        rng = random.Random(number)
        seed = write_case(cases, SEEDS[number % len(SEEDS)])
        path = mutants / f"{number:05d}-{seed.name}"
        path.write_bytes(mutate(seed.read_bytes(), rng))
    outcomes = read_folder(mutants, timeout_s)
    assert len(outcomes) == count
    assert max(o["seconds"] for o in outcomes.values()) < 10
    assert max(o["grown_kib"] for o in outcomes.values()) < 300_000
    # The damage must bite, or nothing was tested; and most of a file must survive it.
    assert sum(not o.get("sound", False) for o in outcomes.values()) > count / 4
    assert sum(o["frames"] > 0 for o in outcomes.values()) > count / 2


def test_three_hundred_mutants(tmp_path: Path):
    check_mutants(tmp_path, 300, timeout_s=50)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_thousand_mutants(tmp_path: Path):
    check_mutants(tmp_path, 3000, timeout_s=280)


EXPECTED_ERRORS = {
    "audio_only.m4a": "NoVideoStream",
    "bomb_16000.mov": "TooLarge",
    "header_only.mp4": "NoFrames",
    "hls_in_disguise.mp4": "NoVideoStream",
    "hls_local.m3u8": "NoVideoStream",
    "link_escape.mp4": "NoVideoStream",
    "link_loop.mp4": "SourceUnreachable",
    "list.ffconcat": "SourceRefused",
    "no_keyframe.ts": "NoKeyframe",
    "no_moov.mp4": "NoVideoStream",
    "text_named.mp4": "NoVideoStream",
    "zero_byte.mp4": "NoVideoStream",
}


@pytest.fixture(scope="module")
def broken(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tricky, broken and mutated variants of a real video, with their manifest."""
    tool = shared / "tools" / "make_broken.py"
    source = shared / "videos" / "surveillance_one_by_one.mp4"
    if not tool.exists():
        pytest.skip("the tool that makes broken files is not there")
    folder = tmp_path_factory.mktemp("broken")
    command = [sys.executable, str(tool), str(source), str(folder), "--mutants", "300"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.mark.timeout(300)
def test_every_broken_file_ends_as_its_manifest_says(broken: Path):
    manifest = json.loads((broken / "manifest.json").read_text())["files"]
    (broken / "manifest.json").rename(broken.parent / "manifest.json")
    mutants = broken / "mutants"
    mutants.rename(broken.parent / "mutants")
    outcomes = read_folder(broken, timeout_s=60)
    for name, outcome in outcomes.items():
        entry = manifest.get(name[1:-1].replace("\\udc", "\\x"))
        assert entry is not None, name
        if entry["expect"] == "error":
            assert outcome.get("error") == EXPECTED_ERRORS[name[1:-1]], name
        else:
            assert outcome["frames"] > 0, name
            assert "error" not in outcome, name
    assert len(outcomes) >= len(manifest) - 1
    assert outcomes["'truncated_60pct.mp4'"]["truncated"]
    assert outcomes["'one_frame.mp4'"]["frames"] == 1


@pytest.mark.timeout(300)
def test_three_hundred_mutants_of_real_footage(broken: Path):
    folder = broken / "mutants"
    if not folder.exists():
        folder = broken.parent / "mutants"
    outcomes = read_folder(folder, timeout_s=100)
    assert len(outcomes) == 300
    assert max(o["seconds"] for o in outcomes.values()) < 10
    assert sum(o["frames"] > 0 for o in outcomes.values()) > 150
