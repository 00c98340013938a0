"""Curves as text: for terminals, and for logs that know no more than ASCII."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["BRAILLE", "WIDTH", "draw_curve"]

WIDTH = 60  # signs of a line

# The eight dots of a sign of braille, two columns and four rows (Unicode, block U+2800).
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
EMPTY = 0x2800
BRAILLE = chr(EMPTY)


def draw_curve(
    points: Sequence[tuple[float, float]],
    end: float,
    *,
    limits: tuple[float, float] | None = None,
    width: int = WIDTH,
    height: int = 5,
    in_ascii: bool = False,
) -> list[str]:
    """Draw a curve into lines of text, the highest value in the first one.

    Args:
        points: x and y, with x rising; y is finite.
        end: The x at the right border; the left one is 0.
        limits: The y at the lower and at the upper border, beyond which the curve is drawn on the
            border; None for the lowest and the highest of the points.
        width: Signs of a line.
        height: Lines.
        in_ascii: Whether to draw with stars in place of dots of braille.

    Returns:
        Lines without what names the axes; none for no points.

    Examples:
        >>> draw_curve([(0, 0), (4, 4)], 4, width=5, height=5, in_ascii=True)
        ['    *', '   *', '  *', ' *', '*']
    """
    if not points:
        return []
    ys = [y for _, y in points]
    low, high = limits or (min(ys), max(ys))
    points = [(x, min(max(y, low), high)) for x, y in points]
    across, down = (1, 1) if in_ascii else (2, 4)
    pixels = np.zeros((height * down, width * across), dtype=bool)
    for rows, column in _pixels(points, end, (low, high), pixels.shape):
        pixels[rows, column] = True
    cells = pixels.reshape(height, down, width, across).transpose(0, 2, 1, 3)
    return ["".join(_sign(cell, in_ascii=in_ascii) for cell in line).rstrip() for line in cells]


def _pixels(
    points: Sequence[tuple[float, float]],
    end: float,
    limits: tuple[float, float],
    shape: tuple[int, ...],
) -> Iterator[tuple[slice, int]]:
    """Yield the rows of each column that the curve passes, without gaps."""
    rows, columns = shape
    xs, ys = np.array(points, dtype=float).T
    places = np.clip(xs / max(end, float(xs[-1]), 1e-9), 0.0, 1.0) * (columns - 1)
    low, high = limits
    span = high - low or 1.0
    before: int | None = None
    for column in range(round(float(places[0])), round(float(places[-1])) + 1):
        value = float(np.interp(column, places, ys))
        row = round((high - value) / span * (rows - 1))
        first, last = sorted((row, row if before is None else before))
        # What the column before has drawn is not drawn again.
        if before is not None and first != last:
            first, last = (first + 1, last) if row > before else (first, last - 1)
        yield slice(first, last + 1), column
        before = row


def _sign(cell: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], *, in_ascii: bool) -> str:
    if not cell.any():
        return " "
    if in_ascii:
        return "*"
    return chr(EMPTY + sum(DOTS[row][column] for row, column in np.argwhere(cell)))
