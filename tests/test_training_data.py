"""Training data: changes to samples, who draws which sample when, and both kinds of sources."""

import gc
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from eval.benchmarks import load_benchmark
from eval.benchmarks.base import decode_mask
from tests import benchmark_trees as trees
from training import config as configs
from training.augment import augment_clip, augment_frame, mirrored_text
from training.benchmark_samples import BenchmarkSource
from training.config import Augment, FindTask, TrackTask
from training.loader import Places, Share, TaskSamples, task_loader
from training.samples import ClipSample, FrameSample, Pair, Place
from training.scene_samples import SMALLEST, SceneSource
from training.sprite_art import load_art

SHIPPED = Path(__file__).parents[1] / "eval/data/ref_sprites"
SPLITS = [  # with masks, and the trees that have them
    ("ref-youtube-vos", "train", trees.make_ref_youtube_vos),
    ("ref-davis17", "valid", trees.make_ref_davis17),
    ("mevis", "valid_u", trees.make_mevis),
    ("ref-sprites", "valid", trees.make_ref_sprites),
]
COLOURS = np.array([(250, 10, 10), (10, 250, 10), (10, 10, 250)], dtype=np.uint8)


def same(a, b) -> bool:
    """Whether two samples are equal, arrays included."""
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


# ---- changes to samples ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, mirrored",
    [
        ("the panda on the left", "the panda on the right"),
        ("The Leftmost dog, right of the left-hand car", "The Rightmost dog, left of the right-"),
        ("moving leftwards", "moving rightwards"),
        ("turning clockwise", "turning counterclockwise"),
        ("turning counter-clockwise", "turning clockwise"),
        ("turning anticlockwise", "turning clockwise"),
        ("the upright bright leftover", "the upright bright leftover"),
        ("the top one", "the top one"),
    ],
)
def test_a_mirrored_sentence_says_the_other_side(text, mirrored):
    assert mirrored_text(text).startswith(mirrored)
    if "clock" not in text:
        assert mirrored_text(mirrored_text(text)) == text


def painted(length: int = 1, size: tuple[int, int] = (40, 60)) -> ClipSample:
    """Three moving objects, each in a colour that nothing else has."""
    rng = np.random.default_rng(0)
    frames = rng.integers(60, 190, (length, *size, 1), dtype=np.uint8).repeat(3, axis=3)
    masks = np.zeros((3, length, *size), dtype=bool)
    for t in range(length):
        masks[0, t, 8:14, 10 + t : 20 + t] = True
        masks[1, t, 20 + t : 30 + t, 22:26] = True
        masks[2, t, 9:12, 44 - t : 47 - t] = True
        for mask, colour in zip(masks[:, t], COLOURS, strict=True):
            frames[t][mask] = colour
    return ClipSample("painted", frames, masks)


def painted_frame() -> FrameSample:
    clip = painted()
    pairs = (Pair("the one on the left", (0,), "position"), Pair("a cat", (), "no-target"))
    return FrameSample("f", clip.frames[0], clip.masks[:, 0], pairs, ("a", "", "b"), "f.jpg", 5)


CHANGES = [
    Augment(flip=1),
    Augment(flip=0.5),
    Augment(crop=0.4),
    Augment(flip=0.5, crop=0.7),
]


@pytest.mark.parametrize("how", CHANGES)
def test_masks_follow_the_frames_and_no_object_is_cut(how):
    """An object's mask is where its colour is, after every change, and as large as before."""
    clip, frame = painted(length=4), painted_frame()
    sizes, starts = set(), set()
    for seed in range(40):
        for sample, change in ((clip, augment_clip), (frame, augment_frame)):
            changed = change(sample, how, np.random.default_rng(seed))
            frames = changed.frames if sample is clip else changed.frame
            assert frames.dtype == np.uint8 and changed.masks.dtype == bool
            for o, colour in enumerate(COLOURS):
                assert np.array_equal(changed.masks[o], (frames == colour).all(axis=-1))
                assert changed.masks[o].sum() == sample.masks[o].sum()
        height, width = changed.frame.shape[:2]
        assert how.crop * 40 - 1 <= height <= 40 and how.crop * 60 - 1 <= width <= 60
        sizes.add((height, width))
        starts.add(int(np.flatnonzero(changed.masks[0].any(axis=1))[0]))
    if how.crop < 1:
        assert len(sizes) > 10 and len(starts) > 3 and min(sizes)[0] < 36
    else:
        assert sizes == {(40, 60)} and len(starts) == 1


def test_sentences_are_mirrored_exactly_where_frames_are():
    sample, mirrored = painted_frame(), 0
    for seed in range(60):
        changed = augment_frame(sample, Augment(flip=0.5), np.random.default_rng(seed))
        flipped = not np.array_equal(changed.frame, sample.frame)
        assert changed.pairs[0].text == f"the one on the {'right' if flipped else 'left'}"
        assert [p.objects for p in changed.pairs] == [(0,), ()]
        assert (changed.nouns, changed.seed) == (sample.nouns, sample.seed)
        assert changed.path is None  # no longer that file's content
        if flipped:
            assert np.array_equal(changed.frame, sample.frame[:, ::-1])
        mirrored += flipped
    assert 15 < mirrored < 45


def test_colours_change_all_frames_alike_and_no_mask():
    clip = painted(length=1)
    still = replace(clip, frames=clip.frames.repeat(3, 0), masks=clip.masks.repeat(3, 1))
    changed = augment_clip(still, Augment(colour=0.3), np.random.default_rng(1))
    assert np.array_equal(changed.masks, still.masks)
    assert (changed.frames == changed.frames[:1]).all()
    difference = np.abs(changed.frames.astype(int) - still.frames).mean()
    assert 2 < difference < 80


def test_changes_are_those_of_the_random_numbers():
    how = Augment(flip=0.5, crop=0.5, colour=0.3)
    first, again, other = (
        augment_frame(painted_frame(), how, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert same(first, again) and not same(first, other)


def test_an_object_as_large_as_the_frame_prevents_cropping_and_none_allows_it():
    frame = painted_frame()
    full = replace(frame, masks=np.ones((1, 40, 60), bool), pairs=())
    none = replace(frame, masks=np.zeros((0, 40, 60), bool), pairs=())
    crop = Augment(crop=0.3)
    rng = np.random.default_rng(0)
    assert {augment_frame(full, crop, rng).frame.shape for _ in range(9)} == {(40, 60, 3)}
    assert len({augment_frame(none, crop, rng).frame.shape for _ in range(9)}) > 5
    assert augment_frame(none, crop, rng).masks.shape[0] == 0


# ---- who draws what when -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 8, 10, 24])
@pytest.mark.parametrize("device_batch_size", [1, 3, 8])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8, 16])
def test_a_share_holds_at_least_the_batch_on_any_number_of_processes(
    batch_size, device_batch_size, processes
):
    share = Share.of(batch_size, device_batch_size, processes)
    assert share.processes == processes and share.micro <= device_batch_size
    assert share.batch_size == share.micro * share.accumulate * processes
    assert batch_size <= share.batch_size < batch_size + share.accumulate * processes
    # Not one forward more than it takes.
    assert (share.accumulate - 1) * device_batch_size * processes < batch_size


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((8, 8, 1), (8, 1, 1)),
        ((8, 8, 2), (4, 1, 2)),
        ((10, 1, 2), (1, 5, 2)),  # the paper's ten frames
        ((10, 4, 1), (4, 3, 1)),
        ((9, 4, 1), (3, 3, 1)),  # not 4 + 4 + 4
        ((2, 8, 4), (1, 1, 4)),
    ],
)
def test_shares(arguments, expected):
    share = Share.of(*arguments)
    assert (share.micro, share.accumulate, share.processes) == expected


def drawn(length, share: Share, first=0, stop=12, every=1, seed=3) -> list[list[list[Place]]]:
    """Of every rank, the places of each forward."""
    return [
        list(Places(length, share, rank, seed, first, stop, 12, every))
        for rank in range(share.processes)
    ]


@pytest.mark.parametrize("length", [None, 5, 17, 100])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("shape", [(4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 2, 4)])
def test_the_places_of_all_ranks_are_those_of_one_process(length, every, shape):
    one = drawn(length, Share(8, 1, 1), every=every)[0]
    share = Share(*shape)
    ranks = drawn(length, share, every=every)
    assert len(one) == len(range(0, 12, every))
    for rank in ranks:
        assert len(rank) == len(one) * share.accumulate
        assert all(len(forward) == share.micro for forward in rank)
    for step, whole in enumerate(one):
        parts = slice(step * share.accumulate, (step + 1) * share.accumulate)
        # By forward, then by process: gradients of a step sum up over the same samples.
        shared = [p for forwards in zip(*(r[parts] for r in ranks), strict=True) for p in forwards]
        assert [place for forward in shared for place in forward] == whole
    counted = Places(length, share, 0, 3, 0, 12, 12, every)
    assert len(counted) == len(ranks[0])


def test_every_epoch_visits_every_item_once_in_an_order_of_its_own():
    length, share = 21, Share(4, 1, 1)
    places = [p for forward in drawn(length, share, stop=32)[0] for p in forward]  # 128
    orders = []
    for epoch in range(6):
        items = [p.item for p in places if p.epoch == epoch]
        assert sorted(items) == list(range(length))
        orders.append(tuple(items))
    assert len(set(orders)) == 6
    assert places[: 21 * 6] == sorted(places[: 21 * 6], key=lambda p: p.epoch)
    other = [p for forward in drawn(length, share, stop=32, seed=4)[0] for p in forward]
    assert [p.item for p in other] != [p.item for p in places]


def test_an_endless_source_is_counted_through():
    places = [p for forward in drawn(None, Share(4, 1, 1), stop=5)[0] for p in forward]
    assert [(p.epoch, p.item) for p in places] == [(0, n) for n in range(20)]


@pytest.mark.parametrize("length", [None, 9])
@pytest.mark.parametrize("every", [1, 4])
def test_resumed_places_are_those_of_an_undisturbed_run(length, every):
    share = Share(2, 2, 2)
    whole = drawn(length, share, every=every)
    for first in (1, 4, 7, 11):
        parts = zip(
            drawn(length, share, stop=first, every=every),
            drawn(length, share, first=first, every=every),
            strict=True,
        )
        assert [before + after for before, after in parts] == whole


def test_a_task_that_takes_part_now_and_then_leaves_no_item_out():
    (forwards,) = drawn(None, Share(2, 1, 1), every=3)
    assert [p.item for forward in forwards for p in forward] == list(range(8))
    assert [forward[0].progress for forward in forwards] == [0, 3 / 12, 6 / 12, 9 / 12]


class Recorder:
    """A source whose samples say how they were asked for."""

    def __init__(self, length=None, damaged=()):
        self.length, self.damaged = length, damaged

    def frame(self, place, pairs, negatives):
        if place.item in self.damaged:
            raise ValueError(f"clip/{place.item:05d}.jpg: the frame cannot be read (cut off)")
        return replace(painted_frame(), name=f"{place.epoch}-{place.item} {pairs} {negatives}")

    def clip(self, place, length, objects, strides):
        return replace(painted(length), name=f"{place.item} {objects} {strides}")


def names(samples) -> list[str]:
    """A collator: the names of samples, and one number of each frame."""
    return [f"{s.name} {int(s.frame.astype(int).sum())}" for s in samples]


def test_tasks_ask_for_what_they_are_configured_to():
    def name(task) -> str:
        return TaskSamples(Recorder(), task, Augment(), 0)[Place(2, 7)].name

    assert name(FindTask(pairs=3, negatives=0.5)) == "2-7 3 0.5"
    assert name(configs.GroundTask(pairs=2, negatives=0.1)) == "2-7 2 0.1"
    assert name(configs.AlignTask(pairs=6)) == "2-7 6 0.0"
    assert name(configs.BoxTask()) == name(configs.NounTask()) == "2-7 1 0.0"
    assert name(TrackTask(objects=2, strides=[1, 5])) == "7 2 [1, 5]"


def test_clips_grow_longer_as_training_goes():
    samples = TaskSamples(Recorder(), TrackTask(frames=[4, 6, 8]), Augment(), 0)
    lengths = [len(samples[Place(0, 1, progress)].frames) for progress in np.linspace(0, 1, 13)]
    assert lengths == [4] * 4 + [6] * 4 + [8] * 5


def test_changes_depend_on_seed_epoch_and_item_alone():
    how = Augment(flip=0.5, crop=0.5, colour=0.3)

    def sample(seed, epoch, item, progress=0.0) -> FrameSample:
        return TaskSamples(Recorder(), FindTask(), how, seed)[Place(epoch, item, progress)]

    first = sample(0, 1, 2)
    assert same(first, sample(0, 1, 2, 0.7))
    for other in (sample(1, 1, 2), sample(0, 2, 2), sample(0, 1, 3)):
        assert not np.array_equal(first.frame, other.frame)
    plain = TaskSamples(Recorder(), FindTask(), Augment(), 0)[Place(1, 2)]
    assert np.array_equal(plain.frame, painted_frame().frame)


def test_changes_are_not_those_that_drew_the_scene(monkeypatch):
    """With the same random numbers, what is mirrored would depend on what is seen."""
    seeds = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or make(seed))
    for source_seed in (tuple(x) for x in ((5, 0, 9), (5, 0, 9, 1), (5, 1, 9), (5, 0, 0, 9))):
        seeds.clear()
        TaskSamples(Recorder(), FindTask(), Augment(flip=0.5), 5)[Place(0, 9)]
        streams = [make(seed).random() for seed in seeds if isinstance(seed, tuple)]
        assert streams and make(source_seed).random() not in streams


def loader(workers: int, source=None, first: int = 0):
    values = {"workers": workers, "augment": Augment(flip=0.5, crop=0.6), "seed": 2}
    config = configs.Config(**values, find=FindTask(pairs=2))
    source = source or Recorder(length=5)
    return task_loader(config, "find", source, names, Share(2, 1, 1), 0, first, 6, 6)


def test_data_loading_processes_change_nothing():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    plain = list(loader(0))
    assert len(plain) == 6 and list(loader(2)) == plain
    assert list(loader(1, first=4)) == plain[4:]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_is_told_in_one_line(workers, monkeypatch):
    # For so many seconds torch waits for a worker that has failed.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    batches = iter(loader(workers, Recorder(length=5, damaged=range(5))))
    with pytest.raises(ValueError) as caught:
        next(batches)
    assert re.fullmatch(r"clip/0000\d.jpg: the frame cannot be read \(cut off\)", str(caught.value))
    del batches, caught
    gc.collect()


# ---- scenes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank(art_dir):
    return load_art(art_dir)


def scenes(bank, seed: int = 0, **shares) -> SceneSource:
    return SceneSource(bank, seed, **shares)


def test_a_scene_does_not_depend_on_what_was_drawn_before(bank):
    shares = {"textured": 0.3, "warp": 0.3, "crossing": 0.3}
    alone = scenes(bank, **shares).frame(Place(0, 21), 4, 0.2)
    clip = scenes(bank, **shares).clip(Place(0, 21), 3, 2, [1, 2])
    busy = scenes(bank, **shares)
    for item in (700, 3, 21):
        busy.clip(Place(0, item), 3, 2, [1, 2])
        again = busy.frame(Place(0, item, progress=0.5), 4, 0.2)
    assert same(again, alone)
    busy.frame(Place(0, 5), 1, 0.0)
    assert same(busy.clip(Place(0, 21), 3, 2, [1, 2]), clip)


def test_other_numbers_and_other_seeds_are_other_scenes(bank):
    frames = [
        scenes(bank, seed).frame(Place(0, item), 1, 0.0).frame.tobytes()
        for seed, item in ((0, 1), (0, 2), (1, 1), (1_000_003, 1))
    ]
    assert len(set(frames)) == 4


def test_scenes_have_as_many_sentences_as_asked_and_all_hold(bank):
    source, kinds = scenes(bank), Counter()
    for item in range(60):
        sample = source.frame(Place(0, item), 5, 0.3)
        assert len(sample.pairs) == 5 and len(sample.nouns) == len(sample.masks)
        assert sample.path is None and sample.masks.shape[1:] == sample.frame.shape[:2]
        for pair in sample.pairs:
            assert sample.target(pair).any() == bool(pair.objects)
            assert (pair.kind == "no-target") == (not pair.objects)
        kinds.update(pair.kind for pair in sample.pairs)
    assert "motion-only" not in kinds and len(kinds) >= 6
    assert 0.2 < kinds["no-target"] / 300 < 0.4


@pytest.mark.parametrize("negatives", [0.0, 1.0])
def test_the_share_of_negatives_is_kept(bank, negatives):
    source = scenes(bank)
    kinds = {p.kind for i in range(9) for p in source.frame(Place(0, i), 3, negatives).pairs}
    assert (kinds == {"no-target"}) if negatives else ("no-target" not in kinds)


def test_scene_clips_show_their_objects_in_the_first_frame(bank):
    source, counts = scenes(bank, crossing=0.5), Counter()
    for item in range(30):
        clip = source.clip(Place(0, item), 4, 2, [1, 3])
        assert clip.frames.shape[0] == clip.masks.shape[1] == 4
        assert (clip.masks[:, 0].sum(axis=(1, 2)) >= SMALLEST).all()
        counts[len(clip.masks)] += 1
    assert set(counts) == {1, 2} or set(counts) == {2}


def test_scene_clips_go_both_ways_and_take_strides(bank):
    """Frames `stride` apart of one long scene, whichever end tracking begins at."""
    source, ways = scenes(bank), Counter()
    for item in range(12):
        clip = source.clip(Place(0, item), 2, 9, [3])
        source._seek(1, Place(0, item))
        long = source.sampler.clip(4, size=clip.frames.shape[1:3], expressions_per_object=0)
        forwards = np.array_equal(clip.frames, long.frames[::3])
        assert forwards or np.array_equal(clip.frames, long.frames[::-3])
        ways[forwards] += 1
    assert len(ways) == 2


# ---- benchmarks --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    """Rows go where the test goes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> BenchmarkSource:
    """The validation split that ships: 40 videos, 270 sentences a frame can show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        return BenchmarkSource([load_benchmark("ref-sprites", SHIPPED, "valid")], 0)


@pytest.fixture
def small(tmp_path):
    """A source over one of the small trees, which `change` may alter before."""

    def make(name: str, split: str, make_tree, change=None, seed: int = 0) -> BenchmarkSource:
        root = make_tree(tmp_path / name)
        if change is not None:
            change(root)
        return BenchmarkSource([load_benchmark(name, root, split)], seed)

    return make


def rows_of(source: BenchmarkSource) -> list[dict]:
    """The row of every item."""
    return [source._row(item) for item in range(source.length)]


def frame_number(sample: FrameSample, row: dict) -> int:
    return row["frame_names"].index(sample.name.split()[-1])


@pytest.mark.parametrize("name, split, make_tree", SPLITS, ids=[s[0] for s in SPLITS])
def test_targets_are_the_truth_of_the_drawn_frame(small, name, split, make_tree):
    source = small(name, split, make_tree)
    seen = Counter()
    for item, row in enumerate(rows_of(source)):
        for epoch in range(8):
            sample = source.frame(Place(epoch, item), 1, 0.0)
            t = frame_number(sample, row)
            truth = decode_mask(row, t) if row["obj_ids"] else np.zeros(trees.SIZE, bool)
            (pair,) = sample.pairs
            assert pair.text == " ".join(row["expression"].split())
            assert sample.masks.dtype == bool
            assert np.array_equal(sample.target(pair), truth)
            assert bool(pair.objects) == truth.any()  # an absent target refers to nothing
            assert sample.path == row["frames"][t]["path"]
            seen[truth.any()] += 1
    assert seen[True] > seen[False] > 0


def test_several_objects_make_one_target_of_zeros_and_ones(small):
    """The official code adds their masks up, to 2 where they overlap."""
    source = small(*SPLITS[2])
    clips = {clip.name: clip for clip in trees.CLIPS["mevis", "valid_u"]}
    overlaps = 0
    for item, row in enumerate(rows_of(source)):
        if not row["expression"].startswith("all"):
            continue
        shapes = np.stack(list(clips[row["video_id"]].masks().values())).astype(int)
        for epoch in range(9):
            sample = source.frame(Place(epoch, item), 1, 0.0)
            total = shapes[:, frame_number(sample, row)].sum(axis=0)
            target = sample.target(sample.pairs[0])
            assert target.dtype == bool and np.array_equal(target, total > 0)
            overlaps += (total > 1).any()
    assert overlaps


def test_frames_are_drawn_uniformly(small):
    source = small(*SPLITS[2])
    row = source._row(0)
    times = [frame_number(source.frame(Place(e, 0), 1, 0.0), row) for e in range(600)]
    counts = np.bincount(times, minlength=len(row["frames"]))
    expected = 600 / len(counts)
    # Chi-square with 4 degrees of freedom: above 18.5 in one of a thousand.
    assert len(counts) == 5 and ((counts - expected) ** 2 / expected).sum() < 18.5


def test_a_sample_is_that_of_its_place(shipped):
    place = Place(1, 50)
    assert same(shipped.frame(place, 4, 0.5), shipped.frame(place._replace(progress=0.9), 4, 0.5))
    again = shipped.clip(place, 4, 3, [1, 2])
    assert same(shipped.clip(place, 4, 3, [1, 2]), again)
    paths = {shipped.frame(Place(epoch, 50), 1, 0.0).path for epoch in range(12)}
    assert len(paths) > 5


def test_negatives_are_sentences_of_other_videos_that_share_no_word(shipped):
    sentences: dict[str, set[str]] = {}  # video -> words of all its sentences
    owners: dict[str, set[str]] = {}  # sentence -> videos
    benchmark = load_benchmark("ref-sprites", SHIPPED, "valid")
    for video in benchmark.videos:
        for row in benchmark.rows(video):
            sentences.setdefault(video, set()).update(row["expression"].split())
            owners.setdefault(row["expression"], set()).add(video)
    nouns = {row["noun"] for video in benchmark.videos for row in benchmark.rows(video)}
    negatives = 0
    for item in range(0, shipped.length, 2):
        sample = shipped.frame(Place(0, item), 4, 0.5)
        video = shipped.videos[item][1]
        for pair in sample.pairs:
            if pair.kind == "negative":
                assert pair.objects == () and not sample.target(pair).any()
                assert video not in owners[pair.text]
                assert not nouns & set(pair.text.split()) & sentences[video]
                negatives += 1
            else:
                assert video in owners[pair.text]
    assert 0.4 < negatives / (4 * len(range(0, shipped.length, 2))) < 0.6


def test_without_negatives_the_item_comes_first_and_then_others_of_its_video(shipped):
    for item in range(0, shipped.length, 9):
        sample = shipped.frame(Place(0, item), 5, 0.0)
        own = {shipped.texts[i] for i in shipped.companions[shipped.videos[item]]}
        texts = [pair.text for pair in sample.pairs]
        assert texts[0] == shipped.texts[item] and set(texts) <= own and len(texts) == 5
        assert len(set(texts)) >= min(5, len(own)) - 1  # two items may say the same
        assert len(sample.masks) == len({p.objects for p in sample.pairs if p.objects})


def rename(video: int, change) -> callable:
    """A change of a tree of Ref-Sprites: to the expressions of its n-th video."""

    def apply(root: Path) -> None:
        def edit(meta: dict) -> None:
            change(list(meta["videos"].values())[video]["expressions"])

        trees.edit_json(root / "valid" / "meta_expressions.json", edit)

    return apply


def test_a_video_s_left_out_sentences_name_things_too(small):
    """There is a zebra in the first video, though only a sentence about motion says so."""

    def name_zebras(root: Path) -> None:
        rename(0, lambda e: e["2"].update(exp="the zebras moving left") if "2" in e else None)(root)
        rename(0, lambda e: e["1"].update(exp="the zebras moving left", kind="motion-only"))(root)
        rename(1, lambda e: [v.update(exp=f"a zebra {i}") for i, v in enumerate(e.values())])(root)

    source = small(*SPLITS[3], change=name_zebras)
    first = [i for i in range(source.length) if source.videos[i] == source.videos[0]]
    assert "zebra" not in " ".join(source.texts[i] for i in first)
    kinds = {p.kind for i in first for e in range(5) for p in source.frame(Place(e, i), 3, 1).pairs}
    assert "negative" not in kinds


def test_sentences_without_a_thing_and_common_words_are_no_negatives(small):
    texts = ["the left one", "it's moving", "the two on the right"]

    def change(root: Path) -> None:
        rename(1, lambda e: [v.update(exp=t) for v, t in zip(e.values(), texts * 9, strict=False)])(
            root
        )

    source = small(*SPLITS[3], change=change)
    kinds = Counter(
        p.kind
        for i in range(source.length)
        for e in range(4)
        for p in source.frame(Place(e, i), 2, 1.0).pairs
        if source.videos[i] == source.videos[0]
    )
    assert kinds and "negative" not in kinds


def test_sentences_about_motion_alone_are_left_out(small, shipped):
    assert shipped.length == 270
    benchmark = load_benchmark("ref-sprites", SHIPPED, "valid")
    kinds = Counter(row["kind"] for video in benchmark.videos for row in benchmark.rows(video))
    assert kinds["motion-only"] > 0
    assert sum(kinds.values()) - kinds["motion-only"] == shipped.length
    kinds = {p.kind for i in range(0, 270, 4) for p in shipped.frame(Place(0, i), 6, 0.0).pairs}
    assert "motion-only" not in kinds and "no-target" in kinds

    def only_motion(root: Path) -> None:
        for video in (0, 1):
            rename(video, lambda e: e.pop("5"))(root)  # the one without a target
            rename(video, lambda e: [v.update(kind="motion-only") for v in e.values()])(root)

    with pytest.raises(ValueError, match="no sentence that a single frame can show"):
        small(*SPLITS[3], change=only_motion)


@pytest.mark.parametrize("name, split, make_tree", SPLITS, ids=[s[0] for s in SPLITS])
def test_clips_start_where_their_objects_are_visible(small, name, split, make_tree):
    source, ways, counts = small(name, split, make_tree), Counter(), Counter()
    rows = rows_of(source)
    for item in range(source.length):
        for epoch in range(4):
            clip = source.clip(Place(epoch, item), 3, 2, [1, 2])
            assert clip.frames.shape == (3, *trees.SIZE, 3)
            assert 1 <= len(clip.masks) <= 2 and clip.masks.shape[1:] == (3, *trees.SIZE)
            assert clip.masks[:, 0].any(axis=(1, 2)).all()
            counts[len(clip.masks)] += 1
            if rows[item]["obj_ids"]:
                start = rows[item]["frame_names"].index(clip.name.split()[-1].removesuffix(".."))
                truth = np.stack(
                    [decode_mask(rows[item], t) for t in range(len(rows[item]["frames"]))]
                )
                assert np.array_equal(clip.masks[0, 0], truth[start])
                count = len(truth)
                steps = {s * d: [min(max(start + s * d * n, 0), count - 1) for n in range(3)]
                         for s in (1, 2) for d in (1, -1)}  # fmt: skip
                fits = [s for s, at in steps.items() if np.array_equal(clip.masks[0], truth[at])]
                assert fits
                ways.update([np.sign(fits[0])] if len({np.sign(f) for f in fits}) == 1 else [])
    assert set(ways) == {-1, 1} and set(counts) == {1, 2}


def test_frames_of_a_clip_show_what_its_masks_say(small):
    """The red square is red in every frame of the clip, forwards and backwards."""
    source = small(*SPLITS[0])
    red = [i for i, text in enumerate(source.texts) if "red square" in text]
    for item in red:
        for epoch in range(6):
            clip = source.clip(Place(epoch, item), 4, 1, [1])
            for frame, mask in zip(clip.frames, clip.masks[0], strict=True):
                inside = frame[mask].astype(int)
                assert (inside[:, 0] > inside[:, 1:].max(axis=1) + 60).mean() > 0.9
                assert (frame[~mask][:, 0].astype(int) > 190).mean() < 0.05


def test_an_item_without_a_target_gives_way_to_the_next_that_has_one(small):
    source = small(*SPLITS[2])
    (item, *_) = [i for i, row in enumerate(rows_of(source)) if not row["obj_ids"]]
    clip = source.clip(Place(0, item), 2, 1, [1])
    assert clip.masks[:, 0].any()

    def nothing_visible(root: Path) -> None:
        trees.edit_json(
            root / "valid_u" / "mask_dict.json",
            lambda masks: masks.update({k: [None] * len(v) for k, v in masks.items()}),
        )

    shutil.rmtree(Path(source.frame(Place(0, 0), 1, 0.0).path).parents[3])
    source = small(*SPLITS[2], change=nothing_visible)
    with pytest.raises(ValueError, match="no object of the training data is visible"):
        source.clip(Place(0, 0), 2, 1, [1])


def test_two_objects_of_a_clip_are_different_ones(small):
    """Two sentences about one object are no two objects."""
    source = small(*SPLITS[0])
    for item in range(source.length):
        clip = source.clip(Place(0, item), 2, 9, [1])
        firsts = {mask.tobytes() for mask in clip.masks[:, 0]}
        assert len(firsts) == len(clip.masks) <= 3


def test_clips_of_speck_sized_objects_are_none(small):
    """At the size of the model nothing would be left of the first mask."""
    speck = np.zeros(trees.SIZE, bool)
    speck[:6, :6] = True  # 36 pixels, fewer than SMALLEST

    def shrink(root: Path) -> None:
        trees.edit_json(
            root / "valid_u" / "mask_dict.json",
            lambda masks: masks.update({k: [trees.rle(speck)] * len(v) for k, v in masks.items()}),
        )

    source = small(*SPLITS[2], change=shrink)
    with pytest.raises(ValueError, match="no object"):
        source.clip(Place(0, 0), 2, 1, [1])


def test_benchmarks_are_joined_into_one_source(tmp_path):
    loaded = [
        load_benchmark(name, make(tmp_path / name), split) for name, split, make in SPLITS[2:]
    ]
    source = BenchmarkSource(loaded, 0)
    alone = [BenchmarkSource([one], 0) for one in loaded]
    assert source.length == sum(one.length for one in alone)
    assert source.texts == alone[0].texts + alone[1].texts
    last = source.frame(Place(0, source.length - 1), 2, 0.0)
    assert "ref-sprites" in last.path
    videos = {source.videos[i] for i in range(source.length)}
    assert len(videos) == 4


def test_a_split_without_masks_is_refused(tmp_path):
    benchmark = load_benchmark("mevis", trees.make_mevis(tmp_path / "mevis"), "valid")
    with pytest.raises(ValueError, match="MeViS valid has no masks to train on"):
        BenchmarkSource([benchmark], 0)


def damaged_frames(root: Path, damage) -> None:
    for path in root.rglob("*.jpg"):
        path.write_bytes(damage(path.read_bytes()))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff\xd8" + data[40:]],
    ids=["cut off", "empty", "no header"],
)
def test_a_damaged_frame_is_told_with_its_file(small, damage):
    source = small(*SPLITS[2])
    root = Path(source.frame(Place(0, 0), 1, 0.0).path).parents[3]
    damaged_frames(root, damage)
    for draw in (
        lambda: source.frame(Place(0, 0), 1, 0.0),
        lambda: source.clip(Place(0, 0), 2, 1, [1]),
        lambda: next(iter(loader(0, source))),
    ):
        with pytest.raises(ValueError) as caught:
            draw()
        message = str(caught.value)
        told = rf"{re.escape(str(root))}/\S+\.jpg: a damaged image .*; replace or remove it"
        assert re.match(told, message)
        assert "\n" not in message and "Traceback" not in message


def test_a_frame_of_another_size_than_its_masks_is_told(small):
    from PIL import Image

    source = small(*SPLITS[2])
    path = source.frame(Place(0, 0), 1, 0.0).path
    for file in Path(path).parent.glob("*.jpg"):
        Image.new("RGB", (20, 10)).save(file)
    with pytest.raises(ValueError, match=r"\.jpg: the frame is \(10, 20\), its masks are \(48, 64"):
        source.frame(Place(0, 0), 1, 0.0)
