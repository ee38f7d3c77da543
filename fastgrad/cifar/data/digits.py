"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8x8, grey. Needs no download."""

import numpy as np


def read() -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays train_x, train_y, test_x, test_y and the class names; a fifth of each class is for testing.

    The split is fixed and stratified. Neighbouring images are often by the same writer and can fall on both
    sides, so the accuracy says how well a run works, not how well a digit reader would generalise.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]  # [N, 1, 8, 8]
    is_test = rank_in_class(labels) % 5 == 4
    arrays = dict(
        train_x=images[~is_test], train_y=labels[~is_test], test_x=images[is_test], test_y=labels[is_test]
    )
    return arrays, tuple(str(name) for name in digits.target_names)


def rank_in_class(labels: np.ndarray) -> np.ndarray:  # [N] -> [N]
    """How many earlier images have the same label."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty_like(labels)
    ranks[order] = np.arange(len(labels)) - first
    return ranks
