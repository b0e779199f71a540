"""Open clips over several workers: the state travels, so that any worker takes any push."""

import os

import pytest
import ray
import torch

from aot import InvalidFeatures, concatenate
from tests.checkpoints import write_tiny_checkpoint
from tests.workers.session_support import make_clip
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.cluster.pool import PoolSettings, ask_workers, close_pool, open_pool
from workers.cluster.pusher import POLL_S, ClusterPusher
from workers.compress import CompressSettings
from workers.compress.inline import InlineWorkers
from workers.seams import Push

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def compress(tmp_path_factory) -> CompressSettings:
    model = write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return CompressSettings(model=str(model), clip_frames=8)


@pytest.fixture(scope="module")
def pool(compress):
    with open_cluster(ClusterSettings(num_cpus=2)):
        pool = open_pool(
            compress, PoolSettings(workers=2, worker_cpus=0.25), name="push", detached=False
        )
        yield pool
        close_pool(pool.handles)


@pytest.fixture
def pusher(pool):
    pusher = ClusterPusher(pool, tenant="test")
    yield pusher
    pusher.close()


@pytest.fixture(scope="module")
def whole(compress):
    """The clip, and its tokens as the workers of a file give them."""
    with InlineWorkers(compress) as workers:
        clip = make_clip("lobby", 0, workers.info)
        [result] = workers.compress_stream([clip])
    return clip, result.tokens


def columns(tokens):
    """Rows in the order of a clip, whatever order they were emitted in."""
    rows = list(zip(tokens.frame.tolist(), tokens.cell.tolist(), strict=True))
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return [rows[n] for n in order], tokens.tokens[order], tokens.mass[order]


@pytest.mark.parametrize("pieces", [1, 2, 8])
def test_a_clip_pushed_in_pieces_over_workers_is_the_whole_clip(pusher, whole, pieces):
    clip, expected = whole
    size, state, tokens = 8 // pieces, None, []
    for start in range(0, 8, size):
        last = start + size == 8
        push = Push(clip.pixels[start : start + size], state, last=last)
        pushed = pusher.push(push, timeout_s=60.0)
        tokens.append(pushed.tokens)
        state = pushed.state
    places, values, mass = columns(concatenate(tokens))
    assert places == columns(expected)[0]
    torch.testing.assert_close(values, columns(expected)[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(mass, columns(expected)[2], atol=1e-6, rtol=0)


def test_workers_tell_what_they_have_done(pool, pusher, whole):
    clip, _ = whole
    before = ask_workers("push-")
    assert set(before) == {"push-0", "push-1"}
    for _ in range(2):
        pusher.push(Push(clip.pixels[:4]), timeout_s=60.0)
    ray.get(pool.handles[0].compress.remote(clip, pool.info.identity.digest()), timeout=60)

    after = ask_workers("push-")

    def count(what):
        return sum(getattr(after[name], what) - getattr(before[name], what) for name in after)

    assert (count("batches"), count("frames")) == (3, 16)
    assert 0 < count("encode_s") + count("reduce_s") <= count("busy_s")
    assert after["push-0"].last_frames == 8
    assert {tally.waiting for tally in after.values()} == {0}


def test_a_stream_whose_pictures_come_again_keeps_to_the_worker_that_knows_them(pusher, whole):
    clip, _ = whole
    frame = clip.pixels[:1]
    pushed = [pusher.push(Push(frame, recurring="cam"), timeout_s=60.0) for _ in range(4)]
    assert [one.recalled for one in pushed] == [0, 1, 1, 1]
    assert all(torch.equal(one.tokens.tokens, pushed[0].tokens.tokens) for one in pushed)


def test_a_push_whose_worker_is_killed_is_made_by_another(pusher, whole):
    clip, _ = whole
    expected = pusher.push(Push(clip.pixels[:4]), timeout_s=60.0)
    pid = ray.get(pusher._pool.handles[0].__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, 9)
    for _ in range(4):
        again = pusher.push(Push(clip.pixels[:4]), timeout_s=60.0)
        assert torch.equal(again.tokens.tokens, expected.tokens.tokens)


def test_a_push_tells_how_long_no_worker_was_there(pusher, whole, monkeypatch):
    clip, _ = whole
    choose, none = pusher._choose, [None] * 3
    monkeypatch.setattr(pusher, "_choose", lambda *at: none.pop() if none else choose(*at))
    assert pusher.push(Push(clip.pixels[:2]), timeout_s=60.0).away_s >= 3 * POLL_S


def test_an_error_of_one_push_is_its_own(pusher, whole):
    clip, _ = whole
    with pytest.raises(InvalidFeatures, match="expected"):
        pusher.push(Push(clip.pixels[:2, :7, :7]), timeout_s=60.0)
    assert pusher.push(Push(clip.pixels[:2]), timeout_s=60.0).tokens_in > 0
