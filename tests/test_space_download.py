"""What comes of a video's address: a file, or one line."""

import asyncio
import gzip
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from gradio import processing_utils  # noqa: E402

from space import download as module  # noqa: E402
from space.download import DownloadError, download, limit_downloads, public_ip  # noqa: E402

BODY = bytes(range(256)) * 40
BROTLI = bytes.fromhex("cbffff3ff82700e2b14020f7fe2fff2c31f04f00c46111808e2306")  # 10 MB of zeros


class Host(BaseHTTPRequestHandler):
    """Answers by the path it is asked for."""

    def do_GET(self):
        status, headers, body = {
            "/video.mp4": (200, {"Content-Length": len(BODY)}, BODY),
            "/plain": (200, {"Content-Encoding": "Identity"}, BODY),
            "/endless": (200, {}, BODY * 1000),  # it does not say how much there is
            "/gzip": (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(10**7))),
            "/brotli": (200, {"Content-Encoding": "br"}, BROTLI),
            "/two": (200, {"Content-Encoding": "identity, br"}, BROTLI),
            "/asked": (200, {}, self.headers["Accept-Encoding"].encode()),
            "/moved": (302, {"Location": "/video.mp4"}, b""),
            "/round": (302, {"Location": "/round"}, b""),
            "/inside": (302, {"Location": "http://10.0.0.1/video.mp4"}, b""),
            "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        }.get(self.path, (404, {}, b"no"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        with suppress(OSError):  # the other side may have enough
            self.wfile.write(body)

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def host(monkeypatch):
    """A server whose address passes for a public one; others are looked at as ever."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def lookup(name: str) -> str:
        return "127.0.0.1" if name == "videos.example" else await public_ip(name)

    monkeypatch.setattr(module, "public_ip", lookup)
    yield f"http://videos.example:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(address: str, file: Path, most: int = 10**6) -> bytes:
    asyncio.run(download(address, file, most))
    return file.read_bytes()


@pytest.mark.parametrize("path", ["/video.mp4", "/moved", "/plain"])
def test_a_video_is_fetched(path, host, tmp_path):
    assert fetch(host + path, tmp_path / "video", len(BODY)) == BODY


@pytest.mark.parametrize(
    ("path", "most", "said"),
    [
        ("/video.mp4", len(BODY) - 1, "more than 0.010239 MB"),
        ("/endless", 10**6, "more than 1 MB"),
        ("/gzip", 10**6, "compressed"),
        ("/brotli", 10**6, "compressed"),
        ("/two", 10**6, "compressed"),
        ("/nothing", 10**6, "the answer is 404"),
        ("/round", 10**6, "from one address to the next"),
        ("/inside", 10**6, "not a public one"),
        ("/file", 10**6, "not a public one"),
    ],
)
def test_what_is_not_fetched(path, most, said, host, tmp_path):
    with pytest.raises(DownloadError, match=said):
        fetch(host + path, tmp_path / "video", most)


def test_hosts_are_asked_not_to_compress(host, tmp_path):
    assert fetch(f"{host}/asked", tmp_path / "video") == b"identity"


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3", "192.168.0.1", "169.254.169.254",
        "100.64.0.1", "::1", "::ffff:127.0.0.1", "fd00::1", "224.0.0.1", "no.such.host.invalid",
        "", "a" * 300,
    ],
)  # fmt: skip
def test_hosts_of_this_network_are_not_asked(name):
    with pytest.raises(DownloadError, match="not a public one"):
        asyncio.run(public_ip(name))


@pytest.mark.parametrize("ip", ["8.8.8.8", "2001:4860:4860::8888"])
def test_public_hosts_are(ip):
    assert asyncio.run(public_ip(ip)) == ip


@pytest.fixture
def field(tmp_path, monkeypatch) -> gr.Video:
    """Gradio's own, as the page has it."""
    before = processing_utils.async_ssrf_protected_download
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", before)  # put back
    limit_downloads(10**6)
    field = gr.Video()
    field.GRADIO_CACHE = str(tmp_path / "files")
    return field


def take(field: gr.Video, what: str) -> str:
    return asyncio.run(field.async_move_resource_to_block_cache(what))


def test_the_field_takes_addresses_as_it_takes_files(field, host, tmp_path):
    file = Path(take(field, f"{host}/video.mp4"))
    assert file.read_bytes() == BODY
    assert file.is_relative_to(tmp_path / "files") and str(file) in field.temp_files
    assert take(field, str(file)) == str(file)
    again = Path(field.move_resource_to_block_cache(f"{host}/video.mp4"))  # not in a server
    assert again.read_bytes() == BODY


def test_two_requests_for_an_address_have_a_file_each(field, host):
    """One may be swept away while the other is worked on; and what lies there may change."""
    assert take(field, f"{host}/video.mp4") != take(field, f"{host}/video.mp4")


def test_an_address_of_this_servers_own_is_an_upload(field, tmp_path):
    file = tmp_path / "files" / "abc" / "my clip.mp4"
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    address = f"http://127.0.0.1:7860/gradio_api/file={file}".replace(" ", "%20")
    assert take(field, address) == str(file)
    for other in (
        "/etc/passwd",
        f"{tmp_path}/files/../files.txt",
        f"{file}.none",
        "",
        "a" * 5000,
        "%00",
    ):
        with pytest.raises(gr.Error, match="not a public one"):
            take(field, f"http://127.0.0.1:7860/gradio_api/file={other}")


@pytest.mark.parametrize("path", ["/endless", "/nothing", "/inside"])
def test_a_refusal_is_one_line_and_leaves_nothing(path, field, host, tmp_path):
    with pytest.raises(gr.Error, match="cannot be fetched from its address: .*Upload it") as error:
        take(field, host + path)
    assert len(str(error.value).splitlines()) == 1 and str(tmp_path) not in str(error.value)
    assert not list((tmp_path / "files").rglob("*"))


def test_no_answer_and_no_end_are_told(field, host, monkeypatch):
    with pytest.raises(gr.Error, match="there is no answer"):
        take(field, "http://videos.example:1/video.mp4")

    async def never(*_):
        await asyncio.sleep(60)

    monkeypatch.setattr(module, "download", never)
    monkeypatch.setattr(module, "SECONDS", 0.01)
    with pytest.raises(gr.Error, match="more than 0.01 s"):
        take(field, f"{host}/video.mp4")


def test_a_gradio_that_fetches_otherwise_is_refused(monkeypatch):
    monkeypatch.delattr(processing_utils, "async_ssrf_protected_download")
    with pytest.raises(ImportError, match="in another way"):
        limit_downloads(1)
