"""Training on an accelerator: its attention is the CPU's, every stage takes a step."""

import pytest
import torch

from demo.miniature.attention import attend
from demo.miniature.model import build_model
from demo.miniature.sequence import SLOT_LENGTH
from demo.training import pool
from demo.training.align import train_align
from demo.training.batches import PoolShare
from demo.training.curriculum import Phase
from demo.training.language import train_language
from demo.training.refine import train_refine
from demo.training.tower import train_tower

pytestmark = pytest.mark.gpu


def test_attention_agrees_with_the_cpu_s():
    query, key, value = torch.randn(3, 2, 3, 20 + 2 * SLOT_LENGTH, 8)
    hidden = torch.zeros(2, 20, dtype=torch.bool)
    hidden[1, 12:] = True
    given = {"prefix": 20, "scaling": 0.3}
    expected = attend(query, key, value, hidden=hidden, **given)

    there = attend(query.cuda(), key.cuda(), value.cuda(), hidden=hidden.cuda(), **given)

    torch.testing.assert_close(there.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.timeout(300)
def test_every_stage_takes_a_step_there(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SHARD_SCENES", 4)
    monkeypatch.setattr("demo.training.batches.SHARD_SCENES", 4)
    monkeypatch.setattr("demo.training.refine.SETTLE", 1)
    model = build_model().to("cuda")
    common = {"scenes_per_step": 2, "loaders": 1}

    def changed(train) -> set[str]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train()
        state = model.state_dict()
        assert all(value.isfinite().all() for value in state.values())
        return {name for name, value in state.items() if not torch.equal(value, before[name])}

    tower = model.model.vision_tower
    assert changed(lambda: train_tower(tower, tmp_path, steps=2, **common))
    assert changed(lambda: train_align(model, tmp_path, steps=2, **common))
    assert changed(lambda: train_refine(model, tmp_path, steps=3, **common))
    folder = pool.pool_folder(model, tmp_path)
    pool.fill_pool(model.cpu(), folder, range(1), 1)
    pool.fill_pool(model, folder, range(4), 1, scattered=True)
    model.to("cuda")
    phases = (Phase((1,), 2, 4, 2, scattered=True), Phase((3, 4), 2, 4, 2, sparse=1.0))
    share = PoolShare(most=1)
    names = changed(lambda: train_language(model, tmp_path, phases=phases, shards=share, loaders=1))
    assert all("language_model" in n or "newline" in n or "lm_head" in n for n in names)
