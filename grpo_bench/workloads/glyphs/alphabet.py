"""Sixteen hand-drawn letters of 5 x 7 dots, and their masks at every place where a picture may have them.

They were picked for being alike: E F, P R B, C G, O Q D, H K N, U V differ by one small part each. A dot is two pixels
wide. A picture has two places for a letter, side by side, and both letters are shifted together.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIDE = 32
"""Pixels along an edge of a picture."""
DOT = 2
"""Pixels along an edge of a dot."""
FINE = 4
"""Shifts are whole numbers of 1 / FINE pixels."""
REACH = 6
"""The largest shift in either direction, in units of 1 / FINE pixels."""
LEFT, GAP, TOP = 4, 4, 9
"""Where the left letter begins, the pixels between the letters, and their upper edge, unshifted."""
PLACES = 2

DOTS = {
    "B": "####. #...# #...# ####. #...# #...# ####.",
    "C": ".###. #...# #.... #.... #.... #...# .###.",
    "D": "####. #...# #...# #...# #...# #...# ####.",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "G": ".###. #...# #.... #.### #...# #...# .###.",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "O": ".###. #...# #...# #...# #...# #...# .###.",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "Q": ".###. #...# #...# #...# #.#.# #..#. .##.#",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "V": "#...# #...# #...# #...# .#.#. .#.#. ..#..",
}
LETTERS = "".join(DOTS)


@cache
def masks() -> Floats:
    """Ink of each letter (letters, places, shifts down, shifts right, 32, 32) in [0, 1], read-only.

    Shifts run from -REACH to REACH. Drawn four times as large and averaged, so that edges are anti-aliased.
    """
    dots = np.array([[[dot == "#" for dot in row] for row in text.split()] for text in DOTS.values()], np.float32)
    fine = np.kron(dots, np.ones((DOT * FINE, DOT * FINE), np.float32))
    high, wide = fine.shape[1:]
    shifts = range(-REACH, REACH + 1)
    out = np.zeros((len(DOTS), PLACES, len(shifts), len(shifts), SIDE, SIDE), np.float32)
    for place in range(PLACES):
        left = (LEFT + place * (wide // FINE + GAP)) * FINE
        for row, down in enumerate(shifts):
            for column, right in enumerate(shifts):
                canvas = np.zeros((len(DOTS), SIDE * FINE, SIDE * FINE), np.float32)
                y, x = TOP * FINE + down, left + right
                canvas[:, y : y + high, x : x + wide] = fine
                out[:, place, row, column] = canvas.reshape(-1, SIDE, FINE, SIDE, FINE).mean((2, 4))
    out.flags.writeable = False
    return out
