"""The folder of the Space: complete, runnable without the checkout, and what is pushed of it."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import yaml
from huggingface_hub.utils import filter_repo_objects
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from modeling_findtrack.output_folder import OutputError
from space import publish
from space.limits import PREFIX, Limits
from space.publish import main, make_folder, push
from tests.space_server import PATIENCE, SpaceServer, needs_space, wait_until

ROOT = Path(__file__).parents[1]
TOP = {"README.md", "requirements.txt", "thumbnail.png", ".gitattributes", "LICENSE"}
PACKAGES = {"modeling_findtrack", "space"}
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "deep" / "space-folder"
    make_folder(folder)
    return folder


@pytest.fixture(scope="module")
def card(made) -> dict:
    """The front matter of the README."""
    _, front, text = (made / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert text.strip()
    return yaml.safe_load(front)


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def requirements(text: str) -> dict[str, Requirement]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def project(section: str) -> list[str]:
    """A list of pyproject.toml, which Python 3.10 has no reader for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.search(rf"^{section} = \[(.*?)\]$", text, flags=re.M | re.S)
    return re.findall(r'"([^"]+)"', lists[1])


# What is in it


def test_the_folder_is_complete(made):
    expected = set(TOP)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyi":
                expected.add(path.relative_to(ROOT).as_posix())
    expected -= {f"space/{name}" for name in TOP}
    assert files(made) == expected
    assert os.listdir(made.parent) == ["space-folder"], "nothing else is left"
    for name in ("space/app.py", "modeling_findtrack/tiny/model.safetensors", "LICENSE"):
        assert (made / name).read_bytes() == (ROOT / name).read_bytes()
    assert (made / "README.md").read_bytes() == (ROOT / "space" / "README.md").read_bytes()


def test_the_folder_holds_no_links_and_no_leftovers(made):
    """A link to the model card would lead nowhere in the Space."""
    assert not [path for path in made.rglob("*") if path.is_symlink()]
    assert not [
        path for path in made.rglob("*") if path.suffix == ".pyc" or path.name == "__pycache__"
    ]


def test_large_files_go_to_the_large_file_storage(made):
    """The Hub refuses binary files, and files over 10 MB, in plain git."""
    lines = (made / ".gitattributes").read_text().splitlines()
    assert all(line.endswith(" filter=lfs diff=lfs merge=lfs -text") for line in lines)
    kept = {line.split()[0] for line in lines}
    for name in files(made):
        data = (made / name).read_bytes()
        if b"\0" in data or len(data) > 10e6:
            assert f"*{Path(name).suffix}" in kept, name
        else:
            assert f"*{Path(name).suffix}" not in kept, name


# What the Hub reads


def test_the_card_is_one_of_a_gradio_space(made, card):
    assert card["sdk"] == "gradio"
    for key in ("title", "emoji", "license", "short_description"):
        assert isinstance(card[key], str) and card[key].strip()
    assert len(card["short_description"]) <= 60, "the Hub refuses longer ones"
    assert {card["colorFrom"], card["colorTo"]} <= COLORS
    assert len(card["emoji"]) <= 2 and not card["emoji"].isascii()
    assert (made / card["app_file"]).is_file() and card["app_file"] == "space/app.py"
    thumbnail = card.get("thumbnail", "https://")
    assert thumbnail.startswith("https://") or (made / thumbnail).is_file()
    for key in ("sdk_version", "python_version"):
        assert isinstance(card[key], str), "a number would lose its last zero"


def test_the_versions_of_the_card_are_ones_the_code_runs_with(card):
    gradio = Requirement(project("space")[0])
    assert gradio.name == "gradio" and gradio.specifier.contains(card["sdk_version"])
    (python,) = re.findall(r'requires-python = "(.+)"', (ROOT / "pyproject.toml").read_text())
    assert SpecifierSet(python).contains(card["python_version"])


def test_the_requirements_cover_those_of_the_project(made):
    have = requirements((made / "requirements.txt").read_text(encoding="utf-8"))
    needed = {r.name: r for r in map(Requirement, project("dependencies") + project("space"))}
    assert {"torch", "transformers", "av", "gradio"} <= set(needed)
    for name, requirement in needed.items():
        assert name in have, f"{name} is missing"
        assert str(have[name].specifier) == str(requirement.specifier), name
        assert have[name].extras >= requirement.extras, name
    assert "spaces" in have, "ZeroGPU"
    assert not any("findtrack" in name for name in have), "it lies in the folder"


def test_the_readme_names_every_setting_with_its_default(made):
    rows = [
        line
        for line in (made / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{PREFIX}")
    ]
    for field in fields(Limits):
        (row,) = [row for row in rows if re.search(rf"_{field.name.upper()}`", row)]
        assert str(field.default) in re.findall(r"\d+", row.split("|")[2]), field.name


# Running it


@pytest.fixture
def run_in(tmp_path) -> Path:
    """A folder to start the app in: Gradio writes beside its modules."""
    make_folder(tmp_path / "space-folder")
    return tmp_path / "space-folder"


def loaded(log: str) -> set[str]:
    """The files of the modules that `python -v` tells of."""
    return set(re.findall(r"^# code object from '?([^'\n]+\.pyc?)'?$", log, flags=re.M))


def test_the_app_runs_in_the_folder_alone(run_in):
    """In a process without the checkout: neither its folder nor the editable install is seen."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GRADIO"))}
    clean |= {"PYTHONPATH": os.pathsep.join(packages), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-v", "space/app.py", "--help"],
        cwd=run_in,
        env=clean,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("usage:") and "--port" in done.stdout
    ours = {path for path in loaded(done.stderr) if PACKAGES & set(Path(path).parts[-2:-1])}
    assert {f"{run_in}/modeling_findtrack/cli.py", f"{run_in}/space/answer.py"} <= ours
    assert all(path.startswith(f"{run_in}/") for path in ours)
    assert f"{ROOT}/modeling_findtrack" not in done.stderr
    assert f"{ROOT}/space" not in done.stderr


@needs_space
def test_the_app_answers_from_the_folder(run_in, tmp_path, monkeypatch):
    """Started as Spaces do, while the checkout is installed: nothing of that is to be used."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    from gradio_client import handle_file

    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    server = SpaceServer(tmp_path, run_in, ["-v", "space/app.py"])
    try:
        server.wait_until_ready()
        assert httpx.get(server.url, trust_env=False, timeout=PATIENCE).status_code == 200
        client = server.client(tmp_path / "downloads")
        _, _, result = client.predict(
            video=handle_file(run_in / "space" / "examples" / "cat.mp4"),
            expressions="the cat\nthe sheep",
            key_frames=1,
            end=0.25,
            api_name="/segment",
        )
        client.submit(  # stopped in the middle of this, it leaves nothing
            video=handle_file(run_in / "space" / "examples" / "cat.mp4"),
            expressions="\n".join("abcdefgh"),
            api_name="/segment",
        )
        wait_until(server.request_folders, "it works")
    finally:
        server.stop()
    assert not [*server.work.iterdir(), *server.files.iterdir()]
    answers = result["expressions"]
    assert [answer["text"] for answer in answers] == ["the cat", "the sheep"]
    assert all(answer["found"] in (True, False) for answer in answers)
    modules = loaded(server.log.read_text())
    assert {f"{run_in}/space/answer.py", f"{run_in}/modeling_findtrack/finder.py"} <= modules
    environment = Path(sys.prefix)  # it may lie in the checkout
    foreign = [Path(path) for path in modules if Path(path).is_relative_to(ROOT)]
    assert all(path.is_relative_to(environment) for path in foreign)


# Making it again, and where it must not be made


def test_an_earlier_folder_is_replaced(tmp_path, monkeypatch, made):
    out = tmp_path / "out"
    make_folder(out)
    (out / "space" / "gone.py").write_text("an old module")
    (out / "modeling_findtrack" / "cli.py").write_text("old")
    (out / "README.md").write_text("old")
    (out / ".git").mkdir()
    (out / ".git" / "config").write_text("mine")
    make_folder(out)
    assert files(out) == files(made) | {".git/config"}
    for name in ("README.md", "modeling_findtrack/cli.py"):
        assert (out / name).read_bytes() == (made / name).read_bytes()
    assert (out / ".git" / "config").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path, made):
    make_folder(tmp_path)
    assert files(tmp_path) == files(made)


@pytest.mark.parametrize("name", ["README.md", "requirements.txt", "space/app.py"])
def test_another_folder_is_refused(name, tmp_path, capsys):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        make_folder(tmp_path)
    assert files(tmp_path) == {name} and (tmp_path / name).read_text() == "mine"
    assert main(["--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("space.publish: error: ") and err.count("\n") == 1
    assert "--overwrite" in err
    assert files(tmp_path) == {name}


def test_other_files_stay_when_asked_to_add(tmp_path, made, capsys):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("mine")
    assert main(["--out", str(tmp_path), "--overwrite"]) == 0
    assert files(tmp_path) == files(made) | {".git/config"}
    assert (tmp_path / ".git" / "config").read_text() == "mine"


def test_none_of_them_is_replaced(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main(["--out", str(tmp_path), "--overwrite"]) == 2
    assert "README.md is there already" in capsys.readouterr().err
    assert files(tmp_path) == {"README.md"} and (tmp_path / "README.md").read_text() == "mine"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="a file is in the way"):
        make_folder(tmp_path / "out")


@pytest.mark.parametrize("where", [".", "space", "space/out", "modeling_findtrack/deep/out"])
def test_the_sources_are_no_place_for_it(where, tmp_path, monkeypatch):
    """It would be copied into itself without end, or take the place of what it is made of."""
    root = tmp_path / "checkout"
    for name in ("space/app.py", "modeling_findtrack/cli.py", "LICENSE", "requirements.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in ("README.md", "requirements.txt", "thumbnail.png"):
        (root / "space" / name).write_text(name)
    (root / "space" / "__pycache__").mkdir()
    (root / "space" / "__pycache__" / "app.cpython-310.pyc").write_text("old")
    monkeypatch.setattr(publish, "HERE", root / "space")
    before = files(root)
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            make_folder(root / where, overwrite=overwrite)
    assert files(root) == before
    make_folder(root / "space-folder")  # as the README has it
    assert files(root / "space-folder") == TOP | {"space/app.py", "modeling_findtrack/cli.py"}
    assert not (root / "space-folder" / "space" / "__pycache__").exists()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(publish.shutil, "copy", fail)
    with pytest.raises(OSError, match="disk full"):
        make_folder(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


# Pushing it


@pytest.fixture
def hub(monkeypatch):
    """A Hub that takes down what it is asked for."""

    class FakeApi:
        calls = []
        error = None

        def create_repo(self, *args, **kwargs):
            self.calls.append(("create_repo", args, kwargs))
            if self.error:
                raise self.error

        def upload_folder(self, *args, **kwargs):
            self.calls.append(("upload_folder", args, kwargs))
            return "https://huggingface.co/spaces/someone/findtrack"

        def __getattr__(self, name):
            raise AssertionError(f"HfApi.{name} is not expected")

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi


def test_push_makes_a_space_and_uploads_the_folder(made, hub):
    push(made, "someone/findtrack")
    (first, args, create), (second, no_args, upload) = hub.calls
    assert (first, second) == ("create_repo", "upload_folder") and not no_args
    assert (args or (create["repo_id"],)) == ("someone/findtrack",)
    assert (create["repo_type"], create["space_sdk"], create["exist_ok"]) == (
        "space",
        "gradio",
        True,
    )
    assert not create.get("private"), "the visibility of an existing Space is its owner's choice"
    assert (upload["repo_id"], upload["repo_type"]) == ("someone/findtrack", "space")
    assert Path(upload["folder_path"]) == made


def test_only_our_files_are_pushed(made, hub):
    push(made, "someone/findtrack")
    upload = hub.calls[-1][2]
    foreign = {
        ".env",
        "notes.txt",
        "secrets/token",
        "space.txt",
        "spaces/app.py",
        "my-space/app.py",
        "README.md.orig",
        "old/README.md",
        "other/space/app.py",
        "LICENSES/x",
        ".git/config",
    }
    patterns = upload["allow_patterns"]
    kept = set(filter_repo_objects(sorted(files(made) | foreign), allow_patterns=patterns))
    kept = set(filter_repo_objects(kept, ignore_patterns=upload.get("ignore_patterns")))
    assert kept == files(made)


def test_what_only_an_older_version_had_is_deleted(made, hub):
    """`upload_folder` spares what it uploads, and `.gitattributes`."""
    push(made, "someone/findtrack")
    old = {"space/gone.py", "space/examples/gone.mp4", "modeling_findtrack/a/b/gone.json"}
    foreign = {"notes.txt", "space.txt", "spaces/app.py", "my/space/app.py", "my-space/app.py"}
    there = files(made) | old | foreign
    patterns = hub.calls[-1][2]["delete_patterns"]
    assert set(filter_repo_objects(there, allow_patterns=patterns)) - files(made) == old


def test_the_command_pushes_when_asked(tmp_path, hub, capsys):
    assert main(["--out", str(tmp_path / "a")]) == 0
    assert not hub.calls and str(tmp_path / "a") in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "a"), "--push", "someone/findtrack"]) == 0
    assert [name for name, _, _ in hub.calls] == ["create_repo", "upload_folder"]
    assert hub.calls[1][2]["repo_id"] == "someone/findtrack"
    assert "spaces/someone/findtrack" in capsys.readouterr().out
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")  # the Hub wants an address
    assert re.search(
        r"^thumbnail: https://\S+/spaces/someone/findtrack/\S+/thumbnail.png$", card, re.M
    )


@pytest.mark.parametrize(
    "error",
    [OSError("no token\nlog in"), ValueError("bad name"), httpx.ConnectError("no network")],
    ids=lambda error: type(error).__name__,
)
def test_what_the_hub_refuses_is_told_in_one_line(error, tmp_path, hub, capsys, monkeypatch):
    monkeypatch.setattr(hub, "error", error)
    monkeypatch.setattr(publish, "make_folder", lambda *_: None)
    assert main(["--out", str(tmp_path), "--push", "x/y"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("space.publish: error: ") and err.count("\n") == 1
    assert " ".join(str(error).split()) in err
    assert [name for name, _, _ in hub.calls] == ["create_repo"]


def test_the_command_needs_a_folder(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "--out" in capsys.readouterr().err
