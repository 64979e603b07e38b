"""The metric's Space: what its pictures show, what it reads, and the app itself over its API."""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.metrics.jf.core import boundary_f, sequence_scores

FOLDER = Path(__file__).parents[1] / "eval/metrics/jf"
pytest.importorskip("gradio", reason="gradio is not installed")
gradio_client = pytest.importorskip("gradio_client")


def blobs(seed: int, frames: int) -> np.ndarray:
    """Masks (frames, 40, 60) of a moving box with some noise, the last one empty."""
    rng = np.random.default_rng(seed)
    masks = rng.random((frames, 40, 60)) < 0.01
    for t in range(frames - 1):
        masks[t, 8:24, 5 + 3 * t : 25 + 3 * t] = True
    masks[-1] = False
    return masks


@pytest.fixture(scope="module")
def app():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("app")
        for name in ("app", "core"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def client(app, tmp_path_factory):
    """A client of the app, which runs as a Space does: a process in a folder of nothing else."""
    folder = tmp_path_factory.mktemp("space")
    for name in ("app.py", "core.py"):
        shutil.copy(FOLDER / name, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
    }
    log = folder / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=folder,
            env=os.environ | variables,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.25)
        yield gradio_client.Client(
            f"http://127.0.0.1:{port}", verbose=False, download_files=str(folder / "answers")
        )
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def upload(tmp_path):
    """Two clips of 10 PNGs as the client sends them, named so that text order is not time order."""
    sides = []
    for side, seed in (("prediction", 1), ("reference", 2)):
        folder = tmp_path / side
        folder.mkdir()
        for t, mask in enumerate(blobs(seed, 11)[:10]):
            Image.fromarray(mask.astype(np.uint8) * 3).save(folder / f"frame{t + 1}.png")
        sides.append([gradio_client.handle_file(str(path)) for path in folder.iterdir()])
    return sides


def test_the_app_scores_a_frame(app, client, tmp_path):
    prediction, reference = (paths[4] for paths in app.write_example(tmp_path))
    expected = sequence_scores([app.read_mask(Path(prediction))], [app.read_mask(Path(reference))])
    with Image.open(prediction) as image:  # object 1 of a palette in which all is black
        labels = Image.fromarray((np.array(image) > 0).astype(np.uint8))
    labels.putpalette([0, 0, 0] * 2)
    labels.save(prediction)
    scores, picture = client.predict(
        gradio_client.handle_file(prediction),
        gradio_client.handle_file(reference),
        api_name="/frame",
    )
    assert scores == {"J&F": expected.jf, "J": expected.j_mean, "F": expected.f_mean}
    with Image.open(picture) as image:
        colours = np.unique(np.array(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert {*map(tuple, colours.tolist())} == {
        (0, 0, 0),
        app.MASK,
        app.AGREED,
        app.WRONG,
        app.MISSED,
    }


def test_the_app_scores_a_clip_from_files_and_from_a_zip(client, upload, tmp_path):
    predictions, references = upload
    expected = sequence_scores(blobs(1, 11)[:10], blobs(2, 11)[:10])
    summary, curves, pictures = client.predict(predictions, references, api_name="/clip")
    assert (summary["J&F"], summary["J_decay"]) == (expected.jf, expected.j_decay)
    assert [row[1] for row in curves["data"]] == pytest.approx([*expected.j, *expected.f])
    assert len(pictures) == 8 and pictures[0]["caption"].startswith("frame")
    with zipfile.ZipFile(tmp_path / "clip.zip", "w") as archive:
        for path in (tmp_path / "reference").iterdir():
            archive.write(path, f"video/{path.name}")
        archive.writestr("__MACOSX/video/._frame1.png", b"not an image")
        archive.writestr("video/notes.txt", b"")
    zipped = [gradio_client.handle_file(str(tmp_path / "clip.zip"))]
    assert client.predict(predictions, zipped, api_name="/clip")[0] == summary
    with pytest.raises(Exception, match="two frames frame"):
        client.predict(zipped, zipped + references, api_name="/clip")
    with pytest.raises(Exception, match="is on one side only"):
        client.predict(predictions[1:], zipped, api_name="/clip")
    with pytest.raises(Exception, match="prediction has 0 PNGs"):
        client.predict(None, zipped, api_name="/clip")


def test_the_picture_shows_what_f_counts(app):
    rng = np.random.default_rng(3)
    for _ in range(20):
        pred, truth = rng.random((2, 90, 130)) < 0.003
        hit, wrong, found, missed = (edge.sum() for edge in app.split_boundaries(pred, truth))
        precision, recall = hit / (hit + wrong), found / (found + missed)
        assert 0 < precision < 1
        assert boundary_f(pred, truth) == 2 * precision * recall / (precision + recall)


def test_the_app_reads_masks_of_any_kind_but_jpeg(app, tmp_path):
    mask = blobs(4, 2)[0]
    ids = Image.fromarray(mask.astype(np.uint8) * 2).convert("P")
    ids.putpalette([0, 0, 0, 9, 9, 9, 0, 0, 0])  # object 2 is black in the palette
    colours = np.zeros((*mask.shape, 4), dtype=np.uint8)
    colours[..., 0], colours[..., 3] = mask * 255, 255
    kinds = {"ids": ids, "bits": Image.fromarray(mask), "colours": Image.fromarray(colours)}
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(app.read_mask(tmp_path / f"{name}.png"), mask), name
    Image.fromarray(mask).convert("L").save(tmp_path / "lossy.png", format="JPEG")
    with pytest.raises(ValueError, match="is a JPEG"):
        app.read_mask(tmp_path / "lossy.png")
    for data, message in ((b"text", "is no image"), (b"", "is no image")):
        (tmp_path / "broken.png").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            app.read_mask(tmp_path / "broken.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "bits.png").read_bytes()[:-30])
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        app.read_mask(tmp_path / "cut.png")
