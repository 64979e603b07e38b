"""Old files of visitors go, others stay."""

import time

from space.sweeper import Sweeper


def test_old_files_go_and_spared_ones_stay(tmp_path, monkeypatch):
    paths = {}
    for name in ("old", "new", "example"):
        paths[name] = tmp_path / name / "clip.mp4"
        paths[name].parent.mkdir()
        paths[name].write_bytes(b"x")
    (tmp_path / "old" / "second.mp4").write_bytes(b"x")
    (tmp_path / "loose.txt").write_bytes(b"x")
    sweeper = Sweeper(tmp_path, 60, lambda: [str(paths["example"])])
    sweeper.sweep()
    assert all(path.exists() for path in paths.values())
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    sweeper.sweep()
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert left == ["example", "example/clip.mp4", "loose.txt"]  # empty folders go, too


def test_what_is_spared_is_asked_every_time(tmp_path, monkeypatch):
    path = tmp_path / "a" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"x")
    spared = {str(path)}
    sweeper = Sweeper(tmp_path, 0, lambda: spared)
    later = time.time() + 1
    monkeypatch.setattr(time, "time", lambda: later)
    sweeper.sweep()
    assert path.exists()
    spared.clear()
    sweeper.sweep()
    assert not path.exists()
