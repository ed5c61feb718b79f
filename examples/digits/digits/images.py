"""The 1,797 handwritten digits that scikit-learn brings along, split in two halves.

Source: the test set of "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (Alpaydin, Kaynak).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Half(NamedTuple):
    """Pictures of shape (n, 64) with grey values from 0 to 16, and the n digits that they show."""

    pixels: NDArray[np.float32]
    digits: NDArray[np.int64]


def halves() -> tuple[Half, Half]:
    """The half to train on and the half to ask about; the same ones each time, with every digit alike in both."""
    pixels, digits = load_digits(return_X_y=True)
    train, test, train_digits, test_digits = train_test_split(
        pixels.astype(np.float32), digits, test_size=0.5, random_state=0, stratify=digits
    )
    return Half(train, train_digits), Half(test, test_digits)
