"""DICOM: series of images, segmentations (SEG) and contours (RTSTRUCT), in and out.

Nothing here imports pydicom or highdicom before it is used.
"""
