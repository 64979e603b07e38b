"""The command line: outputs, exit statuses, one-line errors, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_findtrack import cli, shipped
from modeling_findtrack.results import Candidate, MaskSequence, Track, encode_mask
from modeling_findtrack.video_io import open_video
from modeling_findtrack.video_writer import VideoWriter

ROOT = Path(__file__).parents[1]


class FakeModel:
    """Finds everything but ghosts: the left half of every frame."""

    def segment(self, video, expressions, *, processor, key_frames=None, progress=None):
        size = (video.height, video.width)
        mask = np.zeros(size, bool)
        mask[:, : size[1] // 2] = True
        count = key_frames or 2
        indices = [i * (video.num_frames - 1) // max(1, count - 1) for i in range(count)]
        tracks = []
        for expression in expressions:
            found = "ghost" not in expression
            progress("find", 1, 1)
            progress("track", video.num_frames, video.num_frames)
            masks = MaskSequence.from_masks([mask & found] * video.num_frames)
            candidates = tuple(
                Candidate(i, 0.9, 0.3, 0.8, 0.6, encode_mask(mask & found)) for i in indices
            )
            key = indices[0] if found else None
            presence = np.ones(video.num_frames) * found
            tracks.append(Track(expression, found, 0.6, key, candidates, masks, presence))
        return tracks


class FakeProcessor:
    """Knows every word but "axolotl", and one noun."""

    nouns = ["dog"]

    def remark(self, text):
        return "unknown word 'axolotl'; known nouns: dog" if "axolotl" in text else None


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(cli, "load_model", lambda *_: (FakeModel(), FakeProcessor()))


@pytest.fixture
def clip(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with VideoWriter(tmp_path / "clip.mp4", (48, 64), Fraction(25)) as writer:
        for i in range(6):
            writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    return str(tmp_path / "clip.mp4")


def files(folder) -> set[str]:
    return {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()}


def test_segment_writes_everything(fake, clip, capsys):
    status = cli.main(["segment", clip, "the dog", "a ghost", "--out", "X", "--key-frames", "3"])
    assert status == 0
    masks = {f"masks/{n}/{t:05d}.png" for n in (0, 1) for t in range(6)}
    assert files("X") == masks | {"result.json", "overlay.mp4", "contact_sheet.png"}
    assert os.listdir(".") == ["X"]
    result = json.loads(Path("X/result.json").read_text())
    assert result["model"] == f"findtrack-{shipped.DEFAULT}"
    assert result["video"]["path"] == clip
    dog, ghost = result["expressions"]
    assert (dog["found"], dog["key_frame"], ghost["found"]) == (True, 0, False)
    assert [c["frame"] for c in dog["candidates"]] == [0, 2, 5]
    assert open_video("X/overlay.mp4").num_frames == 6
    with Image.open("X/masks/1/00003.png") as image:
        assert np.asarray(image).max() == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in ("the dog: found, score 0.60, key frame 0", "a ghost: not found", "X/overlay.mp4"):
        assert part in out


def test_segment_defaults_and_other_writers(fake, clip, capsys):
    assert cli.main(["segment", clip, "the dog", "--quiet", "--write", "coco, npz,matte"]) == 0
    assert files("clip.findtrack") == {
        "coco.json", "masks.npz", "matte/0.mp4", "result.json", "contact_sheet.png",
    }  # fmt: skip
    assert capsys.readouterr() == ("", "")
    assert cli.main(["segment", clip, "the dog"]) == 0, "a previous result is replaced"
    assert not Path("clip.findtrack/coco.json").exists()


def test_words_that_the_model_does_not_know_are_told(fake, clip, capsys):
    sentences = ["the dog", "the  axolotl\non the left", "an axolotl"]
    command = ["segment", clip, *sentences, "--out", "X", "--write", "coco"]
    assert cli.main([*command, "--model", "some folder"]) == 0
    out, err = capsys.readouterr()
    remark = "unknown word 'axolotl'; known nouns: dog (all: findtrack nouns --model 'some folder')"
    assert err.splitlines() == [
        f'findtrack: "the axolotl on the left": {remark}', f'findtrack: "an axolotl": {remark}',
    ]  # fmt: skip
    assert "axolotl on the left: found" in out
    assert cli.main(command) == 0
    assert capsys.readouterr().err.endswith("dog (all: findtrack nouns)\n")
    assert cli.main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_model_without_a_list_of_nouns_names_none(fake, clip, capsys, monkeypatch):
    monkeypatch.setattr(FakeProcessor, "nouns", None)
    monkeypatch.setattr(FakeProcessor, "remark", lambda *_: "unknown word 'x'")
    assert cli.main(["segment", clip, "x", "--out", "X"]) == 0
    assert capsys.readouterr().err == "findtrack: \"x\": unknown word 'x'\n"


def test_nouns(capsys, tmp_path):
    pytest.importorskip("torch")
    assert cli.main(["nouns", "--model", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert (err, len(out.splitlines())) == ("", 180) and "panda" in out.splitlines()
    assert cli.main(["nouns", "--model", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "no model there" in err and err.count("\n") == 1


def test_segment_takes_a_folder_of_images(fake, clip):
    frames = Path("frames")
    frames.mkdir()
    for i in range(3):
        Image.new("RGB", (31, 21), (i, i, i)).save(frames / f"{i}.png")
    assert cli.main(["segment", str(frames), "the dog", "--out", "Y"]) == 0
    assert len(os.listdir("Y/masks/0")) == 3
    result = json.loads(Path("Y/result.json").read_text())
    assert (result["video"]["name"], result["video"]["fps"]) == ("frames", None)


def test_overwrite_adds_to_a_foreign_folder_and_replaces_nothing(fake, clip, capsys, monkeypatch):
    Path("mine/masks").mkdir(parents=True)
    Path("mine/masks/gt.png").write_text("precious")
    command = ["segment", clip, "the dog", "--out", "mine", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr(cli, "load_model", None)  # told before the long work
        assert cli.main(command) == 2
    err = capsys.readouterr().err
    assert "mine: masks is there already" in err and err.count("\n") == 1
    assert files("mine") == {"masks/gt.png"}
    assert cli.main([*command, "--write", "coco"]) == 0
    assert files("mine") == {"masks/gt.png", "coco.json", "contact_sheet.png", "result.json"}


def make_bad(name: str) -> None:
    if name == "text.mp4":
        Path(name).write_text("not a video " * 99)
    if name == "sound.wav":
        Path(name).write_bytes(
            b"RIFF\x24\x08\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00"
            b"\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x08\x00\x00" + bytes(2048)
        )
    if name == "taken":
        Path(name).mkdir()
        (Path(name) / "notes.txt").write_text("mine")
    if name == "file":
        Path(name).write_text("mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4", "a dog"], "missing.mp4: no such file"),
        (["text.mp4", "a dog"], "text.mp4: not a video"),
        (["sound.wav", "a dog"], "sound.wav: no video stream (audio only)"),
        (["CLIP", ""], "the sentence is empty"),
        (["CLIP", "a dog", " \n"], "sentence 2 is empty"),
        (["CLIP", "a dog", "--out", "taken"], "taken: holds other files"),
        (["CLIP", "a dog", "--out", "file"], "file: a file is in the way"),
        (["CLIP", "a dog", "--out", "file/below"], "file/below: cannot write there"),
        (["CLIP", "a dog", "--out", "/proc/new/out"], "/proc/new/out: cannot write there"),
        (["CLIP", "a dog", "--write", "masks,gold"], "'gold' is none of masks"),
        (["CLIP", "a dog", "--key-frames", "0"], "must be a whole number, at least 1"),
        (["CLIP", "a dog", "--key-frames", "x"], "must be a whole number, at least 1"),
        (["CLIP", "a dog", "--key-frames", "many"], "must be a whole number"),
        (["CLIP", "a dog", "--device", "toaster"], "invalid choice: 'toaster'"),
        (["CLIP"], "required: EXPRESSION"),
    ],
)
def test_unusable_input_is_one_line_and_leaves_nothing(
    arguments, message, clip, capsys, monkeypatch
):
    """Found before the model is loaded, so a long wait never ends in a typing error."""

    def refuse(*_):
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(cli, "load_model", refuse)
    for name in ("text.mp4", "sound.wav", "taken", "file"):
        if any(argument.startswith(name) for argument in arguments):
            make_bad(name)
    before = files(".")
    arguments = [clip if argument == "CLIP" else argument for argument in arguments]
    assert cli.main(["segment", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("findtrack: error: ") and err.count("\n") == 1
    assert message in err
    assert files(".") == before


def test_an_unknown_device_is_told(capsys):
    pytest.importorskip("torch")
    for device in ("cuda:0", "toaster"):
        with pytest.raises(cli.CliError, match=f"device {device}: unknown; choose one of auto"):
            cli.load_model(cli.DEFAULT_MODEL, device)


def test_model_errors_are_one_line(clip, capsys, tmp_path):
    torch = pytest.importorskip("torch")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "clip"}')
    cases = {
        "./nowhere": "./nowhere: no such model folder",
        str(tmp_path): "no model there",
        str(other): "not a FindTrack model, but of type clip",
    }
    for name, message in cases.items():
        assert cli.main(["nouns", "--model", name]) == 2
        assert message in capsys.readouterr().err
        assert cli.main(["segment", clip, "a dog", "--model", name, "--out", "X"]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    if not torch.cuda.is_available():
        assert cli.main(["segment", clip, "a dog", "--device", "cuda", "--out", "X"]) == 2
        assert "device cuda: not available here" in capsys.readouterr().err
    assert os.listdir(".") == []


def test_failure_half_way_leaves_nothing(clip, capsys, monkeypatch):
    class FullDisk(FakeModel):
        def segment(self, *args, **settings):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "load_model", lambda *_: (FullDisk(), FakeProcessor()))
    assert cli.main(["segment", clip, "a dog", "--out", "a/b"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert os.listdir(".") == []


def test_debug_keeps_the_traceback(clip, monkeypatch):
    monkeypatch.setenv("FINDTRACK_DEBUG", "1")
    with pytest.raises(ValueError, match="no such file"):
        cli.main(["segment", "missing.mp4", "a dog"])


def run_command(code: str, folder: Path) -> subprocess.Popen:
    """Run `code` as the installed command is run: by a script named findtrack."""
    script = folder / "findtrack"
    script.write_text(code)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW = """
import sys, time
from modeling_findtrack import cli
from test_cli import FakeModel, FakeProcessor

class Slow(FakeModel):
    def segment(self, *args, **settings):
        print("working", flush=True)
        time.sleep(60)

cli.load_model = lambda *_: (Slow(), FakeProcessor())
sys.exit(cli.main(["segment", {clip!r}, "a dog", "--out", "out"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_removes_what_was_begun(number, clip, tmp_path):
    process = run_command(SLOW.format(clip=clip), tmp_path)
    assert process.stdout.readline() == "working\n", process.stderr.read()
    assert [name for name in os.listdir(".") if name.startswith("out.partial-")]
    time.sleep(0.1)  # into the sleep
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "findtrack: interrupted, nothing was written\n"
    assert os.listdir(".") == []


LATE = """
import os, signal, sys
from modeling_findtrack import cli
from test_cli import FakeModel, FakeProcessor

def interrupted(text):
    os.kill(os.getpid(), signal.SIGINT)

cli.load_model = lambda *_: (FakeModel(), FakeProcessor())
cli._say = interrupted
sys.exit(cli.main(["segment", {clip!r}, "a dog", "--out", "out", "--write", "coco"]))
"""


def test_an_interrupt_after_the_result_says_what_was_written(clip, tmp_path):
    process = run_command(LATE.format(clip=clip), tmp_path)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "findtrack: interrupted, out was written\n")
    assert files("out") == {"coco.json", "contact_sheet.png", "result.json"}


SWALLOWED = """
import os, signal, sys
from modeling_findtrack import cli
from test_cli import FakeProcessor

class Masking:
    def segment(self, *_, **__):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("an unexpected keyword argument") from None

cli.load_model = lambda *_: (Masking(), FakeProcessor())
sys.exit(cli.main(["segment", {clip!r}, "a dog", "--out", "out"]))
"""


def test_an_interrupt_that_a_library_turns_into_another_error(clip, tmp_path):
    process = run_command(SWALLOWED.format(clip=clip), tmp_path)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "findtrack: interrupted, nothing was written\n"
    assert os.listdir(".") == []


HELP = """
import os, sys
sys.argv[0] = os.path.join(os.path.dirname(sys.executable), "findtrack")  # as when installed
from modeling_findtrack.cli import main
status = main(["segment", "--help"])
print("heavy:", {"torch", "transformers", "numpy", "av", "PIL"} & set(sys.modules))
sys.exit(status)
"""


def options_without_help(parser) -> list[str]:
    found = []
    for action in parser._actions:
        if isinstance(action.choices, dict):  # the subcommands
            for name, sub in action.choices.items():
                found += [f"{name} {dest}" for dest in options_without_help(sub)]
        elif not action.help:
            found.append(action.dest)
    return found


def test_help_explains_everything(capsys):
    assert options_without_help(cli._parser()) == []
    assert cli.main(["--help"]) == 0
    assert "FINDTRACK_DEBUG" in capsys.readouterr().out


def test_help_imports_nothing_heavy(tmp_path):
    process = run_command(HELP, tmp_path)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "heavy: set()" in out
    for option in ("--out", "--model", "--device", "--dtype", "--key-frames", "--write"):
        assert option in out
