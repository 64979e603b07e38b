"""`python -m eval.speed`: it runs, and what it compares agrees. No time limits: machines differ."""

import numpy as np
import pytest

from eval import speed

SMALL = ["metric", "--sizes", "60x90", "45x31", "--frames", "3", "--objects", "2"]


def test_metric_prints_a_table_whose_numbers_agree(capsys):
    assert speed.main(SMALL) == 0
    printed = capsys.readouterr().out
    title, _, header, _, *rows = printed.splitlines()
    assert title == "3 frames, 2 objects x 2 proposals, one thread each"
    assert [cell.strip() for cell in header.strip("|").split("|")][:4] == [
        *("size", "plain s", "core s", "ratio")
    ]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["60x90", "45x31"]
    assert [row[-1] for row in cells] == ["yes", "yes"]
    for row in cells:
        assert all("(+" in cell for cell in row[4:6])


def _run(scores):
    return speed.Run(seconds=1.0, bare=1.0, peak=2.0, scores=scores)


def test_numbers_that_differ_are_an_exit_status(monkeypatch, capsys):
    runs = iter([_run({1: ([0.5], [0.5])}), _run({1: ([0.5], [np.nextafter(0.5, 1)])})])
    monkeypatch.setattr(speed, "measure", lambda *_: next(runs))
    assert speed.main(["metric", "--sizes", "60x90"]) == 1
    assert "NO" in capsys.readouterr().out


def test_scene_is_repeatable_and_not_trivial():
    scene = speed.Scene(height=120, width=200, frames=4, objects=3)
    truth, prediction = np.stack(list(scene.truth())), np.stack(list(scene.prediction()))
    assert truth.shape == prediction.shape == (4, 120, 200)
    assert np.array_equal(truth, np.stack(list(scene.truth())))
    assert set(np.unique(truth)) == {0, 1, 2, 3, speed.VOID}
    assert set(np.unique(prediction)) == {0, 1, 2, 3}
    areas = [np.mean(truth[0] == k) for k in (1, 2, 3)]
    assert areas[0] < areas[1] < areas[2]  # of mixed sizes
    assert not np.array_equal(truth[0], truth[-1])  # they move
    scores = speed.core_scores(scene.prediction(), scene.truth())
    assert all(0.3 < np.mean(j) < 1 for j, _ in scores.values())


@pytest.mark.parametrize(
    "options", [["--sizes", "480"], ["--frames", "0"], ["--objects", "21"], ["--objects", "-1"]]
)
def test_unusable_options_are_named(options, capsys):
    with pytest.raises(SystemExit) as error:
        speed.main(["metric", *options])
    assert error.value.code == 2
    assert options[0] in capsys.readouterr().err
