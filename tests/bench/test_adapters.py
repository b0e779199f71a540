"""The bench of the adapters: both contestants give the same tokens, and its line is complete."""

import pytest

from bench.adapters import NAMES, format_family, run
from workers.models import FAMILIES


def test_every_family_is_measured():
    assert set(NAMES) == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", NAMES)
def test_the_adapter_gives_the_bare_towers_tokens(family):
    result = run(families=family, layers=4, rounds=1)
    assert result[f"tokens_apart_{family}"] < 1e-4
    assert result["time_ratio"] > 0
    assert result["memory_ratio"] > 0
    assert result["bench"] == "adapters"


def test_a_row_has_both_ratios():
    row = format_family(
        "qwen3_vl",
        {
            **{"bare_ms": 100.0, "adapter_ms": 103.0, "time_ratio": 1.03, "at_once_ratio": 1.02},
            **{"bare_mb": 80.0, "adapter_mb": 82.0, "memory_ratio": 1.025},
        },
    )
    assert "1.030x" in row
    assert "1.025x" in row
