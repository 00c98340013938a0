from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.errors import UsageError
from nnunet_medseg.workflows.options import check_name, read_train_options


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
