"""Ref-Sprites: the generator on a small bank drawn here, and the committed split."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.conftest import NEW_SPRITE_NOUNS as NEW_NOUNS
from tests.conftest import SPRITE_NOUNS as NOUNS
from training import scenes, sprite_art, sprite_sample, sprites
from training.backgrounds import HELDOUT_FAMILIES, TRAIN_FAMILIES, make_background
from training.canvas_pool import CanvasPool
from training.expressions import KINDS, vocabulary
from training.folders import is_plain_name
from training.scenes import SceneSampler
from training.sprite_art import (
    HELDOUT_STYLES,
    TRAIN_STYLES,
    ArtError,
    SpriteBank,
    load_art,
    ready_art,
    save_art,
)
from training.sprite_dataset import choose_sentences
from training.sprite_nouns import (
    CONFUSABLE,
    NEW_NOUN_CODES,
    NOUN_CODES,
    SYNONYMS,
    confusable_with,
)
from training.sprite_render import BendingDrawing, CameraFaults, Pose, draw, prepare

DATA = Path(__file__).parents[1] / "eval" / "data"
CANONICAL = {word: noun for noun, words in SYNONYMS.items() for word in words}


@pytest.fixture(scope="module")
def bank(art_dir):
    return load_art(art_dir)


@pytest.fixture(scope="module")
def clips(bank):
    sampler = SceneSampler(bank, seed=3, pool=4)
    return [sampler.clip(20, (96, 128)) for _ in range(40)]


@pytest.fixture(scope="module")
def wild_clips(bank):
    """Clips with everything that is off by default, for tracking."""
    sampler = SceneSampler(bank, seed=3, pool=4, textured=0.2, warp=0.5, crossing=0.5)
    return [sampler.clip(20, (96, 128)) for _ in range(80)]


def test_bank_round_trip(bank):
    assert bank.nouns == NOUNS
    assert set(bank.styles) == {*TRAIN_STYLES, *HELDOUT_STYLES}
    image = bank.image("car", TRAIN_STYLES[0])
    assert image.shape == (64, 64, 4) and image.dtype == np.uint8
    assert set(np.unique(image[..., :3])) == {255}


def test_new_nouns_are_left_out_unless_asked_for(art_dir, bank):
    every, new = load_art(art_dir, "all"), load_art(art_dir, nouns="new")
    assert bank.new_nouns == () and set(bank.nouns).isdisjoint(NEW_NOUNS)
    assert new.nouns == new.new_nouns == every.new_nouns == NEW_NOUNS
    assert every.nouns == tuple(sorted(NOUNS + NEW_NOUNS))
    assert set(vocabulary(every)) - set(vocabulary(bank)) == set(NEW_NOUNS)
    with pytest.raises(ValueError, match="trained"):
        load_art(art_dir, "old")


@pytest.mark.parametrize("manifest", ['{"sources": []}', "[]", ""])
def test_art_without_new_nouns_loads_as_before(art_dir, tmp_path, capsys, manifest):
    """Custom folders, and banks fetched before there were new nouns."""
    root = tmp_path / "bank"
    shutil.copytree(art_dir, root)
    (root / "manifest.json").write_text(manifest)
    assert load_art(root).nouns == tuple(sorted(NOUNS + NEW_NOUNS))
    for nouns in ("new", "all"):
        with pytest.raises(ArtError, match="new nouns.*--fetch-art --art .*bank"):
            load_art(root, nouns)
    assert sprites.main(["--art", str(root), "--out", str(tmp_path), "--nouns", "mixed"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--fetch-art" in error


def test_a_fetched_bank_holds_all_nouns_and_hands_out_the_trained_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sprite_art, "_fetch", lambda source, scratch: scratch)
    monkeypatch.setattr(sprite_art, "_read_sprite", lambda *_: np.full((4, 4, 4), 255, np.uint8))
    sprite_art.build_art(tmp_path / "bank")
    assert load_art(tmp_path / "bank").nouns == tuple(sorted(NOUN_CODES))
    assert load_art(tmp_path / "bank", "new").nouns == tuple(sorted(NEW_NOUN_CODES))


def test_the_words_of_findtrack_tiny_have_not_changed():
    bank = SpriteBank(tuple(sorted(NOUN_CODES)), (), {})
    assert vocabulary(bank) == sorted(vocabulary(bank)) and len(vocabulary(bank)) == 180
    assert set(NEW_NOUN_CODES).isdisjoint(vocabulary(bank))


def test_missing_art_says_what_to_do(tmp_path):
    with pytest.raises(ArtError, match="fetch"):
        load_art(tmp_path / "nowhere")


@pytest.fixture
def foreign(tmp_path):
    """A folder of someone else's, with names that ours have too."""
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    (folder / "manifest.json").write_text('{"name": "a web page"}')
    return folder


def test_art_replaces_a_bank_or_an_empty_folder_only(foreign, tmp_path):
    before = tree(foreign)
    images = {("car", "noto"): np.full((4, 4, 4), 255, np.uint8)}
    with pytest.raises(ArtError, match="thesis"):
        save_art(foreign, images, {"sources": []})
    assert tree(foreign) == before
    bank = tmp_path / "bank"
    bank.mkdir()
    for _ in range(2):
        save_art(bank, images, {"sources": []})
        assert set(tree(bank)) == {"manifest.json", "noto/car.png"}
    assert {p.name for p in tmp_path.iterdir()} == {"bank", "thesis"}


def test_fetching_art_into_a_foreign_folder_fails_before_the_download(foreign, monkeypatch, capsys):
    monkeypatch.setattr(sprite_art, "_fetch", lambda *_: pytest.fail("downloads"))
    before = tree(foreign)
    assert sprites.main(["--fetch-art", "--art", str(foreign)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "thesis" in error
    assert tree(foreign) == before


def test_only_the_default_cache_is_built_unasked(art_dir, tmp_path, monkeypatch):
    built = []

    def build():
        built.append(sprite_art.default_art_dir())
        shutil.copytree(art_dir, built[-1])

    monkeypatch.setattr(sprite_art, "build_art", build)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ArtError, match="--fetch-art --art .*named"):
        ready_art(tmp_path / "named")
    monkeypatch.setenv("FINDTRACK_SPRITES", str(tmp_path / "variable"))
    with pytest.raises(ArtError, match="--fetch-art --art .*variable"):
        ready_art()
    monkeypatch.delenv("FINDTRACK_SPRITES")
    assert built == []
    assert ready_art().nouns == ready_art().nouns == NOUNS
    assert built == [tmp_path / ".cache" / "findtrack" / "sprites"]


def test_nouns_are_distinct_single_words():
    words = [*NOUN_CODES, *NEW_NOUN_CODES, *CANONICAL]
    assert len(words) == len(set(words)) and all(word.isalpha() for word in words)
    codes = [*NOUN_CODES.values(), *NEW_NOUN_CODES.values()]
    assert len(codes) == len(set(codes)) == 97 and len(NEW_NOUN_CODES) == 10
    assert set(SYNONYMS) | set().union(*CONFUSABLE) <= {*NOUN_CODES, *NEW_NOUN_CODES}


@pytest.mark.parametrize("family", TRAIN_FAMILIES + HELDOUT_FAMILIES)
def test_backgrounds_vary_and_repeat_by_seed(family):
    first, again, other = (make_background(family, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.dtype == np.uint8 and first.shape[2] == 3
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.std() > 1


def test_unknown_background_is_refused():
    with pytest.raises(ValueError, match="photo"):
        make_background("photo", np.random.default_rng(0))


def test_sampler_is_deterministic_and_seed_matters(bank):
    def three(seed):
        sampler = SceneSampler(bank, seed, pool=4)
        return [sampler.clip(n, (64, 80), expressions_per_object=2) for n in (1, 6, 3)]

    for a, b in zip(three(5), three(5), strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.masks, b.masks)
        assert a.expressions == b.expressions and a.fps == b.fps
    assert not np.array_equal(three(5)[0].frames, three(6)[0].frames)


def same_clip(a, b):
    return (
        np.array_equal(a.frames, b.frames)
        and np.array_equal(a.masks, b.masks)
        and (a.expressions, a.background, a.fps) == (b.expressions, b.background, b.fps)
    )


def stream(bank, seed, numbers, **options):
    """Clips of a seed by number, from a sampler and a pool of their own."""
    sampler = SceneSampler(bank, seed, pool=0, **options)
    pool = CanvasPool(TRAIN_FAMILIES, seed, size=4, period=6)
    for i in numbers:
        sampler.seek((seed, i), pool.at(i))
        yield sampler.clip(1 if i % 2 else 3, (64, 80), expressions_per_object=2)


def test_a_sample_depends_on_seed_and_number_alone(bank):
    options = {"textured": 0.5, "warp": 0.5, "crossing": 0.5}
    ordered = list(stream(bank, 5, range(14), **options))
    backwards = list(stream(bank, 5, range(13, -1, -1), **options))[::-1]
    assert all(map(same_clip, ordered, backwards))
    (resumed,) = stream(bank, 5, [13], **options)
    assert same_clip(ordered[13], resumed)
    assert not any(same_clip(ordered[i], ordered[j]) for i in range(14) for j in range(i))
    (other,) = stream(bank, 6, [13], **options)
    assert not same_clip(resumed, other)


def test_canvases_are_renewed_one_by_one_and_made_when_taken(monkeypatch):
    made = []

    def make(family, rng):
        made.append(family)
        return rng.random(4)

    monkeypatch.setattr("training.canvas_pool.make_background", make)
    pool = CanvasPool(("noise", "texture"), (1, 2), size=4, period=8)
    shown = [[float(c[0]) for _, c in pool.at(i)] for i in range(33)]
    changed = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in pairwise(shown)]
    assert changed == [i % 2 for i in range(32)]  # 4 slots in 8 steps, never two at once
    assert len(made) == 4 + 16 == len({value for row in shown for value in row})
    assert {f for f, _ in pool.at(0)} == {"noise", "texture"}
    count = len(made)
    later = pool.at(1000)
    assert len(later) == 4 and len(made) == count
    assert later[2] is later[2] and len(made) == count + 1
    anew = CanvasPool(("noise", "texture"), (1, 2), size=4, period=8).at(1000)
    assert anew[2][0] == later[2][0] and np.array_equal(anew[2][1], later[2][1])
    with pytest.raises(ValueError, match="-1"):
        pool.at(-1)


def test_a_sampler_without_canvases_says_so(bank):
    with pytest.raises(ValueError, match="seek"):
        SceneSampler(bank, 0, pool=0).clip(1, (64, 64))


@pytest.mark.parametrize("frames,size", [(1, (64, 64)), (7, (48, 90)), (5, (90, 48))])
def test_shapes(bank, frames, size):
    clip = SceneSampler(bank, 0, pool=4).clip(frames, size, fps=12)
    assert clip.frames.shape == (frames, *size, 3) and clip.frames.dtype == np.uint8
    assert clip.masks.shape == (len(clip.objects), frames, *size) and clip.masks.dtype == bool
    assert clip.fps == 12 and 2 <= len(clip.objects) <= 5
    for obj, masks in zip(clip.objects, clip.masks, strict=True):
        assert bank.nouns[obj.noun_id] == obj.noun
        for mask, (x0, y0, x1, y1) in zip(masks, obj.boxes, strict=True):
            ys, xs = np.nonzero(mask)
            want = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
            assert (x0, y0, x1, y1) == want


def test_drawing_covers_exactly_the_opaque_pixels(bank):
    frame = np.zeros((80, 100, 3), np.uint8)
    drawing = prepare(bank.image("dog", TRAIN_STYLES[0]), None, shadow=False)
    opaque, place = draw(frame, drawing, Pose(90.0, 40.0, 50.0, 0.4, True))
    mask = np.zeros((80, 100), bool)
    mask[place] = opaque
    assert mask.any() and np.array_equal(frame[..., 0] >= 128, mask)
    assert draw(frame, drawing, Pose(-90.0, 40.0, 50.0, 0.4, False)) is None


@pytest.mark.parametrize("options,dark", [({}, 0), ({"warp": 1.0, "crossing": 1.0}, 0.005)])
def test_masks_follow_the_frames(bank, monkeypatch, options, dark):
    """White sprites on black, no shadows or camera faults: the masks are the bright pixels."""
    monkeypatch.setattr(scenes, "make_background", lambda *_: np.zeros((448, 448, 3), np.uint8))
    monkeypatch.setattr(scenes, "colour_matrix", lambda *_: None)
    monkeypatch.setattr(scenes, "cast_shadow", lambda *_: None)
    perfect = CameraFaults(None, 0.0, 0.0, None, 0)
    monkeypatch.setattr(SceneSampler, "_faults", lambda self: perfect)
    sampler = SceneSampler(bank, 1, pool=1, **options)
    for _ in range(6):
        clip = sampler.clip(6, (96, 128))
        bright, union = clip.frames[..., 0] >= 128, clip.masks.any(axis=0)
        # Two half-transparent edges over each other may add up to a bright pixel, or to a dark
        # one where the upper is a black occluder's.
        assert union.any() and (union & ~bright).sum() <= dark * union.sum()
        assert (bright & ~union).sum() <= 0.02 * union.sum()
        assert clip.masks.sum(axis=0).max() == 1  # visible parts never overlap


def outline(drawing, size):
    frame = np.zeros((96, 96, 3), np.uint8)
    opaque, place = draw(frame, drawing, Pose(48.0, 48.0, size, 0.3, False))
    mask = np.zeros((96, 96), bool)
    mask[place] = opaque
    return mask


@pytest.mark.parametrize("size", [10.0, 30.0, 64.0])
def test_bending_moves_every_point_a_little(bank, size):
    drawing = prepare(bank.image("tree", TRAIN_STYLES[0]), None, shadow=False)
    shapes = np.random.default_rng(0).uniform(-0.1, 0.1, (3, 4, 4, 2)).astype(np.float32)
    shapes[0] = 0
    bending = BendingDrawing(drawing.levels, None, drawing.opaque, shapes)
    still, *bent = (outline(*bending.bent(step, size)) for step in range(3))
    assert np.array_equal(still, outline(drawing, size))
    reach = 2 * int(np.ceil(0.12 * size)) + 1  # a little more: cubic interpolation overshoots
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach + 2, reach + 2))
    for mask in bent:
        assert 0 < (mask ^ still).sum() < 0.6 * still.sum()
        assert not (mask & ~cv2.dilate(still.astype(np.uint8), disc).astype(bool)).any()


def test_bending_is_smooth_in_time(bank, monkeypatch):
    """Alone in a still picture but for its bending, an object changes a little at every frame."""
    still = scenes.sample_motion

    def rest(rng, steps, aspect, *_):
        motion = still(rng, steps, aspect, aspect / 2, 0.4, 0.0)
        position = np.broadcast_to(aspect / 2, (steps, 2))
        extent, angle = np.full(steps, 0.4), np.zeros(steps)
        return replace(motion, position=position, extent=extent, angle=angle, spin=0.0)

    monkeypatch.setattr(scenes, "sample_motion", rest)
    sampler = SceneSampler(bank, 3, pool=1, warp=1.0, moving_camera=0.0)
    for _ in range(6):
        clip = sampler.clip(8, (128, 128))
        nearest = max(range(len(clip.objects)), key=lambda o: clip.objects[o].z)
        if clip.objects[nearest].visibility.min() < 0.8:  # behind an occluder
            continue
        masks = clip.masks[nearest]
        changed = (masks[1:] ^ masks[:-1]).sum(axis=(1, 2)) / masks[0].sum()
        assert changed.max() < 0.2 and (masks[0] ^ masks[-1]).sum() > 0.01 * masks[0].sum()


def overtakes(clip):
    """Whether two objects' boxes overlap in the clip, but not at both of its ends."""
    for a, b in combinations([o.boxes for o in clip.objects], 2):
        meet = np.minimum(a[:, 2:], b[:, 2:]) > np.maximum(a[:, :2], b[:, :2])
        if meet.all(axis=1).any() and not meet[[0, -1]].all():
            yield a, b


def test_paths_cross_when_asked_to(bank):
    def share(**options):
        sampler = SceneSampler(bank, 2, pool=2, **options)
        found = [any(overtakes(sampler.clip(16, (96, 96), 0))) for _ in range(40)]
        return np.mean(found)

    assert share() < 0.5 < 0.9 < share(crossing=1.0)


def test_twins_cross_first(bank):
    sampler = SceneSampler(bank, 2, pool=2, crossing=1.0)
    met = []
    for _ in range(30):
        clip = sampler.clip(16, (96, 96), expressions_per_object=0)
        groups = Counter(o.noun for o in clip.objects)
        twins = [o.boxes for o in clip.objects if groups[o.noun] > 1]
        pairs = [(a, b) for a, b in overtakes(clip) if any(a is t for t in twins)]
        met += [any(any(b is t for t in twins) for _, b in pairs)] if twins else []
    assert np.mean(met) > 0.8


def test_nearer_objects_hide_farther_ones(clips):
    hidden = [obj.visibility.min() for clip in clips for obj in clip.objects]
    assert min(hidden) < 0.5 and np.median(hidden) > 0.7
    assert all(
        sorted(o.z for o in clip.objects) == sorted({o.z for o in clip.objects}) for clip in clips
    )


def test_scenes_have_twins_motion_and_absence(clips):
    twins = [max(Counter(o.noun for o in c.objects).values()) > 1 for c in clips]
    assert 0.4 < np.mean(twins) < 0.8
    still = [(np.diff(c.frames.astype(int), axis=0) == 0).all() for c in clips]
    assert not any(still)
    objects = [masks for clip in clips for masks in clip.masks]
    leaves = [not m.any(axis=(1, 2)).all() for m in objects]
    assert any(leaves) and np.mean(leaves) < 0.5


def test_training_sampler_never_uses_held_out_art_or_backgrounds(clips):
    assert {o.style for c in clips for o in c.objects} == set(TRAIN_STYLES)
    assert {c.background for c in clips} <= set(TRAIN_FAMILIES)
    assert not set(TRAIN_STYLES) & set(HELDOUT_STYLES)
    assert not set(TRAIN_FAMILIES) & set(HELDOUT_FAMILIES)


def test_unknown_style_is_refused(bank):
    with pytest.raises(ValueError, match="woodcut"):
        SceneSampler(bank, 0, styles=("woodcut",))


def test_textured_cutouts_are_unnamed_targets(bank):
    clip = SceneSampler(bank, 0, pool=4, textured=1.0).clip(4, (64, 64))
    assert all(o.noun == "" and o.noun_id == -1 for o in clip.objects)
    assert clip.masks.any() and all(e.kind == "no-target" for e in clip.expressions)


def test_expressions_per_object_is_a_cap(bank):
    clip = SceneSampler(bank, 2, pool=4).clip(8, (64, 64), expressions_per_object=1)
    counts = Counter(e.objects for e in clip.expressions)
    assert counts and max(counts.values()) == 1


def test_every_kind_occurs_and_every_word_is_known(bank, clips):
    assert {e.kind for c in clips for e in c.expressions} == set(KINDS)
    words = set(vocabulary(bank))
    assert vocabulary(bank) == sorted(words) and set(bank.nouns) <= words
    for clip in clips:
        for e in clip.expressions:
            assert e.text == e.text.lower() and set(e.text.split()) <= words


def test_noun_sentences_are_unique_and_no_target_nouns_absent(clips):
    for clip in clips:
        there = Counter(o.noun for o in clip.objects)
        for e in clip.expressions:
            if e.kind == "no-target":
                assert e.objects == () and not confusable_with(e.noun) & set(there)
                continue
            (target,) = e.objects
            assert clip.objects[target].noun == e.noun
            assert clip.masks[target].any()
            if e.kind in ("noun", "motion"):
                assert e.unique_noun
            if e.kind == "motion-only":
                assert there[e.noun] > 1 and not e.unique_noun


def test_single_images_never_ask_for_motion_only(bank):
    sampler = SceneSampler(bank, 4, pool=4)
    kinds = Counter(e.kind for _ in range(60) for e in sampler.clip(1, (64, 64)).expressions)
    assert kinds["motion-only"] == 0 and kinds["motion"] > 0 and kinds["relation"] > 0


LEFT = {"left", "leftmost"}
RIGHT = {"right", "rightmost"}
TOP = {"top", "upper", "topmost"}
BOTTOM = {"bottom", "lower", "lowest"}
BIG = {"big", "large", "bigger", "larger", "biggest", "largest"}
SMALL = {"small", "little", "smaller", "tiny", "smallest"}


def side_of(words):
    """(axis, sign) a sentence speaks of, None for other words."""
    sides = ((LEFT, 0, -1), (RIGHT, 0, 1), (TOP | {"above", "over"}, 1, -1))
    for names, axis, sign in (*sides, (BOTTOM | {"below", "under"}, 1, 1)):
        if names & words:
            return axis, sign
    return None


def centre(mask):
    return np.array([axis.mean() for axis in np.nonzero(mask)[::-1]])


def share_true(kind, text, target, nouns, masks, seen):
    """Share of the frames showing everything involved in which a sentence holds, from masks."""
    words = set(text.split())
    same = [i for i, n in enumerate(nouns) if n == nouns[target] and i != target]
    same = [i for i in same if masks[i].any()]
    involved = [target, *same]
    if kind == "relation":
        last = text.split()[-1]
        involved.append(nouns.index(CANONICAL.get(last, last)))
    frames = np.nonzero(seen[involved].all(axis=0))[0]
    assert len(frames) >= 0.2 * masks.shape[1]
    held = []
    for t in frames:
        if kind == "size":
            sign = 1 if words & BIG else -1
            assert words & (BIG | SMALL)
            areas = [masks[i, t].sum() for i in same]
            held.append(all(sign * masks[target, t].sum() > sign * a for a in areas))
        elif side := side_of(words):
            axis, sign = side
            here = sign * centre(masks[target, t])[axis]
            if kind == "relation":
                rest = [sign * centre(masks[involved[-1], t])[axis]]
            elif same:
                rest = [sign * centre(masks[i, t])[axis] for i in same]
            else:
                rest = [sign * masks.shape[3 - axis] / 2]
            held.append(all(here > r for r in rest))
    return np.mean(held) if held else None


def test_position_size_and_relation_sentences_hold(clips):
    checked = Counter()
    for clip in clips:
        nouns = [o.noun for o in clip.objects]
        seen = np.stack([o.visibility >= 0.4 for o in clip.objects])
        for e in clip.expressions:
            if e.kind in ("position", "size", "relation"):
                share = share_true(e.kind, e.text, e.objects[0], nouns, clip.masks, seen)
                if share is not None:
                    assert share >= 0.95, (e, nouns)
                    checked[e.kind] += 1
    assert min(checked[k] for k in ("position", "size", "relation")) >= 10


def test_direction_sentences_hold_and_twins_go_elsewhere(clips):
    names = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "upwards": (1, -1)}
    names |= {"rises": (1, -1), "down": (1, 1), "downwards": (1, 1), "sinks": (1, 1)}
    checked = 0
    for clip in clips:
        for e in clip.expressions:
            found = [names[w] for w in e.text.split() if w in names]
            if not e.kind.startswith("motion") or not found:
                continue
            axis, sign = found[0]
            target = clip.objects[e.objects[0]]
            for i, obj in enumerate(clip.objects):
                # Centres mean something only where the whole object is in view.
                whole = np.nonzero(obj.visibility > 0.97)[0]
                if obj.noun != target.noun or len(whole) < 10:
                    continue
                first, last = (centre(clip.masks[i, t])[axis] for t in whole[[0, -1]])
                ahead = sign * (last - first)
                assert ahead > 0.5 if obj is target else ahead < 4, (e, i)
                checked += obj is target
    assert checked >= 10


def test_sentences_hold_in_wild_clips_too(wild_clips):
    test_position_size_and_relation_sentences_hold(wild_clips)
    test_direction_sentences_hold_and_twins_go_elsewhere(wild_clips)


def test_sentences_of_a_clip_differ_and_spread_over_kinds(clips):
    for clip in clips:
        chosen = choose_sentences(clip.expressions, 8, np.random.default_rng(0))
        texts = [e.text for e in chosen]
        assert len(texts) == len(set(texts)) <= 8
        assert sum(e.kind == "no-target" for e in chosen) <= 1
        offered = {e.kind for e in clip.expressions}
        assert {e.kind for e in chosen} == offered


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_command_line_writes_the_same_bytes_twice(art_dir, tmp_path, capsys):
    command = ["--art", str(art_dir), "--seed", "3", "--clips", "4", "--split", "tiny"]
    command += ["--size", "48", "--frames", "16", "18", "--heldout-fraction", "0.25"]
    for name in ("a", "b"):
        assert sprites.main([*command, "--out", str(tmp_path / name)]) == 0
    first = tree(tmp_path / "a" / "tiny")
    assert first == tree(tmp_path / "b" / "tiny")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["tiny"]  # nothing temporary left
    check_split(tmp_path / "a" / "tiny", clips=4, heldout=1)
    assert sprites.main([*command, "--out", str(tmp_path / "a")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert tree(tmp_path / "a" / "tiny") == first
    assert sprites.main([*command, "--overwrite", "--out", str(tmp_path / "a")]) == 0


@pytest.mark.parametrize("nouns", ["new", "mixed"])
def test_splits_with_new_nouns(art_dir, tmp_path, nouns):
    command = ["--art", str(art_dir), "--seed", "3", "--clips", "24", "--split", "tiny"]
    command += ["--size", "48", "--frames", "16", "16", "--nouns", nouns]
    assert sprites.main([*command, "--out", str(tmp_path)]) == 0
    videos, _ = check_split(tmp_path / "tiny", clips=24, heldout=0)
    shown = [{o["noun"] for o in v["objects"]} for v in videos.values()]
    asked = [(e["noun"], e["kind"]) for v in videos.values() for e in v["expressions"].values()]
    new = [noun in NEW_NOUNS for noun, _ in asked]
    assert all(there & set(NEW_NOUNS) for there in shown)
    if nouns == "new":
        assert all(there <= set(NEW_NOUNS) for there in shown) and all(new)
        return
    fresh = [
        noun in NEW_NOUNS for v in videos.values() for noun in [o["noun"] for o in v["objects"]]
    ]
    assert 0.35 < np.mean(fresh) < 0.75 and 0.3 < np.mean(new) < 0.75
    absent = [noun in NEW_NOUNS for noun, kind in asked if kind == "no-target"]
    assert 0.1 < np.mean(absent) < 0.9
    twins = [len(v["objects"]) > len(s) for v, s in zip(videos.values(), shown, strict=True)]
    assert 0.3 < np.mean(twins) < 0.9


def test_a_mixture_needs_new_nouns(bank):
    with pytest.raises(ValueError, match="new nouns"):
        SceneSampler(bank, 0, mixed=True)


@pytest.mark.parametrize(
    "extra,word",
    [
        (["--art", "nowhere"], "sprite art"),
        (["--clips", "0"], "clip"),
        (["--size", "4"], "pixels"),
        (["--heldout-fraction", "0.9"], "fraction"),
        (["--frames", "9", "3"], "frames"),
    ],
)
def test_bad_input_is_one_line_and_status_2(art_dir, tmp_path, capsys, extra, word):
    out = tmp_path / "out"
    assert sprites.main(["--art", str(art_dir), "--out", str(out), *extra]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and word in error
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a/", "a\\b", "C:a"])
def test_a_split_is_named_by_one_plain_component(art_dir, tmp_path, capsys, name):
    out = tmp_path / "out"
    (out / "inner").mkdir(parents=True)
    command = ["--art", str(art_dir), "--out", str(out), "--clips", "1", "--overwrite"]
    assert not is_plain_name(name) and is_plain_name("valid_u.2")
    assert sprites.main([*command, "--split", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and repr(name) in error
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "inner"]


def test_overwriting_spares_what_is_no_split(art_dir, foreign, capsys):
    before = tree(foreign)
    command = ["--art", str(art_dir), "--out", str(foreign.parent), "--split", foreign.name]
    assert sprites.main([*command, "--clips", "1", "--overwrite"]) == 2
    assert "thesis" in capsys.readouterr().err and tree(foreign) == before


def test_a_sample_replaces_a_sample_or_an_empty_folder_only(
    art_dir, bank, foreign, monkeypatch, capsys
):
    clip = SceneSampler(bank, 3, pool=1).clip(2, sprite_sample.SIZE)
    about = next(e for e in clip.expressions if e.objects)
    monkeypatch.setattr(sprite_sample, "find_clip", lambda *_: (clip, about))
    before = tree(foreign)
    assert sprite_sample.main(["--art", str(art_dir), "--out", str(foreign)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "thesis" in error
    assert tree(foreign) == before
    out = foreign.parent / "sample"
    out.mkdir()
    for _ in range(2):
        assert sprite_sample.main(["--art", str(art_dir), "--out", str(out)]) == 0
        assert {p.name for p in out.iterdir()} == {"sample.mp4", "sample.json", "masks"}


def check_split(root, clips, heldout):
    """A MeViS tree: schema, frames, masks; returns its meta and decoded masks by id."""
    videos = json.loads((root / "meta_expressions.json").read_text())["videos"]
    rles = json.loads((root / "mask_dict.json").read_text())
    assert len(videos) == clips
    assert sum(v["heldout_art"] for v in videos.values()) == heldout
    assert sum(v["heldout_background"] for v in videos.values()) == heldout
    masks = {}
    for name, video in videos.items():
        assert len(name) == 12 and int(name, 16) >= 0
        size = (video["height"], video["width"])
        files = sorted((root / "JPEGImages" / name).iterdir())
        assert [p.stem for p in files] == video["frames"]
        assert 16 <= len(files) <= 48 and 12 <= video["fps"] <= 24
        for path in files[:: len(files) - 1]:
            assert cv2.imread(str(path)).shape == (*size, 3)
        assert (video["background"] in HELDOUT_FAMILIES) == video["heldout_background"]
        for obj in video["objects"]:
            assert (obj["art"] in HELDOUT_STYLES) == video["heldout_art"]
            track = rles[str(obj["anno_id"])]
            assert len(track) == len(files)
            masks[obj["anno_id"]] = np.stack([decode(rle, size) for rle in track])
        ids = [o["anno_id"] for o in video["objects"]]
        for number, e in enumerate(video["expressions"].values()):
            assert list(video["expressions"])[number] == str(number)
            assert e["anno_id"] == [ids[o] for o in e["obj_id"]]
            assert (e["kind"] == "no-target") == (e["obj_id"] == [])
            assert all(masks[a].any() for a in e["anno_id"])
    return videos, masks


def decode(rle, size):
    if rle is None:
        return np.zeros(size, bool)
    assert rle["size"] == list(size)
    return coco_mask.decode({**rle, "counts": rle["counts"].encode("ascii")}).astype(bool)


def test_committed_split():
    root = DATA / "ref_sprites" / "valid"
    assert sum(len(content) for content in tree(root).values()) <= 8e6
    videos, masks = check_split(root, clips=40, heldout=8)
    kinds = Counter(e["kind"] for v in videos.values() for e in v["expressions"].values())
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 25
    assert 250 <= sum(kinds.values()) <= 400 and kinds["no-target"] == 40
    for name, video in videos.items():
        nouns = [o["noun"] for o in video["objects"]]
        tracks = np.stack([masks[o["anno_id"]] for o in video["objects"]])
        area = tracks.sum(axis=(2, 3))
        # How much of an object is hidden is not on disk: its usual size is a fair yardstick.
        usual = [np.median(a[a > 0]) if a.any() else np.inf for a in area]
        seen = area >= 0.3 * np.array(usual)[:, None]
        for e in video["expressions"].values():
            if e["kind"] == "no-target":
                assert not confusable_with(e["noun"]) & set(nouns)
            elif e["kind"] in ("position", "relation"):
                target = e["obj_id"][0]
                share = share_true(e["kind"], e["exp"], target, nouns, tracks, seen)
                assert share is None or share >= 0.9, (name, e)


def test_committed_sample():
    import av

    root = DATA / "sample"
    facts = json.loads((root / "sample.json").read_text())
    assert (root / "sample.mp4").stat().st_size < 300_000
    with av.open(str(root / "sample.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == facts["fps"]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    masks = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted((root / "masks").iterdir())]
    assert len(frames) == len(masks) == facts["frames"]
    assert all(m.shape == f.shape[:2] for m, f in zip(masks, frames, strict=True))
    assert all(set(np.unique(m)) == {0, 255} for m in masks)
    assert facts["kind"] in ("position", "size")
    twin = next(n for n, count in Counter(facts["nouns"]).items() if count > 1)
    assert twin in {CANONICAL.get(w, w) for w in facts["expression"].split()}
    assert facts["licences"]
