"""What can be varied: every range up to its edges, one way to write a value, and grids."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_medseg.errors import UsageError
from nnunet_medseg.workflows.variables import (
    AUTO,
    MAX_VARIANTS,
    VARIABLES,
    numbers_of,
    parse_grid,
    read_variables,
)

ACCEPTED = [
    *(("configuration", value, value) for value in ("2d", "3d_fullres", "3d_lowres")),
    ("configuration", "3D_FullRes", "3d_fullres"),
    *(
        ("network", value, value)
        for value in ("default", "small", "resenc_m", "resenc_l", "resenc_xl")
    ),
    ("spacing", "3x1.5x1.5", "3x1.5x1.5"),
    ("spacing", "0.001x100x1", "0.001x100x1"),
    ("spacing", " 3.0 X 1.50 x 01.5 ", "3x1.5x1.5"),
    ("patch_size", "8x1024x64", "8x1024x64"),
    ("patch_size", "064x96", "64x96"),
    ("batch_size", "1", 1),
    ("batch_size", "512", 512),
    ("batch_size", "007", 7),
    ("learning_rate", "0.000001", 1e-6),
    ("learning_rate", "1e-6", 1e-6),
    ("learning_rate", "1", 1.0),
    ("learning_rate", ".05", 0.05),
    ("augmentation", "0", 0.0),
    ("augmentation", "2", 2.0),
    ("mirroring", "on", "on"),
    ("mirroring", "OFF", "off"),
    ("oversampling", "0", 0.0),
    ("oversampling", "1.0", 1.0),
]
REFUSED = [
    ("configuration", "3d"),
    ("configuration", "3d_cascade_fullres"),
    ("network", "resenc"),
    ("network", "large"),
    ("spacing", "1x1"),
    ("spacing", "1x1x1x1"),
    ("spacing", "0x1x1"),
    ("spacing", "0.00099x1x1"),
    ("spacing", "100.1x1x1"),
    ("spacing", "-1x1x1"),
    ("spacing", "1,1,1"),
    ("spacing", "1xx1"),
    ("patch_size", "64"),
    ("patch_size", "7x64x64"),
    ("patch_size", "64x64x1025"),
    ("patch_size", "64x64x64x64"),
    ("patch_size", "64.5x64x64"),
    ("patch_size", "-64x64x64"),
    ("patch_size", "64x64x+64"),
    ("batch_size", "0"),
    ("batch_size", "513"),
    ("batch_size", "-1"),
    ("batch_size", "2.0"),
    ("batch_size", "1e2"),
    ("batch_size", "²"),
    ("batch_size", "٢"),
    ("learning_rate", "0"),
    ("learning_rate", "0.00000099"),
    ("learning_rate", "1.01"),
    ("learning_rate", "-0.1"),
    ("learning_rate", "0,1"),
    ("augmentation", "-0.01"),
    ("augmentation", "2.01"),
    ("mirroring", "yes"),
    ("mirroring", "true"),
    ("oversampling", "-0.01"),
    ("oversampling", "1.01"),
]
NUMERIC = ("spacing", "patch_size", "batch_size", "learning_rate", "augmentation", "oversampling")


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text", "expected"), ACCEPTED)
def test_a_value_up_to_the_edge_of_its_range_is_read_in_one_form(name, text, expected):
    value = read_variables({name: text})[name]

    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("name", "text", "expected"), ACCEPTED)
def test_a_value_that_was_read_is_read_again_as_it_is(name, text, expected):
    assert read_variables({name: expected}) == {name: expected}


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_value_beyond_its_range_is_refused_with_what_is_accepted(name, text):
    with pytest.raises(UsageError, match=f"--{name}") as caught:
        read_variables({name: text})

    assert VARIABLES[name].allowed in caught.value.fix


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("text", ["", " ", "nonsense", "None", "[]", "\x00", "ü", "x", "xx"])
def test_nonsense_is_refused(name, text):
    with pytest.raises(UsageError, match=f"--{name}"):
        read_variables({name: text})


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize(
    "side",
    ["nan", "inf", "-inf", "1e999", "9" * 5000, "1" + "0" * 400, "00000000005129"],
    ids=lambda side: side[:10],
)
def test_no_number_and_huge_numbers_are_refused(name, side):
    text = "x".join([side] * 3) if name in {"spacing", "patch_size"} else side

    with pytest.raises(UsageError, match=f"--{name}"):
        read_variables({name: text})


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("text", ["auto", "AUTO", " Auto "])
def test_any_variable_can_be_left_to_the_program(name, text):
    assert read_variables({name: text}) == {name: AUTO}


def test_only_variables_that_were_given_are_returned():
    assert read_variables({}) == {}
    assert read_variables({"minutes": "5", "batch_size": "3"}) == {"batch_size": 3}


@given(st.lists(st.floats(1e-3, 100.0), min_size=3, max_size=3))
def test_sides_come_back_as_numbers_up_to_six_digits(sides):
    text = read_variables({"spacing": "x".join(repr(side) for side in sides)})["spacing"]

    assert numbers_of(text) == pytest.approx(sides, rel=1e-5)
    assert read_variables({"spacing": text}) == {"spacing": text}


@given(st.lists(st.integers(8, 1024), min_size=2, max_size=3))
def test_sides_of_a_patch_come_back_as_they_were(sides):
    text = read_variables({"patch_size": "x".join(map(str, sides))})["patch_size"]

    assert numbers_of(text) == tuple(sides)


TEXTS = st.text(max_size=20) | st.from_regex(r"[0-9x.eE+\-_ ,]{0,20}", fullmatch=True)


@given(st.sampled_from(list(VARIABLES)), TEXTS)
@example("batch_size", "1_0")
@example("spacing", "1_0x1x1")
@example("patch_size", "9" * 4301 + "x8")
def test_any_text_is_read_within_the_range_or_refused(name, text):
    try:
        value = read_variables({name: text})[name]
    except UsageError:
        return

    assert read_variables({name: value}) == {name: value}
    if name == "patch_size" and value != AUTO:
        assert all(8 <= side <= 1024 for side in numbers_of(value))
    if name == "batch_size" and value != AUTO:
        assert 1 <= value <= 512


# --- grids -------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_with_the_last_axis_changing_first():
    grid = parse_grid(["learning_rate=0.05,0.01", "mirroring=on,off"])

    assert grid == (
        {"learning_rate": 0.05, "mirroring": "on"},
        {"learning_rate": 0.05, "mirroring": "off"},
        {"learning_rate": 0.01, "mirroring": "on"},
        {"learning_rate": 0.01, "mirroring": "off"},
    )


def test_values_keep_their_order_and_those_that_are_the_same_count_once():
    grid = parse_grid(["learning_rate=0.1, .05,0.1,1e-1,0.05"])

    assert [variant["learning_rate"] for variant in grid] == [0.1, 0.05]


def test_dashes_in_a_name_and_the_choice_of_the_program_are_taken():
    assert parse_grid(["batch-size=auto,4"]) == ({"batch_size": AUTO}, {"batch_size": 4})


def test_seeds_can_be_varied():
    assert parse_grid(["seed=1,2"]) == ({"seed": "1"}, {"seed": "2"})


def test_an_axis_of_one_value_goes_with_every_variant():
    grid = parse_grid(["network=small", "seed=1,2"])

    assert [variant["network"] for variant in grid] == ["small", "small"]


@pytest.mark.parametrize(
    "wish", ["minutes=1,2", "plan=auto,default", "=1,2", "", "fold=0,1", "--seed=1,2"]
)
def test_what_cannot_be_varied_is_refused_with_what_can(wish):
    with pytest.raises(UsageError, match="cannot be varied") as caught:
        parse_grid([wish])

    assert "learning_rate" in caught.value.fix
    assert "seed" in caught.value.fix


@pytest.mark.parametrize("again", ["mirroring=off", "mirroring=on,off"])
def test_a_variable_that_comes_twice_is_refused(again):
    with pytest.raises(UsageError, match="comes twice"):
        parse_grid(["mirroring=on,off", again])


@pytest.mark.parametrize("wish", ["mirroring", "mirroring=", "mirroring=on,", "batch_size=2,x"])
def test_a_value_of_a_grid_that_is_not_accepted_is_refused(wish):
    name = wish.partition("=")[0]

    with pytest.raises(UsageError, match=f"--{name} .*is not accepted"):
        parse_grid([wish])


@pytest.mark.parametrize("wishes", [[], ["mirroring=on"], ["mirroring=on,ON", "network=small"]])
def test_fewer_than_two_variants_are_no_comparison(wishes):
    with pytest.raises(UsageError, match="--vary gives 1 variant"):
        parse_grid(wishes)


def seeds(number: int) -> str:
    return "seed=" + ",".join(str(seed) for seed in range(number))


def test_as_many_variants_as_allowed_are_taken_and_one_more_is_refused():
    assert len(parse_grid([seeds(MAX_VARIANTS)])) == MAX_VARIANTS
    with pytest.raises(UsageError, match=f"gives {MAX_VARIANTS + 1} variants"):
        parse_grid([seeds(MAX_VARIANTS + 1)])


def test_a_grid_that_no_memory_holds_is_counted_and_refused():
    thousand = ",".join(str(number / 1000) for number in range(1, 1001))
    wishes = [f"{name}={thousand}" for name in ("learning_rate", "augmentation", "oversampling")]

    with pytest.raises(UsageError, match="gives 1000000000 variants"):
        parse_grid(wishes)


@given(st.lists(TEXTS | st.sampled_from(["seed=1,2", "network=small,default"]), max_size=4))
def test_any_text_is_a_grid_or_refused(wishes):
    try:
        grid = parse_grid(wishes)
    except UsageError:
        return

    assert 2 <= len(grid) <= MAX_VARIANTS
