"""docs/architecture.md draws the rooms as they are."""

import pytest

from tests.rooms import DRAWING, LAYERS, draw, find_drawings

PACKAGES = ["", *LAYERS]
"""The empty name is the whole house, whose rooms are the packages."""


def test_every_package_is_drawn():
    assert list(find_drawings(DRAWING.read_text())) == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_drawing_shows_the_imports(package):
    drawn, expected = find_drawings(DRAWING.read_text())[package], draw(package)
    assert drawn.strip() == expected, (
        f"`make drawings` writes this into {DRAWING.name}:\n{expected}"
    )
