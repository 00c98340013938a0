"""Images and patients, counted in words."""

from __future__ import annotations

from nnunet_medseg.console import counted

__all__ = ["patients_in_words"]


def patients_in_words(images: int, patients: int, noun: str = "") -> str:
    """Say how many patients there are, and how many images they have if that is another number.

    Args:
        images: How many of all these patients there are.
        patients: How many.
        noun: For one of them, such as "patient"; empty for the bare number.

    Examples:
        >>> patients_in_words(12, 12, "patient")
        '12 patients'
        >>> patients_in_words(8, 4, "held-out patient")
        '8 images of 4 held-out patients'
        >>> patients_in_words(8, 4)
        '8 images of 4'
    """
    shown = counted(patients, noun) if noun else str(patients)
    return shown if patients == images else f"{counted(images, 'image')} of {shown}"
