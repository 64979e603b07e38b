"""Finding and fetching sources: folders, files, addresses, and a Hub that is a local server."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from modeling_findtrack import published_source
from modeling_findtrack.checkpoint_files import CheckpointError
from modeling_findtrack.published_source import (
    UnreachableError,
    fetch,
    find_source,
    sha256,
    without_secrets,
)

EXTRAS = ("config.json", "*.yaml")


def names(files) -> list[str]:
    return [file.name for file in files]


def test_a_folder(tmp_path):
    for name in ("model.safetensors", "config.json", "a.yaml", "README.md", "evil.py"):
        (tmp_path / name).write_bytes(b"12345")
    source = find_source(str(tmp_path), EXTRAS)
    assert (source.kind, names(source.weights)) == ("folder", ["model.safetensors"])
    assert names(source.extras) == ["a.yaml", "config.json"]
    assert [file.size for file in source.files] == [5, 5, 5]
    assert fetch(source) is source
    assert source.public_name == tmp_path.name


def test_a_file_and_what_lies_beside_it(tmp_path):
    for name in ("x.pth", "y.pth", "x.json", "y.json", "config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"1")
    source = find_source(str(tmp_path / "x.pth"), EXTRAS)
    assert (source.kind, names(source.weights)) == ("file", ["x.pth"])
    assert names(source.extras) == ["config.json", "x.json"]
    assert source.public_name == "x.pth"


def test_one_shard_alone(tmp_path):
    path = tmp_path / "model-00001-of-00002.safetensors"
    path.write_bytes(b"1")
    with pytest.raises(CheckpointError, match="one of several shards; give the folder they are in"):
        find_source(str(path), EXTRAS)


@pytest.mark.parametrize(
    "given, message",
    [
        ("no/such.pth", "no such file or folder"),
        ("no-such-folder", "no such file or folder, and no Hub id"),
        ("/no/such/folder", "no such file or folder"),
        ("../escape/../../x", "no such file or folder"),
        ("http://example.com/x.pth", "must be an https one"),
        ("file:///etc/passwd", "must be an https one"),
        ("https://example.com/", "must be an https one of a file"),
        ("https://example.com/a/..", "must be an https one of a file"),
    ],
)
def test_what_is_no_source(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message) as error:
        find_source(given, EXTRAS)
    assert given in str(error.value)


class Web:
    """Stands in for the opener: one file, behind or without a length."""

    def __init__(self, content: bytes, length: int | None):
        self.content, self.length, self.methods = content, length, []

    def open(self, request, timeout):
        is_head = not isinstance(request, str) and request.get_method() == "HEAD"
        self.methods.append("HEAD" if is_head else "GET")
        answer = io.BytesIO(b"" if is_head else self.content)
        answer.headers = {} if self.length is None else {"Content-Length": str(self.length)}
        return answer


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """Where the file of `ADDRESS` is kept."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return published_source._cache_folder(ADDRESS)


def test_an_address_is_shown_without_its_secrets(torch_home, monkeypatch, capsys):
    """In errors, in the table, in what is written down: nowhere user, password or signature."""
    shown = "https://example.com/weights/x.pth"
    monkeypatch.setattr(published_source, "_https_only", lambda: Web(b"abc", 5))
    source = find_source(ADDRESS, EXTRAS)
    assert source.name == source.public_name == shown and "secret" not in repr(source)
    for md5, length in (("0" * 32, 3), (None, 5)):
        monkeypatch.setattr(published_source, "_https_only", lambda n=length: Web(b"abc", n))
        with pytest.raises(CheckpointError, match=f"^{shown}: ") as error:
            fetch(source, md5)
        assert "secret" not in str(error.value)
    monkeypatch.undo()  # the real opener, which takes the password for a port
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(torch_home.parents[1]))
    for address in (ADDRESS, f"{ADDRESS} secret\x01"):
        with pytest.raises(UnreachableError, match=f"^{shown}: it cannot be fetched") as error:
            fetch(find_source(address, EXTRAS))
        assert "secret" not in str(error.value)
    with pytest.raises(CheckpointError) as error:
        find_source("http://someone:secret@example.com/x.pth?secret", EXTRAS)
    assert str(error.value).startswith("http://example.com/x.pth: ")
    handler = published_source._HttpsOnly()
    with pytest.raises(OSError, match="redirected to http://example.com/x.pth, which") as error:
        handler.redirect_request(
            None, None, 302, "", {}, "http://a:secret@example.com/x.pth?secret"
        )
    assert "secret" not in str(error.value)
    assert without_secrets("https://a@b:8443/c@d?e=f#g") == "https://b:8443/c@d"
    assert without_secrets("owner/name@main") == "owner/name@main"


ADDRESS = "https://someone:secret@example.com/weights/x.pth?signature=secret"


@pytest.mark.parametrize("told", [True, False])
def test_an_address(told, torch_home, monkeypatch):
    content = os.urandom(3 * 2**20)
    web = Web(content, len(content) if told else None)
    monkeypatch.setattr(published_source, "_https_only", lambda: web)
    source = find_source(ADDRESS, EXTRAS)
    assert names(source.weights) == ["x.pth"] and web.methods == ["HEAD"]
    assert source.public_name == "https://example.com/weights/x.pth"
    assert source.weights[0].size == (len(content) if told else None)
    assert not torch_home.exists()
    seen = []
    fetched = fetch(source, hashlib.md5(content).hexdigest(), lambda *args: seen.append(args))
    assert fetched.weights[0].local.read_bytes() == content
    assert seen[-1] == ("fetching x.pth", len(content), len(content) if told else 0)
    assert os.listdir(torch_home) == ["x.pth"]
    assert sha256(fetched.weights[0].local) == hashlib.sha256(content).hexdigest()
    other = find_source(ADDRESS.replace("weights", "other"), EXTRAS)  # the same name elsewhere
    assert other.weights[0].path is None
    web.methods.clear()
    again = find_source(ADDRESS, EXTRAS)  # from the cache
    assert again.weights[0].path == torch_home / "x.pth" and web.methods == []


@pytest.mark.parametrize(
    "length, md5, message",
    [(3, "0" * 32, "not the file its authors published"), (5, None, "3 of 5 bytes came")],
)
def test_a_wrong_file_leaves_nothing(length, md5, message, torch_home, monkeypatch):
    monkeypatch.setattr(published_source, "_https_only", lambda: Web(b"abc", length))
    with pytest.raises(CheckpointError, match=message):
        fetch(find_source(ADDRESS, EXTRAS), md5)
    assert os.listdir(torch_home) == []


def test_an_interrupted_download_leaves_nothing(torch_home, monkeypatch):
    monkeypatch.setattr(published_source, "_https_only", lambda: Web(b"abc", 3))

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(find_source(ADDRESS, EXTRAS), None, interrupt)
    assert os.listdir(torch_home) == []


def test_an_address_that_does_not_answer(torch_home, monkeypatch):
    class Dead:
        def open(self, *_, **__):
            raise OSError("no route to host")

    monkeypatch.setattr(published_source, "_https_only", Dead)
    source = find_source(ADDRESS, EXTRAS)
    assert source.weights[0].size is None
    with pytest.raises(UnreachableError, match="no route to host"):
        fetch(source)


def test_https_is_not_left_by_a_redirect():
    handler = published_source._HttpsOnly()
    with pytest.raises(OSError, match="not https"):
        handler.redirect_request(None, None, 302, "", {}, "http://example.com/x.pth")


# ---- the Hub -------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as its client needs to list and fetch the files of one repository."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self):  # noqa: N802 - the name that the base class calls
        self._answer(with_body=True)

    def do_HEAD(self):  # noqa: N802
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(f"{self.command} {path}")
        revision = path.split("/revision/")[-1] if "/revision/" in path else "main"
        if path.startswith("/api/models/some/model") and revision in ("main", "v1", COMMIT):
            siblings = [
                {"rfilename": name, "size": len(content)} for name, content in self.files.items()
            ]
            info = {"id": "some/model", "sha": COMMIT, "siblings": siblings, "tags": []}
            self._send(json.dumps(info).encode(), with_body, {})
            return
        name = path
        for revision in ("main", "v1", COMMIT):
            name = name.removeprefix(f"/some/model/resolve/{revision}/")
        if name in self.files:
            etag = hashlib.sha256(self.files[name]).hexdigest()
            self._send(self.files[name], with_body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            return
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """(environment of a process that uses the local Hub, its files, what it was asked)."""

    class Local(Hub):
        files = {
            "model.safetensors": b"weights",
            "other/large.pth": b"more weights",
            "config.json": b'{"a": 1}',
            "README.md": b"hello",
            "evil.py": b"import os",
        }
        asked = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Local)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        environment.pop(name, None)
    yield environment, Local.files, Local.asked
    server.shutdown()
    server.server_close()


ASK = """
import json, sys
from modeling_findtrack.checkpoint_files import CheckpointError
from modeling_findtrack.published_source import fetch, find_source

answers = []
for given in sys.argv[1:]:
    try:
        found = find_source(given, ("config.json", "*.yaml"))
        here = [file.path is not None for file in found.files]
        source = fetch(found)
        answers.append({
            "kind": source.kind, "name": source.name, "revision": source.revision, "here": here,
            "sizes": [file.size for file in found.files],
            "files": {file.name: file.local.read_text() for file in source.files},
        })
    except CheckpointError as error:
        kind = type(error).__name__
        answers.append(f"{kind} {error}" if kind != "CheckpointError" else str(error))
print(json.dumps(answers))
"""


def ask(environment, *given) -> list:
    process = subprocess.run(
        [sys.executable, "-c", ASK, *given],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_a_repository_of_the_hub(hub):
    environment, files, asked = hub
    given = ("some/model", "some/model@v1/other/large.pth", "some/model/no.pth", "some/other")
    whole, one, no_file, no_repository = ask(environment, *given)
    assert (whole["kind"], whole["name"], whole["revision"]) == ("hub", "some/model", COMMIT)
    assert whole["files"] == {"model.safetensors": "weights", "config.json": '{"a": 1}'}
    assert whole["sizes"] == [7, 8] and whole["here"] == [False, False]
    assert one["files"] == {"other/large.pth": "more weights", "config.json": '{"a": 1}'}
    assert one["here"] == [False, True] and one["revision"] == COMMIT
    assert "some/model has no file no.pth" in no_file
    start = "some/other: no such folder here, and from the Hub it cannot be fetched"
    assert no_repository.startswith(f"UnreachableError {start}")
    assert len(no_repository.splitlines()) == 1
    fetched = {line.split("/")[-1] for line in asked if line.startswith("GET /some")}
    assert fetched == {"model.safetensors", "large.pth", "config.json"}, "only what is needed"
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    cached, absent = ask(offline, "some/model", "some/other")
    assert cached["files"] == whole["files"] and cached["here"] == [True, True]
    assert cached["revision"] == COMMIT
    assert absent.startswith(f"UnreachableError {start}")


def test_what_the_cache_lacks_may_be_on_the_hub(hub):
    """A cache that holds a part only does not say that the rest does not exist."""
    environment, files, _ = hub
    files["model-00001-of-00002.safetensors"] = b"a half"
    files["model-00002-of-00002.safetensors"] = b"a half"
    del files["model.safetensors"]
    (one,) = ask(environment, "some/model/other/large.pth")  # and config.json, but no weights
    assert "config.json" in one["files"]
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    for given in ("some/model", "some/model/no.pth"):
        (away,) = ask(offline, given)
        assert away.startswith(f"UnreachableError {given}: no such folder here, and from the Hub")
    (shard,) = ask(environment, "some/model/model-00001-of-00002.safetensors")
    assert "one of several shards; give some/model alone" in shard


def test_names_that_leave_the_folder_are_not_followed(hub):
    environment, files, _ = hub
    files["../../escape.pth"] = b"bad"
    good, bad = ask(environment, "some/model", "some/model/../../escape.pth")
    assert "model.safetensors" in good["files"]
    assert "has no file ../../escape.pth" in bad
