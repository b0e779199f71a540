"""Reducers by name: the constants each takes, and what it says of itself."""

import json

import pytest
import torch

from aot import REDUCERS, AOTConfig, ClipCompressor, InvalidConfig, check_constants, make_reducer
from aot.reducers.adaptive import AdaptiveReducer
from tests.aot.support import features

OWN = {
    "adaptive": {"spread": 0.2},
    "visionzip": {"contextual_share": 0.3},
    "tome": {"step_share": 0.2},
    "temporal_difference": {"first_share": 0.5},
    "holitom": {"static_similarity": 0.7},
}


def test_constants_go_to_whom_they_belong():
    made = make_reducer("adaptive", spread=0.2, position_weight=0.75, pool_stride=3)
    assert isinstance(made, AdaptiveReducer)
    assert made.rule.spread == 0.2
    assert made.rule.position_weight == 0.75
    assert made.config.position_weight == AOTConfig().position_weight
    assert made.config.pool_stride == 3
    reference = make_reducer("aot", position_weight=0.75)
    assert isinstance(reference, ClipCompressor)
    assert reference.config.position_weight == 0.75


@pytest.mark.parametrize(("name", "constants"), OWN.items())
def test_a_reducer_takes_and_tells_its_own_constants(name, constants):
    made = make_reducer(name, 0.2, **constants)
    assert constants.items() <= made.describe().items()
    assert made.describe() != make_reducer(name, 0.2).describe()


@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_a_constant_that_a_reducer_has_not_is_named_with_those_it_has(name):
    with pytest.raises(InvalidConfig, match=rf"reducer {name} has no constant 'sprad'; it has: .*"):
        make_reducer(name, sprad=0.2)
    with pytest.raises(InvalidConfig, match=r"'grid'; it has: .*clip_frames"):
        check_constants(name, {"grid": (3, 3)})


def test_a_whole_config_leaves_no_room_for_its_fields():
    config = AOTConfig(clip_frames=4)
    assert make_reducer("adaptive", config=config, spread=0.2).config is config
    with pytest.raises(InvalidConfig, match="no constant 'clip_frames'"):
        make_reducer("adaptive", config=config, clip_frames=8)


@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_what_a_reducer_says_of_itself_is_plain_and_names_it(name):
    said = make_reducer(name, 0.2).describe()
    assert json.loads(json.dumps(said)) == said
    assert said["reducer"] == name
    assert said["version"] == (2 if name == "aot" else 1)


@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_a_description_that_is_equal_means_equal_tokens(name):
    one, other = (make_reducer(name, 0.2, grid=(9, 9)) for _ in range(2))
    assert one.describe() == other.describe()
    [kept], [again] = (made.compress_clips([features(8)]) for made in (one, other))
    assert torch.equal(kept.cell, again.cell)
    assert torch.equal(kept.tokens, again.tokens)


@pytest.mark.parametrize("name", sorted(set(REDUCERS) - {"none", "aot"}))
def test_another_retention_is_another_description(name):
    assert make_reducer(name, 0.2).describe() != make_reducer(name, 0.3).describe()
