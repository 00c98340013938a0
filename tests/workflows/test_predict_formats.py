"""Prediction of files that reading puts right: each gets its segmentation, in its own format."""

from __future__ import annotations

import nibabel
import numpy as np
import tifffile
from foreign_models import write_stock_folder
from makers import make_image

from nnunet_medseg.volume import read_volume
from nnunet_medseg.workflows.predict import predict


def test_files_that_nnunet_cannot_read_are_segmented(tmp_path, capsys):
    write_stock_folder(tmp_path / "model")
    images = tmp_path / "images"
    images.mkdir()
    array = make_image().array
    sheared, rounded = np.eye(4), np.eye(4)
    sheared[0, 1], rounded[0, 1] = 0.3, 4e-4
    nibabel.save(nibabel.Nifti1Image(array.T, sheared), images / "sheared.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array.T, rounded), images / "rounded.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array.T[..., None], np.eye(4)), images / "one.nii.gz")
    tifffile.imwrite(images / "bare.tif", array, photometric="minisblack", metadata=None)

    written = predict(images, tmp_path / "out", tmp_path / "model", tmp_path / "work", device="cpu")

    assert [path.name for path in written] == [
        "bare.tif",
        "one.nii.gz",
        "rounded.nii.gz",
        "sheared.nii.gz",
    ]
    for path in written:
        image, result = read_volume(images / path.name), read_volume(path)
        assert result.array.shape == image.array.shape
        np.testing.assert_allclose(result.affine, image.affine, atol=1e-5)
        assert result.array.dtype.kind in "iu"
    shown = capsys.readouterr().out
    assert "1 mm is assumed" in shown
