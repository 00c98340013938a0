from __future__ import annotations

import pytest

from nnunet_medseg.report.curve import BRAILLE, draw_curve


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right():
    lines = draw_curve([(0, 0), (10, 1)], 10, width=10, height=5, in_ascii=True)

    assert [line.find("*") for line in lines] == sorted(
        [line.find("*") for line in lines], reverse=True
    )
    assert lines[0].endswith("*")
    assert lines[-1].startswith("*")


def test_a_curve_has_no_gaps():
    lines = draw_curve([(0, 0), (1, 9), (2, 0)], 2, width=9, height=9, in_ascii=True)

    assert all(any(line[c : c + 1] == "*" for line in lines) for c in range(9))
    assert all("*" in line for line in lines)


def test_a_training_at_its_half_fills_the_left_half():
    lines = draw_curve([(0, 1.0), (30, 0.5)], 60, width=20, height=4, in_ascii=True)

    assert max(len(line) for line in lines) in {10, 11}


def test_a_value_beyond_the_limits_lies_on_the_border():
    lines = draw_curve([(0, 99), (5, 0), (9, 0)], 9, limits=(-1, 1), width=10, height=3)

    assert len(lines) == 3
    assert lines[0]


@pytest.mark.parametrize("points", [[(0, 1)], [(3, 0.5), (4, 0.5)]])
def test_one_point_and_a_level_curve_are_shown(points):
    (line,) = [line for line in draw_curve(points, 10, height=5) if line]

    assert line.strip() not in {"", BRAILLE}


def test_nothing_is_drawn_of_nothing():
    assert draw_curve([], 10) == []


def test_ascii_is_ascii_and_braille_is_finer():
    points = [(x, x * x) for x in range(30)]

    plain, fine = (draw_curve(points, 30, in_ascii=flag) for flag in (True, False))

    assert all(line.isascii() for line in plain)
    assert len({*"".join(fine)}) > len({*"".join(plain)})
