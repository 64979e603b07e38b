"""Where a published checkpoint is: a Hub repository, an https address, a folder or a file.

`find_source` lists its files and their sizes without fetching one, `fetch` brings them here.
"""

import hashlib
import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache

from .checkpoint_files import CheckpointError
from .weight_files import SUFFIXES, choose_weights, is_shard

_REPOSITORY = re.compile(
    r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>refs/pr/\d+|[^/@]+))?(?:/(?P<file>.+))?"
)
_BLOCK = 2**20
_TIMEOUT = 30  # seconds without an answer

Progress = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all


class UnreachableError(CheckpointError):
    """A repository or address does not answer, or says that there is nothing for us."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str  # within the folder or repository
    size: int | None  # bytes; None if it cannot be known without fetching
    path: Path | None  # where it is, None if it has to be fetched

    @property
    def local(self) -> Path:
        """Its path, which it has once it is fetched."""
        if self.path is None:
            raise CheckpointError(f"{self.name}: not fetched yet")
        return self.path


@dataclass(frozen=True)
class Source:
    """A checkpoint and the small files beside it."""

    kind: str  # "hub", "url", "folder" or "file"
    name: str  # repository id, address without what it keeps secret, or path as it was given
    revision: str | None  # commit of a repository
    weights: tuple[SourceFile, ...]
    extras: tuple[SourceFile, ...]
    branch: str | None = None  # what was asked for and led to `revision`; None for the default
    # The whole address of a "url": it may hold a password or a signature, so it is never shown.
    address: str | None = field(default=None, repr=False)

    @property
    def public_name(self) -> str:
        """Its name without the folders of this machine."""
        return Path(self.name).name if self.kind in ("folder", "file") else self.name

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Weights and extras."""
        return self.weights + self.extras

    def extra(self, *patterns: str) -> Path | None:
        """The first extra file that matches one of `patterns`, tried in order."""
        for pattern in patterns:
            for file in self.extras:
                if fnmatch(file.name, pattern):
                    return file.local
        return None


def find_source(given: str, extras: Sequence[str], needs_weights: bool = True) -> Source:
    """Look a source up; nothing is fetched but a list of files.

    Args:
        given: `OWNER/NAME[@REVISION][/FILE]` on the Hub, an https address of a file, or the path
            of a folder or file.
        extras: Patterns of the small files wanted beside the weights.
        needs_weights: False where only its extras are wanted.

    Raises:
        CheckpointError: There is no such thing, it holds no checkpoint, or it cannot be reached.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(path, given, extras, needs_weights)
    if path.is_file() and not needs_weights:
        # A sentencepiece model is a tokenizer on its own, any other file one of several.
        alone = path.suffix in (".model", ".spm")
        files = [path] if alone else [p for p in sorted(path.parent.iterdir()) if p.is_file()]
        return Source("file", given, None, (), _matching(files, extras))
    if path.is_file():
        if is_shard(path.name):
            raise CheckpointError(f"{given}: one of several shards; give the folder they are in")
        wanted = (*extras, f"{path.stem}.json", f"{path.stem}.yaml")
        beside = [p for p in sorted(path.parent.iterdir()) if p.is_file() and p != path]
        return Source("file", given, None, (_here(path),), _matching(beside, wanted))
    if "://" in given:
        return _address(given)
    match = _REPOSITORY.fullmatch(given)
    is_file = match is not None and match["file"] is None and path.suffix in SUFFIXES
    if match is None or is_file:
        raise CheckpointError(f"{given}: no such file or folder, and no Hub id (OWNER/NAME)")
    return _repository(given, match, extras, needs_weights)


def fetch(source: Source, md5: str | None = None, progress: Progress | None = None) -> Source:
    """Bring the files of a source here, into the caches of the Hub and of PyTorch.

    Args:
        source: From `find_source`.
        md5: Of the file at an address, if its publisher states it.
        progress: Called while a file from an address comes.

    Returns:
        The source with a path for every file.

    Raises:
        CheckpointError: A file cannot be fetched, or is not the one that was published.
    """
    if all(file.path is not None for file in source.files):
        return source
    if source.kind == "url":
        (file,) = source.weights
        path = _download(source.address or source.name, file, md5, progress)
        return replace(source, weights=(replace(file, path=path),))
    return replace(
        source,
        weights=tuple(_fetch_one(source, file) for file in source.weights),
        extras=tuple(_fetch_one(source, file) for file in source.extras),
    )


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Of a file; `progress` is called with the bytes of each block."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if progress:
                progress(len(block))
    return digest.hexdigest()


def _folder(path: Path, given: str, extras: Sequence[str], needs_weights: bool) -> Source:
    inside = [p for p in sorted(path.iterdir()) if p.is_file()]
    weights = choose_weights([p.name for p in inside], given) if needs_weights else []
    return Source(
        "folder",
        given,
        None,
        tuple(_here(path / name) for name in weights),
        _matching(inside, extras),
    )


def _repository(given: str, match: re.Match, extras: Sequence[str], needs_weights: bool) -> Source:
    """A repository as the Hub has it, or as the cache has it if the Hub cannot be reached."""
    name, revision, file = match["id"], match["revision"], match["file"]
    away: CheckpointError | None = None  # why the cache must do
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        listed = {s.rfilename: s.size for s in info.siblings or []}
        commit, sizes = info.sha, {n: size for n, size in listed.items() if _stays_inside(n)}
    except Exception as error:  # noqa: BLE001 - the Hub's client raises what its HTTP library does
        away = UnreachableError(
            _unreachable(f"{given}: no such folder here, and from the Hub", error)
        )
        try:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except Exception:  # noqa: BLE001
            raise away from None
        commit = folder.name
        paths = [p for p in folder.rglob("*") if p.is_file()]
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in paths}
    if file is not None and is_shard(file):
        raise CheckpointError(f"{given}: one of several shards; give {name} alone")
    try:
        if file is not None and file not in sizes:
            raise CheckpointError(f"{given}: {name} has no file {file}")
        weights = [file] if file else choose_weights(sizes, given) if needs_weights else []
    except CheckpointError as error:  # what the cache lacks may be on the Hub
        raise away or error from None
    beside = [n for n in sorted(sizes) if _matches(n, extras)]

    def known(names: Iterable[str]) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(n, sizes[n], _cached(name, n, commit)) for n in names)

    return Source("hub", name, commit, known(weights), known(beside), revision)


def _fetch_one(source: Source, file: SourceFile) -> SourceFile:
    """A file of a repository, from the cache if it is there."""
    if file.path is not None:
        return file
    try:  # by the name of the branch, so that the cache knows it later, offline
        path = Path(hf_hub_download(source.name, file.name, revision=source.branch))
    except Exception as error:  # noqa: BLE001 - the Hub's client raises what its HTTP library does
        raise UnreachableError(_unreachable(f"{source.name}/{file.name}:", error)) from None
    if source.revision not in path.parts:
        raise CheckpointError(f"{source.name}: changed while it was fetched; start again")
    return replace(file, path=path)


def _address(given: str) -> Source:
    """A file on the web."""
    shown = without_secrets(given)
    scheme, _, rest = shown.partition("://")
    name = PurePosixPath(rest.partition("/")[2]).name
    if scheme.lower() != "https" or name in ("", ".."):
        raise CheckpointError(f"{shown}: an address must be an https one of a file")
    path = _cache_folder(given) / name
    if path.is_file():
        file = SourceFile(name, path.stat().st_size, path)
        return Source("url", shown, None, (file,), (), address=given)
    try:
        request = urllib.request.Request(given, method="HEAD")
        with _https_only().open(request, timeout=_TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length") or 0) or None
    except (OSError, ValueError, HTTPException):  # some do not answer this; fetching will tell
        size = None
    return Source("url", shown, None, (SourceFile(name, size, None),), (), address=given)


def without_secrets(given: str) -> str:
    """An address without user, password and query, which may be a signature; else as it is."""
    if "://" not in given:
        return given
    scheme, rest = given.split("://", 1)
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _download(url: str, file: SourceFile, md5: str | None, progress: Progress | None) -> Path:
    """The file at `url`, complete or not at all."""
    folder = _cache_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, prefix=".partial-")
    try:
        with open(handle, "wb") as out:
            digest = _copy(url, file.name, out, progress)
        if md5 and digest != md5:
            raise CheckpointError(
                f"{without_secrets(url)}: not the file its authors published (MD5 {digest}, not "
                f"{md5})"
            )
        return Path(partial).replace(folder / file.name)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _copy(url: str, name: str, out: BinaryIO, progress: Progress | None) -> str:
    """Write what is at `url` to `out`; returns its MD5."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    try:
        with _https_only().open(url, timeout=_TIMEOUT) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read(_BLOCK):
                out.write(block)
                digest.update(block)
                done += len(block)
                if progress:
                    progress(f"fetching {name}", done, total)
    except OSError as error:
        raise UnreachableError(_unreachable(f"{without_secrets(url)}:", error)) from None
    except (ValueError, HTTPException) as error:  # whose message may hold the address
        kind = Exception(type(error).__name__)
        raise UnreachableError(_unreachable(f"{without_secrets(url)}:", kind)) from None
    if done < total:
        raise CheckpointError(f"{without_secrets(url)}: {done} of {total} bytes came; try again")
    return digest.hexdigest()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.startswith("https://"):
            raise OSError(f"redirected to {without_secrets(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _https_only() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpsOnly)


def _cache_folder(url: str) -> Path:
    """Where the file of an address is kept: beside those of `torch.hub`, one folder per address."""
    address = hashlib.sha256(url.encode()).hexdigest()[:16]  # two may end in the same name
    return Path(torch.hub.get_dir()) / "findtrack" / address


def _cached(repository: str, name: str, commit: str | None) -> Path | None:
    path = try_to_load_from_cache(repository, name, revision=commit)
    return Path(path) if isinstance(path, str) else None


def _unreachable(what: str, error: Exception) -> str:
    """A message.

    Args:
        what: Begins it.
        error: What the client raised.
    """
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{what} it cannot be fetched ({first}); check the name and the connection, or fetch it "
        "elsewhere and give the folder or file"
    )


def _stays_inside(name: str) -> bool:
    """Whether a name that the Hub sent, joined to a folder, is below that folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _here(path: Path) -> SourceFile:
    return SourceFile(path.name, path.stat().st_size, path)


def _matching(paths: Iterable[Path], patterns: Sequence[str]) -> tuple[SourceFile, ...]:
    return tuple(_here(path) for path in paths if _matches(path.name, patterns))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file at the top of a folder or repository is wanted."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)
