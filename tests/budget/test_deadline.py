"""What a deadline leaves for training."""

from __future__ import annotations

import pytest

from nnunet_medseg.budget.deadline import segmentation_s, training_that_fits_s, windows


def test_what_is_left_is_shared_by_the_trainings():
    assert training_that_fits_s(100.0, 40.0, 3, is_evaluated=False) == 20


def test_an_evaluation_takes_a_tenth_of_its_training():
    fits_s = training_that_fits_s(150.0, 40.0, 1, is_evaluated=True)

    assert fits_s * 1.1 + 40 == pytest.approx(150)


def test_a_deadline_that_is_too_near_leaves_less_than_nothing():
    assert training_that_fits_s(10.0, 40.0, 1, is_evaluated=True) < 0


def test_a_small_image_is_one_window():
    assert windows((8, 8, 8), (1.0, 1.0, 1.0), (16.0, 16.0, 16.0)) == 1


def test_windows_are_counted_in_millimetres_not_in_voxels():
    fine = windows((128, 128, 128), (0.5, 0.5, 0.5), (32.0, 32.0, 32.0))

    assert fine == windows((64, 64, 64), (1.0, 1.0, 1.0), (32.0, 32.0, 32.0)) == 27


def test_a_2d_network_takes_every_slice():
    assert windows((64, 64, 10), (1.0, 1.0, 5.0), (32.0, 32.0)) == 90


def test_a_segmentation_is_forecast_from_a_training_step():
    # Twice as slow as in training, of whose step the forward pass is two fifths, for each patch.
    assert segmentation_s(27, 2, 1.0) == pytest.approx(27 * 2 * 0.4 / 2)
