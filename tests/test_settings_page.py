"""docs/settings.md tells every setting as the groups define it."""

from tests.settings_page import PAGE, iter_groups, rewrite, write_table


def test_every_group_is_on_the_page_with_the_rows_of_today():
    text = PAGE.read_text()
    for name, group in iter_groups():
        assert f"<!-- group:{name} -->\n{write_table(name, group)}" in text, (
            "`python -m tests.settings_page` writes the tables of today"
        )


def test_a_page_that_says_something_else_is_mended():
    text = PAGE.read_text()
    wrong = text.replace("| `ingest.retention` | `0.1` |", "| `ingest.retention` | `0.2` |")
    assert wrong != text
    assert rewrite(wrong) == text
