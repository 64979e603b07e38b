"""Compressed COCO run-length codes, read with NumPy.

pycocotools, which writes them, takes the runs on trust: where they end early it hands out memory
nothing was written to, and a score of that is different every time. Here the runs can be looked at
before they become a mask.
"""

from collections.abc import Mapping

import numpy as np


def run_lengths(counts: str) -> np.ndarray:
    """Lengths (R,) int64 of the runs: background, foreground, background ..., down the columns.

    A number is written in groups of five bits, the lowest first, one character each, whose sixth
    bit says that another follows; the fifth bit of the last one is the sign. From the fourth number
    on it is the difference to the number two before.

    Raises:
        ValueError: The text is no such code.
    """
    codes = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - ord("0")
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("counts are not compressed as by pycocotools")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("counts have a number of more than 32 bits")
    places = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << places, starts)
    runs -= ((codes[ends] & 16) > 0) * (1 << 5 * lengths)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise ValueError("counts have a run of negative length")
    return runs


def checked_rle(rle, where: str) -> dict:
    """The RLE in plain Python types: `{"size": [H, W], "counts": str}`, its runs filling the mask.

    Args:
        rle: What came from outside.
        where: What to call it in an error.

    Raises:
        ValueError: It is no compressed COCO RLE with counts as text.
    """
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= set(rle):
        raise ValueError(
            f"{where} is of type {type(rle).__name__}, not a COCO RLE {{'size': [H, W], 'counts': "
            "str}; a frame without the object has the RLE of an all-zero mask"
        )
    counts = rle["counts"]
    if isinstance(counts, bytes):
        raise ValueError(f"{where} has counts in bytes; give counts.decode('ascii')")
    if not isinstance(counts, str):
        raise ValueError(
            f"{where} has counts of type {type(counts).__name__}; compress it with "
            "pycocotools.mask.frPyObjects(rle, height, width)"
        )
    try:
        height, width = map(int, rle["size"])
        covered = int(run_lengths(counts).sum())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is no COCO RLE: {error}") from None
    if min(height, width) < 1 or covered != height * width:
        raise ValueError(f"{where} is {height} x {width}, but its runs cover {covered} pixels")
    return {"size": [height, width], "counts": counts}


def decode(rle: dict) -> np.ndarray:
    """Mask (H, W) bool of `{"size": [H, W], "counts": str}`.

    Raises:
        ValueError: The counts are no code, or their runs do not fill the mask.
    """
    runs = run_lengths(rle["counts"])
    height, width = rle["size"]
    if runs.sum() != height * width:  # looked at first: a damaged run may be of any length
        raise ValueError(f"{height} x {width}, but its runs cover {runs.sum()} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
