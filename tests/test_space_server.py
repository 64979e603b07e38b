"""The demo app over its API: the masks of `model.segment`, whoever asks and however many ask."""

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from modeling_findtrack.export import to_result
from modeling_findtrack.results import Track, decode_mask
from modeling_findtrack.video_io import open_video
from tests.space_server import (
    FPS,
    MAX_MEGABYTES,
    PATIENCE,
    ROOT,
    files_in,
    needs_space,
    wait_until,
    write_clip,
)

pytest_plugins = ["tests.space_server"]
pytestmark = needs_space

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed")

SWAN, SHEEP, ABSENT = "the leftmost swan", "the sheep", "the car"
VISITORS = 20


@dataclass(frozen=True)
class Reply:
    """What `/segment` gave: files on this machine, and the JSON beside them."""

    overlay: Path
    files: dict[str, Path]  # by name
    result: dict


def ask(client, clip: Path | None, text: str, **options) -> Reply:
    video = None if clip is None else gradio_client.handle_file(str(clip))
    return as_reply(client.predict(video=video, expressions=text, api_name="/segment", **options))


def as_reply(given: tuple) -> Reply:
    overlay, files, result = given
    return Reply(Path(overlay), {Path(file).name: Path(file) for file in files}, result)


def check(reply: Reply, tracks: list[Track]) -> None:
    """The reply says what `tracks` say: scores, key frames, and every mask in both formats."""
    T, (H, W) = len(tracks[0].masks), tracks[0].masks.size
    with open_video(reply.overlay) as overlay:
        assert overlay.num_frames == T
        expected = to_result(overlay, tracks)["expressions"]
    assert reply.result["expressions"] == expected
    facts = reply.result["video"]
    assert (facts["frames"], facts["height"], facts["width"]) == (T, H, W)
    mattes = [f"matte-{n}.mp4" for n in range(len(tracks))]
    assert sorted(reply.files) == sorted(["masks.zip", "masks-coco-rle.json", *mattes])
    check_coco(json.loads(reply.files["masks-coco-rle.json"].read_text("utf-8")), tracks)
    with zipfile.ZipFile(reply.files["masks.zip"]) as archive:
        assert json.loads(archive.read("result.json"))["expressions"] == expected
        names = {f"masks/{n}/{t:05d}.png" for n in range(len(tracks)) for t in range(T)}
        assert set(archive.namelist()) == names | {"result.json"}
        for n, track in enumerate(tracks):
            for t, mask in enumerate(track.masks):
                with archive.open(f"masks/{n}/{t:05d}.png") as file, Image.open(file) as image:
                    assert np.array_equal(np.array(image), mask * np.uint8(255)), (n, t)


def check_coco(coco: dict, tracks: list[Track]) -> None:
    assert [category["name"] for category in coco["categories"]] == [t.expression for t in tracks]
    of = {annotation["category_id"]: annotation for annotation in coco["annotations"]}
    assert set(of) == {n + 1 for n, track in enumerate(tracks) if track.found}
    for number, annotation in of.items():
        masks = tracks[number - 1].masks
        assert len(annotation["segmentations"]) == len(masks)
        for rle, mask in zip(annotation["segmentations"], masks, strict=True):
            read = np.zeros_like(mask) if rle is None else decode_mask(rle)
            assert np.array_equal(read, mask)


@pytest.fixture(scope="module")
def client(space_server, tmp_path_factory):
    client = space_server.client(tmp_path_factory.mktemp("downloads"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 8)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The least that is still a request."""
    return write_clip(tmp_path_factory.mktemp("small") / "small.mp4", 2, size=(48, 64))


# Many at once


@dataclass(frozen=True)
class Crowd:
    """What came of many requests at a time, twice the same ones."""

    tracks: list[list[Track]]  # what each should be told
    rounds: list[list[Reply]]
    memory: list[int]  # bytes of the server after each round


@pytest.fixture(scope="module")
def crowd(space_server, reference, tmp_path_factory) -> Crowd:
    folder = tmp_path_factory.mktemp("crowd")
    texts = [SWAN, SHEEP, f"{SHEEP}\n{SWAN}", ABSENT, "the rightmost swan"]
    requests = [
        (
            write_clip(
                folder / f"{n}.mp4",
                3 + n % 3,
                first=2 * n,
                size=(64 + 8 * (n % 4), 96 + 16 * (n % 3)),
                mirrored=n % 2 == 1,
            ),
            texts[n % len(texts)],
        )
        for n in range(VISITORS)
    ]
    tracks = [reference(path, text, key_frames=2) for path, text in requests]
    together = threading.Barrier(VISITORS)

    def visit(client, request) -> Reply:
        together.wait(PATIENCE)
        return ask(client, *request, key_frames=2)

    rounds, memory = [], []
    with ThreadPoolExecutor(VISITORS) as pool:
        folders = [folder / str(n) for n in range(VISITORS)]
        clients = list(pool.map(space_server.client, folders))
        for _ in range(2):
            rounds.append(list(pool.map(visit, clients, requests)))
            memory.append(space_server.memory())
        list(pool.map(gradio_client.Client.close, clients))
    return Crowd(tracks, rounds, memory)


def test_everybody_in_a_crowd_gets_their_own_answer(crowd):
    told = {repr([track.candidates for track in tracks]) for tracks in crowd.tracks}
    assert len(told) == VISITORS  # or a mix-up would not show
    for replies in crowd.rounds:
        for reply, tracks in zip(replies, crowd.tracks, strict=True):
            check(reply, tracks)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_crowd_leaves_no_memory_behind(crowd):
    """The first round warms up. The second was measured to take 1 MB; one that leaves a request's
    features behind takes 60 MB, since the model holds 3 MB of two frames while it works."""
    before, after = crowd.memory
    assert after - before < 15e6


# What it answers


@pytest.mark.parametrize(
    ("text", "options", "part", "expected"),
    [
        (f"{SWAN}\n{ABSENT}", {}, slice(None), {}),
        (f"\n  {SHEEP} \n\n", {"key_frames": 2, "opacity": 1}, slice(None), {"key_frames": 2}),
        (SWAN, {"start": 2 / FPS, "end": 6 / FPS}, slice(2, 6), {}),
        (SHEEP, {"start": 5 / FPS}, slice(5, None), {}),
        (SWAN, {"threshold": 1.0}, slice(None), {"threshold": 1.0}),
    ],
    ids=["two", "key-frames", "part", "rest", "threshold"],
)
def test_the_masks_are_those_of_the_model(client, clip, reference, text, options, part, expected):
    with open_video(clip) as video:
        frames = np.stack(list(video.frames()))[part]
    lines = "\n".join(line.strip() for line in text.splitlines() if line.strip())
    tracks = reference(frames, lines, **expected)
    assert [track.found for track in tracks] == [
        line != ABSENT and "threshold" not in expected for line in lines.splitlines()
    ]
    check(ask(client, clip, text, **options), tracks)


def test_a_long_narrow_video(client, reference, tmp_path):
    """It has more frames than its overlay has columns."""
    clip = write_clip(tmp_path / "narrow.mp4", 100, size=(32, 48))
    tracks = reference(clip, SWAN, key_frames=1)
    check(ask(client, clip, SWAN, key_frames=1), tracks)


def test_a_cancelled_job_stops(space_server, client, small, tmp_path):
    clip = write_clip(tmp_path / "long.mp4", 240)
    text = "\n".join([SWAN, SHEEP, ABSENT, "the swan"] * 2)
    before = set(space_server.request_folders())
    job = client.submit(gradio_client.handle_file(str(clip)), text, api_name="/segment")
    wait_until(lambda: job.status().progress_data, "the work begins", every=0.02)
    (folder,) = set(space_server.request_folders()) - before
    job.cancel()
    written = set()

    def gone() -> bool:
        written.update(path.name for path in files_in(folder / "results"))
        return not folder.exists()

    wait_until(gone, "the cancelled job has no folder", every=0.01)
    assert not written
    assert ask(client, small, SWAN, key_frames=1).result["expressions"][0]["text"] == SWAN


def test_the_mattes_show_the_masks(client, clip, reference):
    reply = ask(client, clip, f"{SWAN}\n{ABSENT}")
    for n, track in enumerate(reference(clip, f"{SWAN}\n{ABSENT}")):
        with open_video(reply.files[f"matte-{n}.mp4"]) as matte:
            white = np.stack([frame.mean(axis=2) > 127 for frame in matte.frames()])
        assert (white == track.masks.to_array()).mean() > 0.99


def test_the_snippet_of_the_readme(space_server, clip, reference, tmp_path):
    shutil.copy(clip, tmp_path / "clip.mp4")
    text = (ROOT / "space" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = code.replace("http://127.0.0.1:7860", space_server.url)
    code += 'import json\njson.dump([overlay, files, result], open("told.json", "w"))\n'
    ours = {
        "GRADIO_TEMP_DIR": str(tmp_path / "downloads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=os.environ | ours, check=True, capture_output=True)
    overlay, files, result = json.loads((tmp_path / "told.json").read_text())
    reply = as_reply((overlay, files, result))
    sentences = re.search(r'expressions="(.+?)"', code)[1].replace(r"\n", "\n")
    check(reply, reference(clip, sentences))


# What it cannot use


def text_file(path: Path) -> Path:
    path = path.with_suffix(".txt")
    path.write_text("This is no video.\n" * 20)
    return path


def renamed_text(path: Path) -> Path:
    path.write_text("This is no video.\n" * 20)
    return path


def cut_before_its_index(path: Path) -> Path:
    """As after a lost connection: what FFmpeg would have written last is not there."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for value in range(0, 240, 10):
            picture = np.full((96, 128, 3), value, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert path.read_bytes().rfind(b"moov") > path.stat().st_size // 2
    return halved(path)


def cut_behind_its_index(path: Path) -> Path:
    assert write_clip(path, 8).read_bytes().find(b"moov") < path.stat().st_size // 2
    return halved(path)


def halved(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def sound_alone(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        for n in range(10):
            silence = np.zeros((1, 1024), dtype=np.float32)
            sound = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 44_100, 1024 * n
            container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def of_size(width: int, height: int):
    def make(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=FPS)  # the cheapest to encode
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


def zip_bomb(path: Path) -> Path:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a", "w") as file,
    ):
        for _ in range(100):
            file.write(bytes(2_000_000))
    assert path.stat().st_size < 1e6
    return path


def good(path: Path) -> Path:
    return write_clip(path, 8)


def nothing(path: Path) -> None:
    return None


BAD = {  # how to make the upload, the text, the options, and what the message must say
    "text file": (text_file, SWAN, {}, "not a video that can be read .*damaged"),
    "text named mp4": (renamed_text, SWAN, {}, "not a video that can be read .*damaged"),
    "cut, index lost": (cut_before_its_index, SWAN, {}, "not a video .* be read .*cut off"),
    "cut, index there": (cut_behind_its_index, SWAN, {}, r"truncated or damaged after \d+ frames"),
    "sound alone": (sound_alone, SWAN, {}, "no picture: only sound"),
    "2x2": (of_size(2, 2), SWAN, {}, "too small, 2×2: at least 16 pixels"),
    "8K": (of_size(7680, 4320), SWAN, {}, "too large, 7680×4320: at most 2.1 megapixels"),
    "zip bomb": (zip_bomb, SWAN, {}, "not a video that can be read"),
    "no file": (nothing, SWAN, {}, "No video: upload or record one"),
    "no text": (good, "", {}, "No text: say what to look for"),
    "blank text": (good, " \n\t\n", {}, "No text: say what to look for"),
    "long text": (good, "x" * 10_000, {}, "Line 1 has 10000 characters: at most 200"),
    "many lines": (good, "a\n" * 9, {}, "9 lines: at most 8 objects"),
    "start behind the end": (good, SWAN, {"start": 2}, r"starts at 2 s, .* is 0\.5 s long"),
    "end before the start": (
        good, SWAN, {"start": 0.4, "end": 0.2}, r"ends at 0\.2 s, before it starts at 0\.4 s",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_explained_in_one_line(space_server, client, small, tmp_path, kind):
    make, text, options, message = BAD[kind]
    upload = make(tmp_path / "upload.mp4")
    with pytest.raises(gradio_client.exceptions.AppError, match=message) as error:
        ask(client, upload, text, **options)
    said = str(error.value)
    assert len(said.splitlines()) == 1 and len(said) < 250
    for private in ("Traceback", "Error", ".py", str(space_server.files), "upload.mp4", "/"):
        assert private not in said
    assert ask(client, small, SWAN, key_frames=1).result["expressions"][0]["text"] == SWAN


def test_an_upload_above_the_limit_is_refused_while_it_comes(space_server, client, small):
    assert space_server.upload("large.mp4", bytes(MAX_MEGABYTES * 10**6)).status_code == 200
    reply = space_server.upload("large.mp4", bytes(MAX_MEGABYTES * 10**6 + 1))
    assert reply.status_code == 413
    assert "maximum allowed size" in reply.text and len(reply.text.splitlines()) == 1
    assert str(space_server.files) not in reply.text
    assert ask(client, small, SWAN, key_frames=1).result["expressions"][0]["text"] == SWAN


@pytest.mark.parametrize("place", ["/etc/passwd", "space/examples/cat.mp4", "../log.txt"])
def test_files_of_the_server_are_no_uploads(space_server, client, small, place):
    """By hand, since a client would send its own file of that name."""
    video = {"path": place, "meta": {"_type": "gradio.FileData"}}
    data = {"data": [video, SWAN, 1, 0.5, 0, 0, 0.5]}
    address = f"{space_server.url}/gradio_api/call/segment"
    event = httpx.post(address, json=data, trust_env=False, timeout=PATIENCE)
    event = event.raise_for_status().json()["event_id"]
    said = httpx.get(f"{address}/{event}", trust_env=False, timeout=PATIENCE).text
    assert "event: error" in said and "event: complete" not in said
    assert ask(client, small, SWAN, key_frames=1).result["expressions"][0]["text"] == SWAN


def test_addresses_of_the_servers_network_are_not_fetched(space_server, client, small):
    video = gradio_client.handle_file(f"{space_server.url}/gradio_api/info")
    with pytest.raises(gradio_client.exceptions.AppError, match="not a public one. Upload it"):
        client.predict(video=video, expressions=SWAN, api_name="/segment")
    assert ask(client, small, SWAN, key_frames=1).result["expressions"][0]["text"] == SWAN


# Over MCP


def mcp_session(space_server, use):
    """What the coroutine function `use` returns of a session of the official client."""
    mcp = pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp.client.streamable_http import streamable_http_client

    async def run():
        address = f"{space_server.url}/gradio_api/mcp/"
        async with (
            streamable_http_client(address) as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await use(session)

    return asyncio.run(run())


def as_data(clip: Path) -> str:
    """The clip as an MCP client sends it that has no web server."""
    return "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()


def ask_by_mcp(clip: Path | str, text: str, note=None, **options):
    """For `mcp_session`: one call of the tool with a file or an address; `note` is told of its
    progress."""

    async def call(session):
        told = {} if note is None else {"progress_callback": note}
        video = clip if isinstance(clip, str) else as_data(clip)
        arguments = {"video": video, "expressions": text, **options}
        return await session.call_tool("segment", arguments, **told)

    return call


def test_mcp_lists_one_tool_and_explains_its_arguments(space_server):
    tools = mcp_session(space_server, lambda session: session.list_tools()).tools
    assert [tool.name for tool in tools] == ["segment"]
    schema = tools[0].inputSchema
    assert "one mask per frame" in tools[0].description
    assert list(schema["properties"]) == [
        "video", "expressions", "key_frames", "threshold", "start", "end", "opacity",
    ]  # fmt: skip
    assert schema["required"] == ["video", "expressions"]
    for name, about in schema["properties"].items():
        assert len(about.get("description", "").split()) >= 3, name
    assert "one object per line" in schema["properties"]["expressions"]["description"]


@pytest.mark.parametrize("wants_progress", [False, True])
def test_mcp_gives_the_masks_of_the_model(space_server, reference, tmp_path, wants_progress):
    clip = write_clip(tmp_path / "clip.mp4", 40)  # tracked for long enough to be told of it
    stages = []

    async def note(done, total, message):
        stages.append(message)

    text = f"{SWAN}\n{ABSENT}"
    call = ask_by_mcp(clip, text, note if wants_progress else None, key_frames=3)
    reply = mcp_session(space_server, call)
    said = "\n".join(part.text for part in reply.content)
    assert not reply.isError, said
    assert any("Tracking" in stage for stage in stages if stage) == wants_progress
    files = {}
    for address in re.findall(rf"{space_server.url}/gradio_api/file=[^\s'\"\\]+", said):
        path = tmp_path / address.rsplit("/", 1)[1]
        file = httpx.get(address, trust_env=False, timeout=PATIENCE)
        path.write_bytes(file.raise_for_status().content)
        files[path.name] = path
    overlay = files.pop("overlay.mp4")
    with zipfile.ZipFile(files["masks.zip"]) as archive:
        result = json.loads(archive.read("result.json"))
    check(Reply(overlay, files, result), reference(clip, text, key_frames=3))


def test_mcp_says_what_is_wrong(space_server, small):
    reply = mcp_session(space_server, ask_by_mcp(small, " "))
    assert reply.isError
    assert reply.content[0].text.startswith("No text: say what to look for")


def test_mcp_takes_the_address_of_an_upload_and_no_other_of_this_network(space_server, small):
    """The one that Gradio's own helper for MCP clients gives, `gradio upload-mcp`."""
    (path,) = space_server.upload("my clip.mp4", small.read_bytes()).json()
    address = f"{space_server.url}/gradio_api/file={quote(path)}"
    reply = mcp_session(space_server, ask_by_mcp(address, SWAN, key_frames=1))
    assert not reply.isError and "overlay.mp4" in str(reply.content)
    reply = mcp_session(space_server, ask_by_mcp(f"{space_server.url}/config", SWAN))
    assert reply.isError and "its host is not a public one" in reply.content[0].text


# What is left


@pytest.fixture(scope="module")
def left(space_server, client, crowd, small) -> list[Path]:
    """Files that stay of the requests above: of a crowd, of MCP's, of one just answered."""
    mcp_session(space_server, ask_by_mcp(small, SWAN, key_frames=1))
    ask(client, small, SWAN)
    assert space_server.leftovers()
    space_server.let_files_age()
    return space_server.leftovers()


def test_nothing_of_a_request_is_left(left):
    assert left == []


def test_an_upload_that_grows_too_old_is_still_worked_on(space_server, client, reference, tmp_path):
    clip = write_clip(tmp_path / "old.mp4", 24)
    text = f"{SWAN}\n{SHEEP}\nthe swan"
    job = client.submit(
        video=gradio_client.handle_file(str(clip)), expressions=text, api_name="/segment"
    )
    wait_until(lambda: job.done() or job.status().progress_data, "the work begins", every=0.02)
    space_server.upload_named("old.mp4").unlink()
    check(as_reply(job.result()), reference(clip, text))


@pytest.mark.parametrize("text", ["", "a\n" * 9])
def test_a_refusal_writes_nothing_to_the_log(space_server, client, small, text):
    before = space_server.log.read_text()
    with pytest.raises(gradio_client.exceptions.AppError):
        ask(client, small, text)
    assert space_server.log.read_text() == before
