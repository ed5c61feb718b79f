"""The 1,797 handwritten digits that scikit-learn brings along, split in two halves.

Source: the test set of "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (Alpaydin, Kaynak).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DIGITS = 10
FEATURES = 65
"""64 grey values and a one, for the bias."""


class Half(NamedTuple):
    """Pictures of shape (n, 65) with values from 0 to 1, and the n digits that they show."""

    features: NDArray[np.float64]
    digits: NDArray[np.int64]


def halves() -> tuple[Half, Half]:
    """The half to train on and the half to ask about: every other picture."""
    from sklearn.datasets import load_digits  # only where it is needed: the import takes a second

    pixels, digits = load_digits(return_X_y=True)
    features = np.hstack((pixels / 16, np.ones((len(pixels), 1))))
    return Half(features[::2], digits[::2]), Half(features[1::2], digits[1::2])
