"""Held-out pictures as a benchmark: questions, scores, tables."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import pictures
from modeling_findtrack.hub_folder import save_weights
from modeling_findtrack.results import Candidate, encode_mask
from tests import photo_trees as trees
from tests.small_models import small
from training.photos.nouns import GROUPS, confusable, nouns
from training.photos.rows import Photo, PhotoObject, encode, read_photos
from training.photos.source import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return trees.make_prepared(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def photos(folder) -> list[Photo]:
    return [p for p in read_photos(folder, "val") if p.known and p.objects]


def masks_of(photo: Photo) -> np.ndarray:
    return np.stack([thing.mask(photo.size) for thing in photo.objects])


class Listener:
    """Stands in for a model: it knows the pictures, and what was asked about them.

    Args:
        photos: The pictures.
        answer: (masks of a picture, the rows of them that are meant) -> mask.
    """

    def __init__(self, photos, answer):
        self.answer = answer
        self.known = {}
        for number, photo in enumerate(photos):
            masks = masks_of(photo)
            asked = pictures.questions(photo, masks, number)
            meant = {question.pair.text: question.pair.objects for question in asked}
            self.known[load(photo).tobytes()] = masks, meant

    def find(self, video, texts, *, processor):
        masks, meant = self.known[video[0].tobytes()]
        found = []
        for text in texts:
            mask = self.answer(masks, list(meant[text]))
            found.append((Candidate(0, 0.9, None, None, 0.9, encode_mask(mask)),))
        return found

    def choose(self, candidates):
        return candidates[0] if candidates[0].mask.any() else None


def right(masks, objects):
    return masks[objects].any(axis=0)


def largest(masks, objects):
    return masks[int(masks.sum(axis=(1, 2)).argmax())]


def silent(masks, objects):
    return np.zeros(masks.shape[1:], bool)


def everything(masks, objects):
    return np.ones(masks.shape[1:], bool)


def answered(photos, answer) -> list[pictures.Answer]:
    return pictures.answers(photos, Listener(photos, answer), None)


def cells(text: str) -> dict[str, list[str]]:
    """First cell of a row -> the others, as printed."""
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def last(text: str, name: str) -> float:
    return float(re.search(rf"{re.escape(name)}.*: ([\d.]+)", text)[1])


# ---- questions ---------------------------------------------------------------------------------


def test_the_same_questions_every_time(photos):
    np.random.seed(3)
    first = [pictures.questions(p, masks_of(p), n) for n, p in enumerate(photos)]
    np.random.seed(4)
    assert first == [pictures.questions(p, masks_of(p), n) for n, p in enumerate(photos)]
    assert first != [pictures.questions(p, masks_of(p), n + 1) for n, p in enumerate(photos)]
    kinds = Counter(q.pair.kind for asked in first for q in asked)
    assert set(kinds) == set(pictures.PER_KIND) and min(kinds.values()) >= 2
    for asked in first:
        for kind, count in Counter(q.pair.kind for q in asked).items():
            assert count <= pictures.PER_KIND[kind]


def test_questions_are_about_nouns_that_are_there_or_surely_not(photos):
    for number, photo in enumerate(photos):
        names = {thing.noun for thing in photo.objects}
        for asked in pictures.questions(photo, masks_of(photo), number):
            if asked.pair.kind == "no-target":
                assert asked.pair.objects == ()
                assert not any(asked.noun in confusable(name) for name in names)
            else:
                assert asked.noun in names, "not 'animal' of a dog"
                meant = {photo.objects[i].noun for i in asked.pair.objects}
                assert meant == {asked.noun}
            assert asked.word in ("", *pictures.TWINS.values())
            if asked.word:
                twins = [n for n in (t.noun for t in photo.objects) if n == asked.noun]
                assert len(twins) > 1


# ---- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1, 1, 0], [1, 0, 0], 0.5), ([0, 0], [0, 0], 1.0), ([1, 0], [0, 1], 0.0), ([1], [1], 1.0)],
)
def test_iou(a, b, expected):
    assert pictures.iou(np.array(a, bool), np.array(b, bool)) == expected


def test_right_answers_score_one_everywhere(photos):
    text = pictures.tables(answered(photos, right))
    table = cells(text)
    for name in (*GROUPS, "all", *(f"sentences: {k}" for k in pictures.PER_KIND if k[:2] != "no")):
        count, model, big, random = table[name]
        assert int(count) > 0 and model == "1.000"
        assert float(big) <= 1 and float(random) < 1
    assert table["these four"][1] == "1.000" and int(table["these four"][0]) >= 8
    for word in pictures.TWINS.values():
        assert table[word][1] == "1.000" or table[word][0] == "0"
    assert last(text, "(T-acc)") == last(text, "(N-acc)") == 1
    counts = [int(table[group][0]) for group in GROUPS]
    assert sum(counts) == int(table["all"][0])


def test_the_largest_object_scores_what_its_column_says(photos):
    found = answered(photos, largest)
    table = cells(pictures.tables(found))
    told = [table[name] for name in (*GROUPS, "all")]
    assert all(model == big for _, model, big, _ in told)
    assert 0.1 < float(table["all"][1]) < 0.9
    for answer in found:
        assert answer.iou == answer.largest or answer.kind == "no-target"
    # Of two, the larger one is right for one of "left" and "right".
    assert 0 < float(table["these four"][1]) < 1


def test_the_columns_are_those_of_the_picture(photos):
    for answer in answered(photos, right):
        photo, masks = answer.photo, masks_of(answer.photo)
        asked = pictures.questions(photo, masks, photos.index(photo))
        objects = next(q.pair.objects for q in asked if q.pair.text == answer.text)
        truth = masks[list(objects)].any(axis=0)
        each = [(m & truth).sum() / max((m | truth).sum(), 1) for m in masks]
        assert answer.random == pytest.approx(np.mean(each))
        assert answer.largest == pytest.approx(each[int(np.argmax([m.sum() for m in masks]))])
        twins = [i for i, thing in enumerate(photo.objects) if thing.noun == answer.noun]
        assert answer.rivals == len(twins) - 1
        if len(objects) == 1 and len(twins) > 1:
            assert answer.right is True
            assert answer.largest_twin == (objects[0] == max(twins, key=lambda i: masks[i].sum()))
        else:
            assert answer.right is None


def test_silence_and_noise(photos):
    quiet, loud = (pictures.tables(answered(photos, answer)) for answer in (silent, everything))
    assert (last(quiet, "(T-acc)"), last(quiet, "(N-acc)")) == (0, 1)
    assert (last(loud, "(T-acc)"), last(loud, "(N-acc)")) == (1, 0)
    assert cells(quiet)["all"][1] == cells(quiet)["these four"][1] == ".000"
    assert 0 < float(cells(loud)["all"][1]) < 0.5


def test_the_wrong_one_of_several_is_wrong(photos):
    def other(masks, objects):
        return masks[[i for i in range(len(masks)) if i not in objects]].any(axis=0)

    found = [a for a in answered(photos, other) if a.right is not None]
    assert len(found) > 8 and not any(a.right for a in found) and all(a.iou == 0 for a in found)


def test_groups_without_a_sentence_have_a_dash(photos):
    dogs = [p for p in photos if {t.noun for t in p.objects} <= {"dog", "cat"}]
    table = cells(pictures.tables(answered(dogs, right)))
    assert table["vehicles"] == ["0", "-", "-", "-"] and table["animals"][1] == "1.000"


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = small()
    save_weights(model, processor, model.state_dict(), folder)
    return str(folder)


def test_the_command_prints_tables_and_writes_answers(folder, photos, checkpoint, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    options = ["--photos", str(folder), "--model", checkpoint, "--out", str(out)]
    assert pictures.main(options) == 0
    text = capsys.readouterr().out
    assert all(group in cells(text) for group in GROUPS) and "T-acc" in text
    rows = json.loads((out / "answers.json").read_text())
    asked = [q for n, p in enumerate(photos) for q in pictures.questions(p, masks_of(p), n)]
    assert [row["text"] for row in rows] == [q.pair.text for q in asked]
    assert [row["kind"] for row in rows] == [q.pair.kind for q in asked]
    assert all(0 <= row["iou"] <= 1 and row["right"] in (True, False, None) for row in rows)
    assert {row["picture"] for row in rows} == {p.path for p in photos}
    with Image.open(out / "sheet.png") as sheet:
        assert np.array(sheet).min() < 50
    assert pictures.main(options[:-2]) == 0
    assert capsys.readouterr().out == text, "the same again"


def speck(path: Path) -> Photo:
    """A picture that nothing can be said about."""
    mask = np.zeros(trees.SIZE, bool)
    mask[:2, :2] = True
    trees.write(trees.picture([mask]), path)
    things = (PhotoObject("hat", encode(mask)),)
    return Photo(str(path), trees.SIZE, "val", "ccp", ("person",), things)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda root, photos: root, "holds no photos.jsonl"),
        (lambda root, photos: trees.write_index([], root), "has no val pictures with masks"),
        (
            lambda root, photos: trees.write_index([speck(root / "a.png")], root),
            "nothing can be asked",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(make, reason, photos, checkpoint, tmp_path, capsys):
    root = make(tmp_path, photos)
    assert pictures.main(["--photos", str(root), "--model", checkpoint]) == 2
    error = capsys.readouterr().err
    assert error.strip().splitlines()[-1].startswith("eval.pictures: error:") and reason in error


def test_a_picture_that_is_gone_is_one_line(photos, checkpoint, tmp_path, capsys):
    gone = Photo("gone.png", *list(vars(photos[0]).values())[1:])
    root = trees.write_index([gone], tmp_path)
    assert pictures.main(["--photos", str(root), "--model", checkpoint]) == 2
    assert "gone.png is not what was prepared" in capsys.readouterr().err


def test_a_sheet_of_absent_nouns_alone_is_blank(photos, tmp_path):
    found = [a for a in answered(photos, right) if a.kind == "no-target"]
    pictures.sheet(found, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.array(sheet).min() == 255


def test_every_group_has_nouns():
    assert {noun.group for noun in nouns().values()} == set(GROUPS)
