"""Samples from real pictures: frames and clips whose masks lie where the things are."""

from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from tests import photo_trees as trees
from training.config import Config, Optimizer, PhotoData, TrackTask, WordTask, check
from training.data import load_data
from training.engine import learning_rate
from training.parameters import rate_groups
from training.photos.nouns import confusable, nouns, true_of
from training.photos.rows import Photo, PhotoObject, encode, read_photos
from training.photos.sentences import LEAST_SEEN, joined
from training.photos.sentences import SMALLEST as SMALLEST_TARGET
from training.photos.source import PhotoSource, certain, cut_out, load
from training.samples import ClipSample, FrameSample, Place

SIDE = 96
HOW = {
    "whole": {"plain": True},
    "views": {"mosaic": 0, "pasted": 0},
    "mosaics": {"mosaic": 1, "pasted": 0},
    "pasted": {"mosaic": 0, "pasted": 1},
    "all": {"mosaic": 0.5, "pasted": 0.5, "named": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trees.make_prepared(tmp_path_factory.mktemp("pictures"))


def same(a, b) -> bool:
    """Whether two samples are equal, arrays included."""
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


def made(folder, seed: int = 0, split: str = "train", side: int = SIDE, **how) -> PhotoSource:
    return PhotoSource(folder, seed, side, split, **how)


def frames(source: PhotoSource, count: int, pairs: int = 3, negatives: float = 0.3):
    return [source.frame(Place(0, n), pairs, negatives) for n in range(count)]


# ---- which sample ------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_number_alone(folder):
    source, again = made(folder, 5), made(folder, 5)
    forwards = [source.frame(Place(0, n), 3, 0.3) for n in range(6)]
    clips = [source.clip(Place(0, n), 3, 2, [1, 2]) for n in range(3)]
    for n in reversed(range(6)):
        if n < 3:
            assert same(again.clip(Place(9, n, 0.7), 3, 2, [1, 2]), clips[n])
        assert same(again.frame(Place(9, n, 0.7), 3, 0.3), forwards[n])
    other = made(folder, 6)
    for n in range(6):
        assert not same(other.frame(Place(0, n), 3, 0.3), forwards[n])
        assert not same(forwards[n], forwards[n - 1])
    assert len({clip.frames.tobytes() for clip in clips}) == 3
    assert not same(other.clip(Place(0, 0), 3, 2, [1, 2]), clips[0])


def test_splits_share_no_picture(folder):
    seen = {}
    for split in ("train", "val"):
        names = {sample.name for sample in frames(made(folder, split=split, mosaic=0), 60)}
        seen[split] = names
        assert len(names) > 5
        assert all(p.split == split for p in read_photos(folder) if p.path in names)
    assert not seen["train"] & seen["val"]


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_frames_are_whole(folder, how, pairs):
    for sample in frames(made(folder, **how), 12, pairs):
        assert isinstance(sample, FrameSample) and len(sample.pairs) == pairs
        assert sample.frame.shape == (SIDE, SIDE, 3) and sample.frame.dtype == np.uint8
        assert sample.masks.shape == (len(sample.nouns), SIDE, SIDE)
        assert sample.masks.dtype == bool and sample.masks.any(axis=(1, 2)).all()
        assert not (sample.masks.sum(axis=0) > 1).any(), "of two things one is in front"
        for pair in sample.pairs:
            assert bool(pair.objects) == (pair.kind != "no-target")
            if pair.kind not in ("no-target", "all"):
                assert sample.target(pair).mean() >= SMALLEST_TARGET


def test_shares_are_as_asked_for(folder):
    some = frames(made(folder, mosaic=0.4, pasted=0, named=0.5), 100, 1)
    assert 20 <= sum(sample.name.startswith("mosaic") for sample in some) <= 60
    plain = frames(made(folder, mosaic=0, pasted=0, named=0.5), 100, 1)
    assert 30 <= sum("named" in sample.name for sample in plain) <= 70
    for how in ({"named": 0}, {"plain": True}):
        assert not any("named" in s.name for s in frames(made(folder, pasted=0, **how), 30, 1))


# ---- masks lie where the things are ------------------------------------------------------------


def agreement(image: np.ndarray, masks: np.ndarray) -> list[float]:
    """Per mask, the share of pixels just inside and just outside that are as bright as they should
    be: things are bright and the ground is dark, whatever light and colours became.

    Left out are masks too small to have an inside, and pixels near other masks.
    """
    grey = image.astype(np.float32).mean(axis=2)
    shares = []
    for number, mask in enumerate(masks):
        mask = mask.astype(np.uint8)
        framed = cv2.copyMakeBorder(mask, 9, 9, 9, 9, cv2.BORDER_REPLICATE)  # no edge at a border
        inner = cv2.erode(framed, np.ones((7, 7)))[9:-9, 9:-9] > 0
        outer = cv2.dilate(framed, np.ones((15, 15))) - cv2.dilate(framed, np.ones((7, 7)))
        others = np.delete(masks, number, axis=0).any(axis=0).astype(np.uint8)
        apart = cv2.dilate(others, np.ones((9, 9))) == 0
        outer, inner = (outer[9:-9, 9:-9] > 0) & apart, inner & apart
        if inner.sum() < 40 or outer.sum() < 40:
            continue
        bright, dark = np.median(grey[inner]), np.median(grey[outer])
        middle = (bright + dark) / 2
        right = np.concatenate([grey[inner] > middle, grey[outer] < middle])
        shares.append(float(right.mean()) if bright > dark + 15 else 0.0)
    return shares


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_things_are_where_their_masks_are(folder, how):
    shares = [s for sample in frames(made(folder, **how), 60, 1)
              for s in agreement(sample.frame, sample.masks)]  # fmt: skip
    assert len(shares) > 60
    # The colour beyond a picture's edge may be bright as well.
    assert np.mean(np.array(shares) > 0.95) > 0.85 and np.median(shares) > 0.99


@pytest.mark.parametrize("shift", [-6, 6])
def test_the_check_above_sees_a_shift(folder, shift):
    shares = [s for sample in frames(made(folder, mosaic=0, pasted=0), 20, 1)
              for s in agreement(sample.frame, np.roll(sample.masks, shift, axis=2))]  # fmt: skip
    assert len(shares) > 15 and np.mean(np.array(shares) > 0.95) < 0.1


@pytest.mark.parametrize("size", [(90, 240), (240, 90)])
def test_a_picture_is_shown_whole_where_it_is_measured(size, tmp_path):
    mask = trees.shape((size[0] // 2, size[1] // 3), (20, 20), size)
    path = trees.write(trees.picture([mask], size), tmp_path / "a.png")
    photo = Photo(str(path), size, "val", "coco", ("dog",), (PhotoObject("dog", encode(mask)),))
    trees.write_index([photo], tmp_path)
    (sample,) = frames(made(tmp_path, split="val", side=48, plain=True), 1, 1)
    image = cv2.resize(trees.picture([mask], size), (48, 48), interpolation=cv2.INTER_AREA)
    assert (sample.frame == image).all()
    small = cv2.resize(mask.astype(np.float32), (48, 48), interpolation=cv2.INTER_AREA) > 0.5
    assert (sample.masks[0] & small).sum() / (sample.masks[0] | small).sum() > 0.9


def test_a_cut_out_is_tight_and_brings_no_ground_along(folder):
    photo = next(p for p in read_photos(folder) if "named" in p.path)
    mask = photo.objects[0].mask(photo.size)
    rgba = cut_out(load(photo), mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert rgba.shape == (np.ptp(rows) + 1, np.ptp(columns) + 1, 4)
    assert (rgba[..., :3][rgba[..., 3] > 0].mean(axis=-1) > 100).all()
    inside = cv2.erode(mask.astype(np.uint8), np.ones((9, 9))) > 0
    own, inside = (m[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for m in (mask, inside))
    assert not rgba[..., 3][~own].any() and (rgba[..., 3][own] > 100).mean() > 0.95
    assert (rgba[..., 3][inside] == 255).all() and inside.any()


def test_what_is_pasted_hides_what_is_behind(folder):
    hidden = 0
    for plain, pasted in zip(
        frames(made(folder, 3, mosaic=0, pasted=0), 40, 1),
        frames(made(folder, 3, mosaic=0, pasted=1), 40, 1), strict=True,
    ):  # fmt: skip
        if plain.name == pasted.name and len(pasted.masks) > len(plain.masks):
            before = plain.masks.any(axis=0)
            hidden += (before & ~pasted.masks[: len(plain.masks)].any(axis=0)).any()
    assert hidden > 3


# ---- what is known ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_nothing_that_is_shown_may_be_one_of_the_absent(folder, how):
    absent, asked = 0, 0
    for sample in frames(made(folder, **how), 60, 4, 0.5):
        shown = {noun for noun in sample.nouns if noun}
        doubtful = {kin for noun in shown for kin in confusable(noun)}
        assert not doubtful & set(sample.absent)
        assert not set(sample.absent) & set(sample.partial)
        absent += bool(sample.absent)
        for pair in sample.pairs:
            if pair.kind == "no-target":
                forms = {n: (n, nouns()[n].plural) for n in sample.absent}
                said = [n for n, f in forms.items() if any(w and joined(w) in pair.text for w in f)]
                assert said or "person" in sample.absent, pair.text
                asked += 1
    assert absent > 15 and asked > 15


def known_photo(known=(), *names: str) -> Photo:
    return Photo("a.png", (9, 9), "train", "x", tuple(known), tuple(map(thing, names)))


def thing(noun: str) -> PhotoObject:
    return PhotoObject(noun, encode(np.ones((9, 9), bool)))


EVERYTHING = tuple(sorted({"cat", "dog", "horse", "bird", "car", "bus", "person", "cup", "bottle",
                           "chair", "couch", "book", "tv", "bed", "clock", "vase"}))  # fmt: skip


@pytest.mark.parametrize(
    ("photo", "complete", "incomplete", "absent", "unsure"),
    [
        # annotated with many nouns: what is not there is absent, but for what it may be taken for
        (
            known_photo(EVERYTHING, "dog", "cup"),
            {"dog", "cup", "cat", "animal"}, {"guitar", "zebra", "shirt"},
            {"cat", "horse", "person", "car", "truck", "clock"},
            {"dog", "cup", "bottle", "vase", "wolf", "fox", "zebra", "guitar", "animal"},
        ),
        (known_photo(EVERYTHING), {"dog", "cup"}, {"guitar"}, {"dog", "zebra", "truck"}, {"hat"}),
        # people alone: of everything else nothing is known
        (known_photo(("person",), "person", "hat"), {"person", "hat"}, {"dog"}, set(), {"dog"}),
        # one main object
        (known_photo((), "dog"), {"dog", "animal"}, {"cup"}, {"cat", "bus"}, {"wolf", "cup"}),
        (known_photo((), "race car"), {"race car", "car"}, {"cup"}, {"dog", "boat"}, {"bus"}),
        (known_photo((), "guitar"), {"guitar"}, {"dog"}, set(), {"dog", "violin", "cup"}),
    ],
)  # fmt: skip
def test_what_a_picture_says_of_nouns(photo, complete, incomplete, absent, unsure):
    """An absent noun is completely annotated, too: there is none."""
    known, nowhere = certain(photo)
    assert complete <= known and not incomplete & known
    assert absent <= nowhere <= known and not unsure & nowhere
    present = {kind for o in photo.objects if o.noun for kind in true_of(o.noun)}
    assert not present & nowhere


def test_more_of_a_noun_may_be_there_than_is_annotated(folder):
    """In a mosaic a noun is complete only if it is in every part; words are taught accordingly."""
    whole = frames(made(folder, mosaic=0, pasted=0, named=0.5), 30, 1)
    for sample in whole:
        shown = {kind for n in sample.nouns if n for kind in true_of(n)}
        people = "people" in sample.name
        assert "person" not in sample.partial or not shown or "named" in sample.name
        assert not (shown & set(sample.partial)) - {"vehicle"}, sample.name
        assert ("dog" in sample.partial) == people or "named" in sample.name
    mixed = Counter()
    for sample in frames(made(folder, mosaic=1, pasted=0, named=0.3), 60, 1):
        shown = {kind for n in sample.nouns if n for kind in true_of(n)}
        mixed["certain"] += len(shown - set(sample.partial))
        mixed["unsure"] += len(shown & set(sample.partial))
    assert min(mixed.values()) > 20, mixed


def test_no_target_is_mostly_hidden(folder):
    """What is pasted in front takes away from what is seen."""
    hidden, asked = 0, 0
    for plain, pasted in zip(
        frames(made(folder, 1, mosaic=0, pasted=0), 60, 6, 0),
        frames(made(folder, 1, mosaic=0, pasted=1), 60, 6, 0), strict=True,
    ):  # fmt: skip
        targets = {i for pair in pasted.pairs if pair.kind != "all" for i in pair.objects}
        for i, mask in enumerate(pasted.masks):
            whole = (
                [m for m in plain.masks if (m >= mask).all()] if plain.name == pasted.name else []
            )
            if whole:
                share = mask.sum() / whole[0].sum()
                hidden += share < LEAST_SEEN
                asked += share < 1 and i in targets
                assert share >= LEAST_SEEN or i not in targets
    assert hidden >= 3 and asked >= 3


# ---- clips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 5])
def test_clips_are_whole_and_show_everything_at_first(folder, length):
    source = made(folder)
    for n in range(12):
        sample = source.clip(Place(0, n), length, 2, [1, 2])
        assert isinstance(sample, ClipSample) and sample.name == f"clip {n}"
        count, size = len(sample.masks), sample.frames.shape[1:3]
        assert sample.frames.shape == (length, *size, 3) and sample.frames.dtype == np.uint8
        assert sample.masks.shape == (count, length, *size) and 1 <= count <= 2
        assert sample.masks[:, 0].any(axis=(1, 2)).all()
        assert not (sample.masks.sum(axis=0) > 1).any()


def test_things_are_where_their_masks_are_on_every_frame(folder):
    source, firsts, laters = made(folder), [], []
    for n in range(40):
        sample = source.clip(Place(0, n), 4, 3, [1, 3])
        shares = [agreement(f, sample.masks[:, t]) for t, f in enumerate(sample.frames)]
        firsts += shares[0]
        laters += [s for later in shares[1:] for s in later]
    # Some cut-outs are of the dark ground, some are recoloured to be as dark.
    for shares in (np.array(firsts), np.array(laters)):
        seen = shares[shares > 0]
        assert len(shares) > 40 and len(seen) > 0.6 * len(shares)
        assert np.mean(seen > 0.85) > 0.9 and np.median(seen) > 0.97


def test_clips_move_hide_and_are_of_both_kinds(folder):
    source, moved, hidden, sizes = made(folder), 0, 0, set()
    for n in range(60):
        sample = source.clip(Place(0, n), 6, 3, [2])
        sizes.add(sample.frames.shape[1:3])
        moved += not np.array_equal(sample.frames[0], sample.frames[-1])
        hidden += (~sample.masks.any(axis=(2, 3))).any()
    assert moved == 60 and hidden > 5 and len(sizes) == 4


# ---- folders without something -----------------------------------------------------------------


def test_a_folder_without_class_named_pictures_is_enough(folder, tmp_path):
    photos = [p for p in read_photos(folder) if p.known]
    source = made(trees.write_index(photos, tmp_path), mosaic=0.5, pasted=0.5)
    assert source.named == source.pasted == 0
    assert len(frames(source, 5)) == 5 and source.clip(Place(0, 0), 3, 2, [1]).masks.any()


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda p: not p.known, "has no train pictures with masks"),
        (lambda p: p.split == "val", "has no train pictures with masks"),
    ],
)
def test_a_folder_that_teaches_nothing_is_told(keep, reason, folder, tmp_path):
    trees.write_index([p for p in read_photos(folder) if keep(p)], tmp_path)
    with pytest.raises(ValueError, match=reason):
        made(tmp_path)


def test_pictures_of_specks_are_told_instead_of_searched_for_ever(tmp_path):
    mask = np.zeros(trees.SIZE, bool)
    mask[5:8, 5:8] = True
    path = trees.write(trees.picture([mask]), tmp_path / "a.png")
    things = (PhotoObject("dog", encode(mask)),)
    photos = [Photo(str(path), trees.SIZE, "train", "ccp", ("person",), things)]
    source = made(trees.write_index(photos, tmp_path))
    with pytest.raises(ValueError, match="none can be described"):
        source.frame(Place(0, 0), 2, 0.0)
    with pytest.raises(ValueError, match="hold no object that is large enough"):
        source.pick_photo(np.random.default_rng(0))
    with pytest.raises(ValueError, match="hold no object"):
        source.pick_cut(np.random.default_rng(0))


# ---- configuration -----------------------------------------------------------------------------


def config(**changes) -> Config:
    told = {"photos": PhotoData(), "words": WordTask(weights={"dense": 1.0}), "train": ["finder"]}
    return Config(**{**told, "steps": 2, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"photos": None}, "give either benchmarks, scenes or photos"),
        ({"photos": PhotoData(side=16)}, "photos.side is 16, it must be at least 32"),
        ({"photos": PhotoData(mosaic=1.5)}, "photos.mosaic is 1.5, it must be between 0 and 1"),
        ({"photos": PhotoData(pasted=-0.1)}, "photos.pasted is -0.1"),
        ({"photos": PhotoData(named=2)}, "photos.named is 2"),
        ({"photos": PhotoData(steps_per_epoch=0)}, "photos.steps_per_epoch is 0"),
        (
            {"words": WordTask(weights={"bce": 1.0})},
            "words has no loss bce; it has dense, dice, wh",
        ),
        ({"words": WordTask(weights={})}, "words.weights: give one of dense, dice, which"),
        ({"optimizer": Optimizer(slow={"finder": 0.0})}, "optimizer.slow: factors above 0"),
    ],
)
def test_settings_of_pictures_that_cannot_be_are_told(changes, reason):
    check(config())
    with pytest.raises(ValueError, match=reason):
        check(config(**changes))


def test_words_need_to_know_what_is_absent():
    from training.config import SceneData

    with pytest.raises(ValueError, match="words: only photos say which nouns are absent"):
        check(config(photos=None, scenes=SceneData()))


def test_a_run_s_data_are_pictures_and_others_are_held_out(folder):
    told = PhotoData(root=str(folder), side=64, mosaic=0.2, pasted=0.1, named=0.4)
    data = load_data(config(photos=told, seed=3), print)
    assert isinstance(data.source, PhotoSource) and data.heldout.plain
    assert (data.source.mosaic, data.source.pasted, data.source.named) == (0.2, 0.1, 0.4)
    assert (data.source.side, data.source.seed, data.heldout.side) == (64, 3, 64)
    assert {p.split for p in data.source.photos} == {"train"}
    assert {p.split for p in data.heldout.photos} == {"val"}
    assert data.nouns == tuple(nouns()) and "race_cars" in data.texts and data.judge is None
    task = TrackTask(weights={"bce": 1.0})
    assert load_data(config(photos=told, track=task, words=None), print).source.clip(
        Place(0, 0), 2, 1, [1]
    )


# ---- rates of learning -------------------------------------------------------------------------


class Learner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.ModuleDict(
            {name: torch.nn.Linear(2, 2) for name in ("backbone", "backbone2", "head", "frozen")}
        )
        self.objectives = torch.nn.Linear(2, 1)
        self.model["frozen"].requires_grad_(False)


def test_parts_learn_as_fast_as_told():
    learner = Learner()
    groups = rate_groups(learner, {"backbone": 0.1, "backbone.bias": 0.5})
    names = {id(p): name for name, p in learner.named_parameters()}
    rates = {names[id(p)]: group["factor"] for group in groups for p in group["params"]}
    assert rates == {
        "model.backbone.weight": 0.1, "model.backbone.bias": 0.5, "model.backbone2.weight": 1.0,
        "model.backbone2.bias": 1.0, "model.head.weight": 1.0, "model.head.bias": 1.0,
        "objectives.weight": 1.0, "objectives.bias": 1.0,
    }  # fmt: skip
    (plain,) = rate_groups(learner, {})
    assert plain["factor"] == 1.0 and len(plain["params"]) == 8
    for wrong in ("frozen", "backbon", "nothing"):
        with pytest.raises(ValueError, match=f"nothing that is trained begins with '{wrong}'"):
            rate_groups(learner, {"head": 0.5, wrong: 0.5})
    assert learning_rate(Optimizer(lr=2.0), 5, 10) == 2.0
