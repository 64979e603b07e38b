"""Fixtures that several test files share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

CORPUS = [
    "a red dog on the left",
    "the person wearing white is running",
    "two cats and a big blue car move to the right",
    "the smallest panda climbing over another one",
]
SPRITE_NOUNS = ("apple", "boat", "book", "cactus", "car", "clock", "dog", "key", "star", "tree")
NEW_SPRITE_NOUNS = ("bell", "drum", "magnet")  # left out unless asked for


@pytest.fixture(scope="session")
def golden_dir() -> Callable[[str], Path]:
    """Folder of a golden set by name; the test is skipped where the set is absent.

    The sets are looked for in `FINDTRACK_GOLDEN`, by default in the copy beside the tests.
    """
    root = Path(os.environ.get("FINDTRACK_GOLDEN") or Path(__file__).parent / "golden")

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"golden set {name} is not in {root}; set FINDTRACK_GOLDEN")
        return root / name

    return find


@pytest.fixture(scope="session")
def tokenizers():
    """(BEiT-3, CLIP) tokenizers of the real classes, trained on four sentences."""
    from transformers import CLIPTokenizer, XLMRobertaTokenizer

    beit3 = XLMRobertaTokenizer().train_new_from_iterator(CORPUS, 200, show_progress=False)
    clip = CLIPTokenizer().train_new_from_iterator(CORPUS, 600, show_progress=False)
    beit3.model_max_length, clip.model_max_length = 64, 77
    return beit3, clip


@pytest.fixture(scope="session")
def art_dir(tmp_path_factory) -> Path:
    """A bank of sprite art: white polygons, one shape per noun, the same in every style."""
    import cv2
    import numpy as np

    from training.sprite_art import HELDOUT_STYLES, TRAIN_STYLES, save_art

    images = {}
    for n, noun in enumerate((*SPRITE_NOUNS, *NEW_SPRITE_NOUNS)):
        angles = np.linspace(0, 2 * np.pi, n + 3, endpoint=False)
        points = 32 + 31 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        alpha = np.zeros((64, 64), np.uint8)
        cv2.fillPoly(alpha, [np.int32(points * 16)], 255, cv2.LINE_AA, 4)
        image = np.dstack([np.full((64, 64, 3), 255, np.uint8), alpha])
        for style in (*TRAIN_STYLES, *HELDOUT_STYLES):
            images[noun, style] = image
    root = tmp_path_factory.mktemp("art") / "bank"
    save_art(root, images, {"sources": [], "new_nouns": NEW_SPRITE_NOUNS})
    return root
