"""Old files of visitors go, others stay."""

import time
from pathlib import Path

from space.sweeper import Sweeper


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_old_files_go_and_spared_ones_stay(tmp_path, monkeypatch):
    example = write(tmp_path / "example" / "clip.mp4")
    for name in ("old/clip.mp4", "old/second.mp4", "deep/er/state.json"):
        write(tmp_path / name)
    write(tmp_path / "tmpabc")  # an upload that broke off
    (tmp_path / "empty").mkdir()
    before = names(tmp_path)
    sweeper = Sweeper(tmp_path, 60, lambda: [str(example)])
    sweeper.sweep()
    assert names(tmp_path) == before
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    sweeper.sweep()
    assert names(tmp_path) == ["example", "example/clip.mp4"]  # empty folders go, too
    example.unlink()
    example.parent.rmdir()
    sweeper.sweep()
    assert tmp_path.exists()  # Gradio's folder itself


def test_what_is_young_or_still_grows_stays(tmp_path, monkeypatch):
    running = tmp_path / "tmprunning"
    with running.open("wb", buffering=0) as upload:
        old = [write(tmp_path / name) for name in ("mixed/old.mp4", "tmpold")]
        time.sleep(0.1)
        (tmp_path / "about to be filled").mkdir()
        new = write(tmp_path / "mixed" / "new.mp4")
        upload.write(b"more")
        young = min(
            path.stat().st_ctime for path in (tmp_path / "about to be filled", new, running)
        )
        between = (max(path.stat().st_ctime for path in old) + young) / 2
        monkeypatch.setattr(time, "time", lambda: young + 1)
        Sweeper(tmp_path, young + 1 - between, list).sweep()
        assert names(tmp_path) == ["about to be filled", "mixed", "mixed/new.mp4", "tmprunning"]


def test_what_is_spared_is_asked_every_time(tmp_path, monkeypatch):
    path = write(tmp_path / "a" / "clip.mp4")
    spared = {str(path)}
    sweeper = Sweeper(tmp_path, 0, lambda: spared)
    later = time.time() + 1
    monkeypatch.setattr(time, "time", lambda: later)
    sweeper.sweep()
    assert path.exists()
    spared.clear()
    sweeper.sweep()
    assert not path.exists()
