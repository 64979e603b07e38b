"""The demo clips of photographs: true masks, no edge in sight, and what is committed."""

import filecmp
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from modeling_findtrack.video_io import open_video
from training import photo_sample
from training.photo_outlines import PHOTOS
from training.photo_shot import FPS, Key, Shot, coverage, film, without

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "eval" / "data" / "photos"
EXAMPLES = ROOT / "space" / "examples"
FREE = {"CC0", "public domain"}
ORANGE, BLUE = (200, 120, 20), (20, 40, 130)
SHAPE = (200, 300)
CAMERA = (Key(0, 130, 95, 90, -8), Key(0.5, 160, 100, 120, 5), Key(1, 150, 100, 150, 0))
SHOTS = {
    "still": Shot(CAMERA, frames=33, size=(96, 128)),
    "moving": Shot(
        CAMERA,
        (Key(0, -20, 5, 0.9, -10), Key(1, 15, -5, 1.2, 20)),
        pivot=(140, 100),
        frames=33,
        size=(96, 128),
    ),
}


def disk() -> tuple[np.ndarray, np.ndarray]:
    """An orange disk on blue, (h, w, 3), and its coverage."""
    angles = np.linspace(0, 2 * np.pi, 200)
    points = np.stack([140 + 30 * np.cos(angles), 100 + 30 * np.sin(angles)], axis=1)
    target = coverage(points, SHAPE)
    share = target[..., None] / 255
    return np.uint8(np.round(share * ORANGE + (1 - share) * BLUE)), target


@pytest.fixture(params=PHOTOS)
def name(request) -> str:
    return request.param


@pytest.fixture
def pixels(name) -> np.ndarray:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    return PHOTOS[name].pixels()


def test_coverage_counts_area():
    corners = [(10.5, 20), (30, 20), (30, 40.25), (10.5, 40.25)]
    whole = coverage(corners, (50, 60)) / 255
    assert (whole[20:40, 11:30] == 1).all() and whole[30, 10] == pytest.approx(0.5, abs=0.13)
    assert whole[40, 20] == pytest.approx(0.25, abs=0.13)
    assert not whole[:20].any() and not whole[41:].any() and not whole[:, :10].any()


@pytest.mark.parametrize("shot", SHOTS.values(), ids=SHOTS)
def test_masks_are_where_the_pixels_are(shot):
    """In the frames it is half-way from blue to orange that tells the disk."""
    frames, masks = film(*disk(), shot)
    assert frames.shape == (33, 96, 128, 3) and masks.shape == (33, 96, 128)
    seen = frames[..., 0] > (ORANGE[0] + BLUE[0]) / 2
    pixel = np.ones((3, 3), np.uint8)
    for mask, there in zip(masks.astype(np.uint8), seen.astype(np.uint8), strict=True):
        assert mask.any()
        assert (there <= cv2.dilate(mask, pixel)).all()
        assert (cv2.erode(mask, pixel) <= there).all()


def test_the_subject_moves_in_the_picture():
    where = {}
    for name, shot in SHOTS.items():
        masks = film(*disk(), shot)[1]
        where[name] = [np.argwhere(mask).mean(0) for mask in masks]
    moved = np.linalg.norm(np.subtract(where["moving"], where["still"]), axis=1)
    assert moved[0] > 10 and moved[-1] > 8


def test_where_the_subject_was_its_surroundings_are():
    picture, target = disk()
    behind = without(picture, target, 4)
    assert np.abs(behind.astype(int) - BLUE).max() <= 2


def test_light_swings_about_the_photograph():
    shot = replace(SHOTS["still"], light=0.2, frames=9)
    plain, lit = (film(*disk(), s)[0].mean((1, 2, 3)) for s in (replace(shot, light=0), shot))
    gain = lit / plain
    assert gain[2] == pytest.approx(1.2, abs=0.01) and gain[6] == pytest.approx(0.8, abs=0.01)


def test_it_is_no_slide_show(name):
    """The camera moves, from one frame to the next by less than a twentieth of the picture."""
    shot = PHOTOS[name].shot
    corner = np.array([shot.size[1], shot.size[0], 1])
    places = np.array([still @ corner for still, _ in shot.matrices(np.arange(shot.frames))])
    steps = np.linalg.norm(np.diff(places[:, :2], axis=0), axis=1)
    assert steps.mean() > 0.5 and steps.max() < max(shot.size) / 20


def test_the_edge_of_the_photograph_is_never_seen(name, pixels):
    """Neither of all of it, nor of what moves: with more around, the masks are the same."""
    photo, (height, width) = PHOTOS[name], pixels.shape[:2]
    rows, columns = photo.shot.size
    corners = np.array([(x, y, 1) for x in (0, columns) for y in (0, rows)]).T
    for still, _ in photo.shot.matrices(np.arange(0, photo.shot.frames, 0.5) - 0.25):
        x, y, _ = np.linalg.inv(still) @ corners
        assert x.min() >= 0 and y.min() >= 0 and x.max() <= width and y.max() <= height
    subject = photo.subject((height, width))
    room = 60
    around = cv2.copyMakeBorder(subject, *[room] * 4, cv2.BORDER_REPLICATE)
    few = replace(photo.shot, frames=14)
    wide = replace(
        few,
        camera=[replace(key, x=key.x + room, y=key.y + room) for key in photo.shot.camera],
        pivot=(photo.shot.pivot[0] + room, photo.shot.pivot[1] + room),
    )
    blank = np.zeros((*subject.shape, 3), np.uint8)
    wider = np.zeros((*around.shape, 3), np.uint8)
    assert (film(wider, around, wide)[1] == film(blank, subject, few)[1]).all()


def test_the_same_bytes_again(tmp_path, monkeypatch, capsys):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    short = {n: replace(p, shot=replace(p.shot, frames=6)) for n, p in PHOTOS.items()}
    monkeypatch.setattr(photo_sample, "PHOTOS", short)
    for out in (tmp_path / "a", tmp_path / "b", tmp_path / "b"):  # the third replaces the second
        assert photo_sample.main(["--out", str(out)]) == 0
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == len(PHOTOS) * (6 + 2)
    assert all(filecmp.cmp(tmp_path / "a" / f, tmp_path / "b" / f, shallow=False) for f in files)
    capsys.readouterr()
    (tmp_path / "thesis" / "cat").mkdir(parents=True)
    (tmp_path / "thesis" / "cat" / "thesis.txt").write_text("years of work")
    assert photo_sample.main(["--out", str(tmp_path / "thesis")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "thesis" / "cat" / "thesis.txt").is_file()


def test_without_scikit_image_the_remedy_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert photo_sample.main(["--out", str(tmp_path / "out")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def facts(name: str) -> dict:
    return json.loads((COMMITTED / name / "sample.json").read_text(encoding="utf-8"))


def test_every_photograph_is_committed():
    assert {path.name for path in COMMITTED.iterdir()} == set(PHOTOS)


def test_the_committed_clip_fits_the_script(name):
    shot, folder = PHOTOS[name].shot, COMMITTED / name
    stated = facts(name)
    with open_video(folder / "sample.mp4") as video:
        assert (video.num_frames, video.height, video.width) == (shot.frames, *shot.size)
        assert video.fps == FPS
    assert (stated["frames"], stated["height"], stated["width"]) == (shot.frames, *shot.size)
    assert stated["fps"] == FPS and stated["expression"] == PHOTOS[name].expression
    assert (folder / "sample.mp4").stat().st_size < 400e3
    names = sorted(path.name for path in (folder / "masks").iterdir())
    assert names == [f"{t:05d}.png" for t in range(shot.frames)]


def test_the_committed_clip_is_what_the_script_makes(name, pixels):
    """Other versions of the libraries may differ in the last bits, not in what is seen."""
    frames, masks = photo_sample.film_photo(PHOTOS[name])
    with open_video(COMMITTED / name / "sample.mp4") as video:
        shown = np.stack(list(video.frames()))
    assert np.abs(shown.astype(int) - frames).mean() < 4  # lossy
    for t, mask in enumerate(masks):
        image = np.array(Image.open(COMMITTED / name / "masks" / f"{t:05d}.png"))
        assert set(np.unique(image)) <= {0, 255}
        assert ((image > 0) != mask).mean() < 1e-3


def test_every_clip_has_its_licence_stated(name):
    photo = PHOTOS[name]
    (source,) = facts(name)["licences"]
    assert source["licence"] == photo.licence and photo.licence in FREE
    assert source["author"] == photo.author and source["picture"] == photo.picture
    assert photo.function in source["from"] and "by hand" in facts(name)["truth"]


def test_every_example_of_the_space_is_one_of_them_with_its_licence_beside_it():
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    clips = sorted(path.stem for path in EXAMPLES.glob("*.mp4"))
    assert clips == sorted(PHOTOS)
    for clip in clips:
        sample = COMMITTED / clip / "sample.mp4"
        assert filecmp.cmp(sample, EXAMPLES / f"{clip}.mp4", shallow=False)
        (line,) = [line for line in told if f"`{clip}.mp4`" in line]
        photo = PHOTOS[clip]
        assert all(fact in line for fact in (photo.picture, photo.author, photo.licence))


def test_the_stated_licence_is_that_of_the_documentation(name, pixels):
    from skimage import data

    said = getattr(data, PHOTOS[name].function).__doc__
    assert PHOTOS[name].licence in said
