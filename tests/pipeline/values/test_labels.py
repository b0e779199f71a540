"""Selectors of machines' labels: Ray's syntax, Ray's meaning."""

import itertools
import json

import pytest
from ray._private.label_utils import validate_label_selector  # no public form exists

from pipeline.values.labels import ANYWHERE, LabelSelector, selector_of

NORTH, SOUTH, BARE = {"site": "north", "zone": "a"}, {"site": "south"}, {}


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("north", (True, False, False)),
        ("!north", (False, True, True)),
        ("in(north, south)", (True, True, False)),
        ("in(south,east)", (False, True, False)),
        ("!in(north, south)", (False, False, True)),
    ],
)
def test_a_condition_is_met_as_ray_means_it(condition, met):
    selector = LabelSelector.of({"site": condition})
    assert tuple(map(selector.matches, (NORTH, SOUTH, BARE))) == met
    assert validate_label_selector({"site": condition}) is None


def test_all_conditions_are_to_be_met():
    selector = LabelSelector.of({"site": "north", "zone": "!b"})
    assert selector.matches(NORTH)
    assert not selector.matches(NORTH | {"zone": "b"})
    assert ANYWHERE.matches(BARE)


def test_a_machine_that_does_not_match_will_do_only_where_that_is_not_required():
    required = LabelSelector.of({"site": "north"})
    preferred = LabelSelector.of({"site": "north"}, is_required=False)
    assert [one.admits(SOUTH) for one in (required, preferred)] == [False, True]
    assert [one.admits(NORTH) for one in (required, preferred)] == [True, True]
    assert LabelSelector.of({}, is_required=False) == ANYWHERE


@pytest.mark.parametrize("bad", ["", "-north", "in()", "in(a, !b)", "a b", "!!a", "in(a", "x" * 64])
def test_what_ray_refuses_is_refused(bad):
    with pytest.raises(ValueError, match="expected a label's value"):
        LabelSelector.of({"site": bad})
    assert bad == "" or validate_label_selector({"site": bad}) is not None


@pytest.mark.parametrize("bad", ["", "a b", "a=b", "a;b", "/a", "{a}"])
def test_a_key_is_one_of_kubernetes(bad):
    with pytest.raises(ValueError, match="Kubernetes"):
        LabelSelector.of({bad: "north"})


def test_a_key_of_the_store_reads_as_the_selector_it_was():
    texts = "north", "!north", "in(b, a)", "!in(c, a)"
    for one, two in itertools.product(texts, texts):
        for is_required in (True, False):
            selector = LabelSelector.of(
                {"aot.example/site": one, "ray.io/zone": two}, is_required=is_required
            )
            assert LabelSelector.of_key(selector.key) == selector
            assert not set("{}") & set(selector.key)
    assert ANYWHERE.key == ""
    assert LabelSelector.of_key("") == ANYWHERE


def test_one_thing_said_in_two_ways_is_one_selector():
    assert LabelSelector.of({"a": "in(x,y)", "b": "1"}) == LabelSelector.of(
        {"b": "in(1)", "a": "in(y, x)"}
    )


def test_a_stream_asks_by_its_settings():
    text = json.dumps({"name": "gate", "label_selector": {"site": "north"}})
    assert selector_of(text) == LabelSelector.of({"site": "north"})
    assert selector_of(json.dumps({**json.loads(text), "label_fallback": True})) == (
        LabelSelector.of({"site": "north"}, is_required=False)
    )
    assert selector_of('{"name": "gate", "label_selector": {}}') == ANYWHERE
    assert selector_of("{}") == ANYWHERE
