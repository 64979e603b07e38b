"""The benchmark runner: from trees on disk to masks, scores, zips and reports, however often it is
interrupted and however many processes share the work. The model is the shipped `tiny`."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval import benchmark as command
from eval import benchmark_run, prediction_writer
from eval.benchmark_run import run_benchmark
from eval.benchmarks import load_benchmark
from eval.benchmarks.base import decode_mask
from eval.metrics.jf.core import sequence_scores
from eval.options import TRACKER_SETTINGS
from eval.prediction_writer import RunFolder
from eval.scoring import format_scores, score_predictions
from eval.submission import write_submission
from modeling_findtrack import cli
from modeling_findtrack.configuration_findtrack import CUTIE_SETTINGS
from modeling_findtrack.shipped import checkpoint
from tests import benchmark_trees as trees
from tests.tiny_cutie import needs_cutie, tiny_model

MODEL = checkpoint("tiny")
CHECKOUT = Path(__file__).resolve().parents[1]
MAKERS = {
    "ref-youtube-vos": trees.make_ref_youtube_vos,
    "ref-davis17": trees.make_ref_davis17,
    "mevis": trees.make_mevis,
    "ref-sprites": trees.make_ref_sprites,
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """Benchmark -> a small tree of it, with frames and words that the shipped model knows."""
    root = tmp_path_factory.mktemp("trees")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "WORDS", {1: "helicopter", 2: "basketball", 3: "bus"})
        patch.setattr(trees, "write_frames", _write_sprite_frames)
        return {name: make(root / name) for name, make in MAKERS.items()}


def _write_sprite_frames(folder: Path, clip: trees.Clip) -> None:
    """Frames of a shipped clip in which all three nouns can be seen."""
    folder.mkdir(parents=True)
    shipped = sorted((command.SPRITES / "valid/JPEGImages/c8ca8d8fd5dc").iterdir())
    for name, path in zip(clip.frames, shipped[clip.shift :], strict=False):
        with Image.open(path) as image:
            image.resize(trees.SIZE[::-1]).save(folder / f"{name}.jpg", quality=90)


@pytest.fixture(scope="module")
def loaded():
    """(model, processor)"""
    return cli.load_model(MODEL, "cpu", "float32")


@pytest.fixture(scope="module")
def run(loaded):
    """Run a benchmark into a folder; the report."""

    def start(benchmark, out, **options):
        options = {"model_name": MODEL} | options
        return run_benchmark(benchmark, *loaded, RunFolder(out), **options)

    return start


@pytest.fixture(scope="module")
def sprites(roots, run, tmp_path_factory):
    """Ref-Sprites, run without any disturbance: (benchmark, its folder, report)."""
    benchmark = load_benchmark("ref-sprites", roots["ref-sprites"], "valid")
    out = tmp_path_factory.mktemp("sprites") / "run"
    return benchmark, out, run(benchmark, out)


def _files(folder: Path) -> dict[str, bytes]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def _expected_names(benchmark) -> set[str]:
    return {
        f"{row['video_id']}/{row['exp_id']}/{frame}.png"
        for video in benchmark.videos
        for row in benchmark.rows(video)
        for frame in row["frame_names"]
    }


@pytest.mark.parametrize(
    ("name", "split", "convention"),
    [
        ("ref-youtube-vos", "train", "per-expression"),
        ("ref-davis17", "valid", "davis-unsupervised"),
        ("mevis", "valid_u", "per-expression"),
        ("ref-sprites", "valid", "per-expression"),
    ],
)
def test_from_tree_to_score(name, split, convention, roots, run, loaded, tmp_path):
    benchmark = load_benchmark(name, roots[name], split)
    report = run(benchmark, tmp_path)
    written = _files(tmp_path / "predictions")
    assert set(written) == _expected_names(benchmark)
    rows = [row for video in benchmark.videos for row in benchmark.rows(video)]
    by_key = {(e["video_id"], e["exp_id"]): e for e in report["expressions"]}
    assert list(by_key) == [(row["video_id"], row["exp_id"]) for row in rows]

    model, processor = loaded
    video = [row for row in rows if row["video_id"] == benchmark.videos[-1]]
    frames = [frame["path"] for frame in video[0]["frames"]]
    tracks = model.segment(frames, [row["expression"] for row in video], processor=processor)
    assert any(track.masks.areas().any() for track in tracks)
    for row, track in zip(video, tracks, strict=True):
        masks = []
        for frame in row["frame_names"]:
            with Image.open(
                tmp_path / "predictions" / row["video_id"] / row["exp_id"] / f"{frame}.png"
            ) as image:
                assert image.mode == "L"
                masks.append(np.array(image))
        assert np.array_equal(np.array(masks), track.masks.to_array() * np.uint8(255))
        truth = [decode_mask(row, t) for t in range(len(masks))]
        scores = sequence_scores(masks, truth)
        entry = by_key[row["video_id"], row["exp_id"]]
        assert (entry["J"], entry["F"], entry["J&F"]) == (scores.j_mean, scores.f_mean, scores.jf)
        assert (entry["found"], entry["score"]) == (track.found, track.score)
        assert entry["key_frame"] == track.key_frame
        assert entry["empty"] == (not np.any(masks))
        own = set(benchmark.features) - {"frames", "mask_images", "mask_rles"}
        assert all(entry[k] == row[k] for k in own & set(entry))

    assert list(report["scores"])[:4] == ["J&F", "J", "F", "convention"]
    assert report["scores"]["convention"] == convention
    assert report["scores"] == score_predictions(benchmark, tmp_path / "predictions").scores
    assert report["videos/s"] > 0
    stages = report["seconds"]
    assert stages["total"] == pytest.approx(
        sum(stages[k] for k in ("find", "track", "write", "score"))
    )
    assert all(stages[k] > 0 for k in ("find", "track", "write", "score"))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "split", "top"),
    [("ref-youtube-vos", "valid", "Annotations/"), ("mevis", "valid", "")],
)
def test_a_server_split_gives_its_zip(name, split, top, roots, run, tmp_path):
    benchmark = load_benchmark(name, roots[name], split)
    report = run(benchmark, tmp_path / "out")
    assert report["scores"] is None
    assert all(e["J&F"] is None and e["no_target"] is None for e in report["expressions"])
    zipped = tmp_path / "out" / "submission.zip"
    with zipfile.ZipFile(zipped) as archive:
        names = archive.namelist()
        content = {n: archive.read(n) for n in names}
    assert names == sorted(top + n for n in _expected_names(benchmark))
    masks = _files(tmp_path / "out" / "predictions")
    assert content == {top + n: data for n, data in masks.items()}

    for path in (tmp_path / "out" / "predictions").rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    write_submission(benchmark, tmp_path / "out" / "predictions", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == zipped.read_bytes()


def test_a_video_nobody_asks_about_is_no_obstacle(roots, run, tmp_path):
    root = shutil.copytree(roots["mevis"], tmp_path / "mevis")
    video = load_benchmark("mevis", root, "valid").videos[0]
    shutil.copytree(root / "valid/JPEGImages" / video, root / "valid/JPEGImages/silent")

    def add(meta):
        meta["videos"]["silent"] = meta["videos"][video] | {"expressions": {}}

    trees.edit_json(root / "valid" / trees.mevis_meta("valid"), add)
    report = run(load_benchmark("mevis", root, "valid"), tmp_path / "out")
    assert [v["video_id"] for v in report["videos"]] == sorted([video, "silent"])
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {video}


def _remove(path: Path) -> None:
    path.unlink()


def _colour(path: Path) -> None:
    Image.new("RGB", trees.SIZE[::-1]).save(path)


def _shrink(path: Path) -> None:
    Image.new("L", (3, 2)).save(path)


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove, "1 masks of the split are missing"),
        (_colour, "mode RGB"),
        (_shrink, r"\(3, 2\)"),
        (_cut_off, "damaged"),
    ],
)
def test_an_unusable_mask_makes_no_zip(damage, words, roots, tmp_path):
    benchmark = load_benchmark("mevis", roots["mevis"], "valid")
    for name in _expected_names(benchmark):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", trees.SIZE[::-1]).save(path)
    damage(path)
    with pytest.raises(ValueError, match=words):
        write_submission(benchmark, tmp_path / "masks", tmp_path / "out.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["masks"]


def test_a_part_of_a_split_can_be_extended(roots, run, tmp_path):
    root = roots["ref-youtube-vos"]
    whole = load_benchmark("ref-youtube-vos", root, "valid")
    part = load_benchmark("ref-youtube-vos", root, "valid", videos=whole.videos[:1])
    report = run(part, tmp_path, whole=whole)
    assert [v["video_id"] for v in report["videos"]] == list(part.videos)
    assert not (tmp_path / "submission.zip").exists()
    record = tmp_path / "records" / f"{whole.videos[0]}.json"
    before, seconds = record.stat().st_mtime_ns, report["videos"][0]["seconds"]
    report = run(whole, tmp_path)
    assert record.stat().st_mtime_ns == before
    assert report["videos"][0]["seconds"] == seconds
    assert report["seconds"]["find"] == sum(v["seconds"]["find"] for v in report["videos"])
    assert (tmp_path / "submission.zip").exists()


def test_truth_may_come_after_the_masks(roots, loaded, tmp_path, monkeypatch):
    root = roots["ref-youtube-vos"]
    monkeypatch.setattr(cli, "load_model", lambda *_: loaded)
    arguments = ["ref-youtube-vos", "--root", str(root), "--device", "cpu", "--workers", "1"]
    arguments += ["--model", "tiny", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    records = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "records").iterdir()}
    assert json.loads((tmp_path / "report.json").read_text())["scores"] is None
    assert command.main([*arguments, "--object-ids", str(root / "object_ids.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["scores"]["count"] > 0
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "records").iterdir()} == records


def test_named_videos_of_a_damaged_split_make_no_zip(roots, loaded, tmp_path, monkeypatch, capsys):
    root = tmp_path / "tree"
    shutil.copytree(roots["ref-youtube-vos"], root)
    whole = load_benchmark("ref-youtube-vos", root, "valid")
    named, lost = whole.videos[:2]
    shutil.rmtree(root / "valid" / "JPEGImages" / lost)
    (tmp_path / "names").write_text(named)
    monkeypatch.setattr(cli, "load_model", lambda *_: loaded)
    arguments = ["ref-youtube-vos", "--root", str(root), "--split", "valid", "--device", "cpu"]
    arguments += ["--model", "tiny", "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 2
    assert lost in capsys.readouterr().err
    assert command.main([*arguments, "--videos", str(tmp_path / "names")]) == 0
    assert f"1 of {len(whole.videos)} videos are done" in capsys.readouterr().out
    assert not (tmp_path / "out" / "submission.zip").exists()
    shutil.rmtree(root)
    shutil.copytree(roots["ref-youtube-vos"], root)
    assert command.main(arguments) == 0  # the same run, now complete
    assert (tmp_path / "out" / "submission.zip").exists()


def test_a_video_half_written_by_a_living_process_is_left_to_it(sprites, run, tmp_path):
    benchmark, undisturbed, _ = sprites
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    host = prediction_writer._HOST
    living, dead = (out / ".partial" / f"{host}-{pid}.x" for pid in (os.getppid(), 2**22 + 1))
    living.mkdir(parents=True)
    dead.mkdir()
    run(benchmark, out)
    assert living.exists() and not dead.exists()


def test_what_was_left_half_done_is_done_again(sprites, run, tmp_path):
    benchmark, undisturbed, _ = sprites
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    first, second = benchmark.videos[:2]
    # Killed between the rename and the record of the first video, with masks of the next begun.
    (out / "records" / f"{first}.json").unlink()
    next((out / "predictions" / first).rglob("*.png")).write_bytes(b"")
    (out / ".partial" / "abc" / "0").mkdir(parents=True)
    (out / "records" / ".x.json.7.part").write_text("{")
    if len(benchmark.videos) > 2:  # a mask that somebody deleted
        next((out / "predictions" / benchmark.videos[2]).rglob("*.png")).unlink()
    before = (out / "records" / f"{second}.json").stat().st_mtime_ns
    run(benchmark, out)
    assert _files(out / "predictions") == _files(undisturbed / "predictions")
    assert (out / "records" / f"{second}.json").stat().st_mtime_ns == before
    assert sorted(p.name for p in out.rglob(".*")) == [".lock"]


def test_another_run_is_refused_and_replaced_on_demand(sprites, run, roots, tmp_path, monkeypatch):
    benchmark, undisturbed, _ = sprites
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = _files(out)
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(ValueError, match="another run .*model digest .*--overwrite"):
        run(benchmark, out, model_name=str(other))
    with pytest.raises(ValueError, match="key frames"):
        run(benchmark, out, key_frames=1)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="torch .*, now 0.0"):
        found = benchmark_run.versions() | {"torch": "0.0"}
        patch.setattr(benchmark_run, "versions", lambda: found)
        run(benchmark, out)
    mevis = load_benchmark("mevis", roots["mevis"], "valid_u")
    with pytest.raises(ValueError, match="benchmark ref-sprites, now mevis"):
        run(mevis, out)
    assert _files(out) == before
    run(mevis, out, overwrite=True)
    assert set(_files(out / "predictions")) == _expected_names(mevis)
    assert {p.stem for p in (out / "records").iterdir()} == set(mevis.videos)


def test_files_of_no_run_are_never_removed(sprites, run, tmp_path):
    mine = tmp_path / "predictions" / sprites[0].videos[0] / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="predictions is there already and not from a run"):
            run(sprites[0], tmp_path, overwrite=overwrite)
    assert mine.read_bytes() == b"mine"


def test_a_video_that_fails_is_named_and_not_finished(sprites, loaded, tmp_path):
    benchmark, _, _ = sprites
    model, processor = loaded

    class Nan:
        config, dtype, device = model.config, model.dtype, model.device

        def segment(self, *args, **kwargs):
            tracks = model.segment(*args, **kwargs)
            return [dataclasses.replace(track, score=float("nan")) for track in tracks]

    with pytest.raises(ValueError, match=f"video {benchmark.videos[0]}.*score is nan"):
        run_benchmark(benchmark, Nan(), processor, RunFolder(tmp_path), model_name=MODEL)
    assert not RunFolder(tmp_path).finished(benchmark.videos[0])


def _arguments(roots, out, *more) -> list[str]:
    options = ["--root", str(roots["ref-sprites"]), "--device", "cpu", "--workers", "1"]
    options += ["--model", "tiny"]
    return ["ref-sprites", *options, "--out", str(out), *more]


def _environment() -> dict[str, str]:
    """With as many threads as here: sums may be rounded otherwise with another number."""
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    return clean | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(CHECKOUT)}


def test_the_command(sprites, roots, loaded, tmp_path, monkeypatch, capsys):
    """One video, Ctrl-C in the next, the rest: the same bytes and the same table."""
    benchmark, undisturbed, report = sprites
    model, processor = loaded
    monkeypatch.setattr(cli, "load_model", lambda *_: (model, processor))
    arguments = _arguments(roots, tmp_path / "out")
    (tmp_path / "names").write_text(f"{benchmark.videos[0]}\n\n")
    assert command.main([*arguments, "--videos", str(tmp_path / "names")]) == 0
    assert set(os.listdir(tmp_path / "out" / "records")) == {f"{benchmark.videos[0]}.json"}

    with monkeypatch.context() as patch:
        patch.setattr(
            model, "segment", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT), raising=False
        )
        capsys.readouterr()
        assert command.main(arguments) == 130
    assert capsys.readouterr().err == (
        "eval.benchmark: interrupted; the same command goes on where it stopped\n"
    )

    assert command.main(arguments) == 0
    assert format_scores(report["scores"]) in capsys.readouterr().out
    assert _files(tmp_path / "out" / "predictions") == _files(undisturbed / "predictions")

    (tmp_path / "names").write_text("nobody")
    assert command.main([*arguments, "--videos", str(tmp_path / "names")]) == 2
    assert command.main([*arguments, "--key-frames", "1"]) == 2
    assert command.main([*arguments, "--tracker-settings", "mevis"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "nobody" in errors[0]
    assert "key frames" in errors[1] and "--overwrite" in errors[1]
    assert "tracks with SAM 2" in errors[2]


@needs_cutie
def test_tracker_settings_are_part_of_what_a_run_is(roots):
    assert set(TRACKER_SETTINGS) == set(CUTIE_SETTINGS)
    model, _ = tiny_model()
    benchmark = load_benchmark("mevis", roots["mevis"], "valid_u")

    def identity() -> dict:
        return benchmark_run._identity(benchmark, model, MODEL, 10)

    before = identity()
    benchmark_run.set_tracker(model, "mevis")
    assert model.tracker.config.mem_every == 3 and model.tracker.config.use_long_term
    changed = {key for key, value in identity().items() if value != before[key]}
    assert changed == {"mem_every", "use_long_term"}
    assert benchmark_run._config(model, 10)["mem_every"] == 3


def test_killed_at_any_moment_it_goes_on(sprites, run, roots, tmp_path):
    benchmark, undisturbed, report = sprites
    out = tmp_path / "out"
    command = [sys.executable, "-m", "eval.benchmark", *_arguments(roots, out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=_environment(), stderr=log)
    try:
        record = out / "records" / f"{benchmark.videos[0]}.json"
        end = time.monotonic() + 120
        while not record.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)  # as long as it is looked at
        with pytest.raises(OSError, match="another run is writing"):
            run(benchmark, out)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, (tmp_path / "log").read_text()) == (-signal.SIGKILL, "")
    assert len(list((out / "records").glob("*.json"))) < len(benchmark.videos)
    before = record.stat().st_mtime_ns
    again = run(benchmark, out)
    assert record.stat().st_mtime_ns == before
    assert _files(out / "predictions") == _files(undisturbed / "predictions")
    assert again["scores"] == report["scores"]


def test_two_processes_are_as_one(sprites, roots, tmp_path):
    pytest.importorskip("accelerate")
    benchmark, undisturbed, report = sprites
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", "0", "-m", "eval.benchmark"]
    result = subprocess.run(
        [*launch, *_arguments(roots, tmp_path / "out")],
        env=_environment() | {"ACCELERATE_USE_CPU": "true"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(format_scores(report["scores"])) == 1
    assert _files(tmp_path / "out" / "predictions") == _files(undisturbed / "predictions")
    merged = json.loads((tmp_path / "out" / "report.json").read_text())
    assert merged["scores"] == report["scores"]
    folder = RunFolder(tmp_path / "out")
    dealt = [folder.record(video)["process"] for video in benchmark.videos]
    assert dealt == [n % 2 for n in range(len(dealt))]
    assert [v["video_id"] for v in merged["videos"]] == list(benchmark.videos)
