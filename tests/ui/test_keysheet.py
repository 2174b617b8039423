"""Every key has words, in the sheet and in docs/guide/keys.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_mil.ui.keysheet import keys_of

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "keys.md"


def test_every_key_is_in_the_sheet_and_in_the_docs(quick_bench):
    keys, sheet = keys_of(quick_bench.desk), quick_bench.show_keys()
    page = PAGE.read_text(encoding="utf-8")
    for key, words in keys.items():
        assert words
        assert words in sheet.table.text()
        assert f"| `{key}` | {words} |" in page
    assert page.count("\n| `") == len(keys)
    sheet.close()
