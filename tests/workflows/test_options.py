from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.errors import UsageError
from nnunet_medseg.workflows.options import (
    check_name,
    command_of,
    parse_renamed,
    read_train_options,
    variants_of,
)


def test_the_defaults_are_those_of_the_contract():
    options = read_train_options()

    assert (options.dataset_name, options.label, options.image_type) == ("No_Name", "NONE", "NONE")
    assert (options.minutes, options.fold, options.extension) == (60, "all", None)


@pytest.mark.parametrize(("text", "minutes"), [("60", 60), ("2.5", 2.5), ("0,5", 0.5), (7, 7)])
def test_minutes_may_have_decimals(text, minutes):
    assert read_train_options(minutes=text).minutes == minutes


@pytest.mark.parametrize("text", ["0", "-1", "abc", "", "inf", "nan", "1e99", None])
def test_other_minutes_are_refused(text):
    with pytest.raises(UsageError, match="-t"):
        read_train_options(minutes=text)


@pytest.mark.parametrize(
    "name", ["Liver_CT", "Lungenkrebs Größe 2", "0815", "a" * 64, "x(1)+y-z.v2"]
)
def test_names_that_can_be_folders_are_taken(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "a/b", "a\\b", "CON", "nul.txt", "LPT1", "a.", "a ", ".a",
     "a" * 65, "a:b", "a*b", "a\nb", "a\x00b", "-d"],
)  # fmt: skip
def test_names_that_cannot_be_folders_everywhere_are_refused(name):
    with pytest.raises(UsageError, match="-d"):
        check_name(name)


@given(st.text(max_size=80))
def test_a_name_that_is_taken_stays_inside_its_folder(name):
    try:
        taken = check_name(name)
    except UsageError:
        return
    assert not set(taken) & set('/\\:*?"<>|\0\n')
    assert taken not in {".", ".."}


def test_a_plan_is_made_for_the_minutes_unless_nnunets_own_is_asked_for():
    assert read_train_options().plan == "auto"
    assert read_train_options(plan="default").plan == "default"


def test_another_way_of_planning_is_refused_with_the_ways_there_are():
    with pytest.raises(UsageError, match="--plan large") as refused:
        read_train_options(plan="large")

    assert "auto, default" in refused.value.fix


# --- seeds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seed"), [("0", 0), ("2147483647", 2**31 - 1), (7, 7)])
def test_seeds_that_torch_takes_are_taken(text, seed):
    assert read_train_options(seed=text).seed == seed


@pytest.mark.parametrize(
    "text",
    ["-1", "2147483648", "1.5", "x", "", "²", None, "9" * 5000],
    ids=lambda text: str(text)[:9],
)
def test_other_seeds_are_refused(text):
    with pytest.raises(UsageError, match="--seed"):
        read_train_options(seed=text)


# --- options that contradict each other --------------------------------------------------------

VARY = "learning_rate=0.05,0.01"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vary": VARY, "fold": "cv"}, "-f cv"),
        ({"map_labels": "a=b"}, "--pretrained"),
        ({"against_scratch": True}, "--pretrained"),
        ({"pretrained": "model", "vary": VARY}, "--vary"),
        ({"pretrained": "model", "fold": "cv"}, "-f all or -f 0"),
        ({"pretrained": "model", "network": "small"}, "without --pretrained"),
        ({"pretrained": "model", "spacing": "1x1x1"}, "without --pretrained"),
        ({"pretrained": "model", "patch_size": "64x64x64"}, "without --pretrained"),
        ({"pretrained": "model", "configuration": "2d"}, "without --pretrained"),
        ({"pretrained": "model", "plan": "default"}, "without --pretrained"),
        ({"configuration": "3d_lowres", "spacing": "2x2x2"}, "3d_fullres"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_with_what_goes(given, words):
    with pytest.raises(UsageError) as caught:
        read_train_options(**given)

    assert words in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    "given",
    [
        {"vary": VARY, "fold": "0"},
        {"vary": VARY, "network": "small"},
        {"fold": "cv", "keep_dataset": True},
        {"pretrained": "model", "map_labels": "a=b", "against_scratch": True, "fold": "0"},
        {"pretrained": "model", "batch_size": "4", "learning_rate": "0.01"},
        {"pretrained": "model", "network": "auto", "spacing": "auto"},
    ],
    ids=str,
)
def test_options_that_go_together_are_taken(given):
    options = read_train_options(**given)

    assert read_train_options(**options.to_json()) == options


@pytest.mark.parametrize("vary", ["seed=1,x", "learning_rate=0.1,2", "minutes=1,2", "fold=0,1"])
def test_a_variant_that_is_not_possible_is_refused_before_any_training(vary):
    with pytest.raises(UsageError):
        read_train_options(vary=vary, fold="0")


def test_variants_are_what_the_options_vary():
    assert variants_of(read_train_options()) == ()
    assert variants_of(read_train_options(vary=f"{VARY} seed=1,2", fold="0")) == (
        {"learning_rate": 0.05, "seed": "1"},
        {"learning_rate": 0.05, "seed": "2"},
        {"learning_rate": 0.01, "seed": "1"},
        {"learning_rate": 0.01, "seed": "2"},
    )


# --- labels of a model to start from -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a=b", {"a": "b"}),
        (" a = b , c=d,", {"a": "b", "c": "d"}),
        ("links ü=rechts", {"links ü": "rechts"}),
    ],
)
def test_labels_are_renamed_from_the_models_name_to_the_datasets(text, expected):
    assert parse_renamed(text) == expected


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b=c", "a=b,a=c", "a=c,b=c", "a=b,a=b"])
def test_other_lists_of_labels_are_refused(text):
    with pytest.raises(UsageError, match="--map_labels"):
        parse_renamed(text)


@given(st.text(max_size=30))
def test_any_text_is_a_list_of_labels_or_refused(text):
    try:
        names = parse_renamed(text)
    except UsageError:
        return

    assert all(old and new for old, new in names.items())


# --- the command that asks for the same again --------------------------------------------------


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "python3 exe_train.py -d No_Name -t 60 -f all"),
        (
            {"dataset_name": "My Liver", "label": "LIVER=1,TUMOR=2", "minutes": 2.5, "seed": 3},
            "python3 exe_train.py -d 'My Liver' -l LIVER=1,TUMOR=2 -t 2.5 -f all --seed 3",
        ),
        (
            {"key": False, "evaluate_all": True, "learning_rate": 0.05, "delete_input": True},
            "python3 exe_train.py -d No_Name -t 60 -f all --evaluate_all --learning_rate 0.05 "
            "--no_key",
        ),
        (
            {"pretrained": "/home/anna/Miller_Anna/model", "card": {"contact": "the lab"}},
            "python3 exe_train.py -d No_Name -t 60 -f all --card card.toml --pretrained MODEL",
        ),
        (
            {"vary": "learning_rate=0.01,0.05 seed=1,2", "fold": "0"},
            "medseg vary --vary learning_rate=0.01,0.05 --vary seed=1,2 -d No_Name -t 60 -f 0",
        ),
    ],
)
def test_the_command_asks_for_the_same_again_without_a_path(options, command):
    assert command_of(read_train_options(**options)) == command


def test_a_card_is_read_once_and_kept_as_it_was(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text('licence = "CC BY 4.0"\n')

    options = read_train_options(card=path)
    path.unlink()

    assert options.card == {"licence": "CC BY 4.0"}
    assert read_train_options(**options.to_json()).card == options.card


def test_a_card_with_unknown_fields_is_refused_before_anything_is_touched():
    with pytest.raises(UsageError, match="owner"):
        read_train_options(card={"owner": "me"})
