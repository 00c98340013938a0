"""The reference of layouts, formats, rules and repairs is what the code says."""

from __future__ import annotations

import pytest
from dataset_tables import FORMATS, PAGE, first_line, formats, layouts, name_of, page, rules

from nnunet_medseg.volume import EXTENSIONS


def test_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/dataset_tables.py"


def test_every_layout_and_format_is_in_the_tables():
    assert {"patient folders: `patient_folders`", "nnU-Net raw: `nnunet_raw`"} <= {
        name for name, _ in layouts()
    }
    assert {f"`{ending}`" for ending in EXTENSIONS} <= {ending for ending, _ in formats()}
    assert set(EXTENSIONS) <= set(FORMATS)


def test_every_rule_says_what_it_looks_for():
    found = rules("CASE_RULES")

    assert len(found) == len(dict(found)) > 2
    assert all(text and len(text) < 300 for _, text in found)


def test_a_rule_without_words_is_seen():
    with pytest.raises(AssertionError, match="no docstring"):
        first_line(lambda: None)


def test_a_rule_may_stand_in_a_pair_with_its_name():
    assert name_of(("empty label map", first_line)) == "empty label map"
    assert name_of(first_line) == "first line"
