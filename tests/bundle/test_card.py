"""The model card that the user fills in."""

from __future__ import annotations

import pytest

from nnunet_medseg.bundle.card import CARD_FIELDS, check_card, read_card
from nnunet_medseg.errors import UsageError


def test_a_card_is_read_in_the_order_of_its_fields(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text(
        '\ufefflicence = "CC BY 4.0"\nintended_use = """\nCounting\n"""\ncontact = " "\n'
    )

    assert list(read_card(path).items()) == [
        ("intended_use", "Counting"),
        ("licence", "CC BY 4.0"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"licence = ", "is not TOML"),
        (b"\xff\xfe\x00", "is not TOML"),
        (b"licence = 4", "licence"),
        (b'license = "MIT"', "license"),
        (b"[licence]\nname = 'MIT'", "licence"),
        (b"#" * 200_000, "100 kB"),
        (b"a = " + b"[" * 3000, "is not TOML"),
    ],
)
def test_a_card_that_cannot_be_used_is_refused_with_the_fix(tmp_path, content, said):
    path = tmp_path / "card.toml"
    path.write_bytes(content)

    with pytest.raises(UsageError) as error:
        read_card(path)

    assert said in error.value.problem
    assert error.value.fix


def test_a_card_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_card(tmp_path / "card.toml")


def test_a_card_may_be_given_as_a_table():
    assert check_card({"contact": "the lab"}) == {"contact": "the lab"}
    with pytest.raises(UsageError):
        check_card(["contact"])
    assert len(CARD_FIELDS) == 9
