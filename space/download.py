"""Videos that programs name by their address: fetched up to a size, and from public hosts only."""

import asyncio
import ipaddress
import secrets
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
import httpx
import safehttpx
from gradio import processing_utils

REDIRECTS = 5
SECONDS = 30  # for a whole download: others wait for their turn meanwhile
SERVED = "/gradio_api/file="  # where Gradio serves its files


class DownloadError(Exception):
    """The message is what the visitor reads."""


def limit_downloads(max_bytes: int) -> None:
    """From now on Gradio fetches as this file does; its own way has no limit and fills the memory.

    It has no setting for that, and a component of our own would not do: Gradio makes others of
    them for a page once it has updated them.
    """
    if not hasattr(processing_utils, "async_ssrf_protected_download"):
        raise ImportError("this Gradio fetches addresses in another way; limit_downloads must know")
    processing_utils.async_ssrf_protected_download = partial(fetch, max_bytes=max_bytes)


async def fetch(address: str, cache_dir: str, max_bytes: int) -> str:
    """The path of a file in `cache_dir` that holds what is at `address`.

    Raises:
        gr.Error: There is none; with what to say to the visitor.
    """
    if own := _own(address, Path(cache_dir)):
        return own
    folder = Path(cache_dir) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    file = folder / "video"
    try:
        await asyncio.wait_for(download(address, file, max_bytes), SECONDS)
    except BaseException as error:
        file.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        match error:
            case DownloadError():
                reason = str(error)
            case asyncio.TimeoutError():
                reason = f"it takes more than {SECONDS} s"
            case httpx.HTTPError() | httpx.InvalidURL():
                reason = "there is no answer"
            case _:
                raise
        raise gr.Error(
            f"The video cannot be fetched from its address: {reason}. Upload it instead.",
            title="Not possible", print_exception=False,
        ) from None  # fmt: skip
    return str(file)


def _own(address: str, folder: Path) -> str | None:
    """The file of an address under which this server gives it out, as after an upload."""
    with suppress(OSError, ValueError):  # of names that no file can have
        path = Path(unquote(address.partition(SERVED)[2])).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return str(path)
    return None


async def download(address: str, file: Path, max_bytes: int) -> None:
    """Write what is at `address` to `file`.

    Raises:
        DownloadError: It is too large, or the address is not a public one, or says no.
        httpx.HTTPError: The connection fails.
    """
    url = httpx.URL(address)
    for _ in range(REDIRECTS + 1):
        # The connection goes to the IP that was looked at: a name may change what it means.
        transport = safehttpx.AsyncSecureTransport(await public_ip(url.host))
        async with (
            httpx.AsyncClient(transport=transport, trust_env=False) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as reply,
        ):
            if reply.has_redirect_location:
                url = url.join(reply.headers["location"])
                continue
            if reply.status_code != 200:
                raise DownloadError(f"the answer is {reply.status_code}")
            # A few compressed bytes can fill the memory before anybody counts them.
            if reply.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise DownloadError("its host sends it compressed")
            count = 0
            with file.open("wb") as out:
                async for chunk in reply.aiter_raw():
                    count += len(chunk)
                    if count > max_bytes:
                        raise DownloadError(f"it has more than {max_bytes / 1e6:g} MB")
                    out.write(chunk)
            return
    raise DownloadError("it leads from one address to the next")


async def public_ip(host: str) -> str:
    """One of a host; those of this machine and its network are nobody else's business.

    Raises:
        DownloadError: It has none.
    """
    with suppress(OSError, UnicodeError):
        loop = asyncio.get_running_loop()
        for *_, (ip, *_) in await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            address = ipaddress.ip_address(ip)
            address = getattr(address, "ipv4_mapped", None) or address
            if address.is_global and not address.is_multicast:
                return ip
    raise DownloadError("its host is not a public one")
