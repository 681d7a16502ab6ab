"""The README's table of settings and settings.py say the same."""

from __future__ import annotations

import re

from architecture.repository import ROOT
from openstream_runtime.settings import Settings

_ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]+\*?)` \|([^|]*)\|(.*)\|\s*$", re.MULTILINE)


def test_the_readme_lists_exactly_the_variables_that_are_read() -> None:
    rows = [match[1] for match in _ROW.finditer((ROOT / "README.md").read_text())]
    read = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert len(rows) == len(set(rows)), "a variable stands in the table twice"
    assert set(rows) == read, f"missing: {sorted(read - set(rows))}; not read: {sorted(set(rows) - read)}"


def test_every_row_says_what_the_variable_is_for() -> None:
    empty = [match[1] for match in _ROW.finditer((ROOT / "README.md").read_text()) if len(match[3].strip()) < 10]
    assert empty == []


def test_every_default_that_is_a_number_or_a_word_stands_in_its_row() -> None:
    cells = {match[1]: match[2] for match in _ROW.finditer((ROOT / "README.md").read_text())}
    wrong = []
    for field in Settings.model_fields.values():
        cell = cells.get(str(field.validation_alias))
        if cell is None or field.is_required() or not isinstance(field.default, int | float | str):
            continue
        if isinstance(field.default, bool) or field.default == "":
            continue
        plain = cell.replace(",", "").replace("_", "").replace("`", "")
        if str(field.default).replace("_", "") not in plain:
            wrong.append(f"{field.validation_alias}: {cell.strip()!r} does not say {field.default}")
    assert wrong == []
