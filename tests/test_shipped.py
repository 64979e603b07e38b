"""The short names of the shipped checkpoints, wherever a model is named."""

import argparse
from pathlib import Path

import pytest

from eval import report
from modeling_findtrack import cli, shipped
from modeling_findtrack.shipped import checkpoint, short_name
from space.segmenter import Segmenter
from training.config import Config, read_config
from training.parameters import take_parts

PACKAGE = Path(shipped.__file__).parent


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_folder(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "whisper"}')


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_short_name_is_a_shipped_checkpoint(name, here):
    assert checkpoint(name) == str(PACKAGE / name)
    assert checkpoint(checkpoint(name)) == checkpoint(name)
    for other in (name, checkpoint(name), str(PACKAGE / ".." / PACKAGE.name / name)):
        assert (short_name(other), cli.model_name(other)) == (name, f"findtrack-{name}")


@pytest.mark.parametrize("name", ["tiny ", "Tiny", "./tiny", "someone/tiny", "tiny/", "medium", ""])
def test_other_names_stay_as_they_are(name, here):
    assert checkpoint(name) == name == cli.model_name(name)


def test_a_model_folder_goes_first_and_another_folder_does_not(here):
    (here / "tiny").mkdir()
    assert checkpoint("tiny") == str(PACKAGE / "tiny")
    model_folder(here / "small")
    assert checkpoint("small") == "small" == cli.model_name("small")
    assert cli.main(["nouns", "--model", "small"]) == 2  # the folder, which is another model
    assert str(PACKAGE / shipped.DEFAULT) == shipped.DEFAULT_MODEL


def test_the_default_is_never_a_folder_of_the_current_directory(here):
    model_folder(here / shipped.DEFAULT)
    for command in (["segment", "clip.mp4", "a dog"], ["hub-folder", "--out", "x"], ["nouns"]):
        assert cli._parser().parse_args(command).model == shipped.DEFAULT_MODEL


def test_what_is_not_installed_is_told_with_where_it_is(here, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "_PACKAGE", here / "modeling_findtrack")
    for command in (["nouns", "--model", "tiny"], ["hub-folder", "tiny", "--out", "x"]):
        assert cli.main(command) == 2
        assert capsys.readouterr().err == (
            "findtrack: error: tiny: this checkpoint is not installed; a checkout of FindTrack's "
            "repository has it as modeling_findtrack/tiny\n"
        )
    with pytest.raises(cli.CliError, match="small: this checkpoint is not installed"):
        cli.load_model("small", "cpu")


def test_the_evaluation_commands_take_the_same_names():
    parser = argparse.ArgumentParser()
    report.add_model_options(parser)
    assert parser.parse_args([]).model == shipped.DEFAULT_MODEL
    assert parser.parse_args(["--model", "tiny"]).model == str(PACKAGE / "tiny")
    assert report.model_digest(checkpoint("tiny")) != report.model_digest(checkpoint("small"))


def test_training_takes_the_same_names(here):
    assert Config().start == shipped.DEFAULT_MODEL
    configs = Path(__file__).parents[1] / "training/configs"
    config = read_config(configs / "overfit.yaml", ["model=tiny"])
    assert (config.model, config.start) == ("tiny", str(PACKAGE / "tiny"))
    model, _ = cli.load_model("tiny", "cpu", "float32")
    before = model.state_dict()["finder.beit3.text_embed.weight"].clone()
    model.finder.beit3.text_embed.weight.data.zero_()
    take_parts(model, {"finder.beit3": "tiny"})
    assert model.state_dict()["finder.beit3.text_embed.weight"].equal(before)


def test_the_demo_page_takes_the_same_names(here):
    assert Segmenter("tiny", "cpu").name == "findtrack-tiny"


def test_the_help_names_them(capsys):
    assert cli.main(["segment", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "small or tiny, the checkpoints that ship" in told
    assert f"default: {shipped.DEFAULT}" in told and "goes first" in told
