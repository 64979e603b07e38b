"""The table of `findtrack assemble --dry-run`: sources, files, sizes and licences."""

from collections.abc import Mapping

from .manifest import licence, role
from .preset_sources import missing_packages, wanted_sources
from .presets import PRESETS
from .published_source import Source, UnreachableError, without_secrets

_HEAD = ("option", "role", "from", "files", "size", "here", "licence")


def fetch_table(preset: str, given: Mapping[str, str]) -> str:
    """A table with one row per source, the sum of what is still to be fetched, and what is missing.

    A source that cannot be reached now is a row, not an error: what it would be is known.

    Args:
        preset: "sam2" or "paper".
        given: Option -> what the user gave for it.

    Raises:
        CheckpointError: An option is of another preset, or a source that can be looked at is not
            usable.
    """
    rows, fetching, unknown = [_HEAD], 0, 0
    found: dict[str, Source] = {}
    notes = []
    for wanted in wanted_sources(preset, given):
        option, what = wanted.option, role(preset, wanted.option)
        terms = licence(PRESETS[preset].part(option), wanted.where)
        try:
            source = wanted.find(found)
        except UnreachableError as error:
            notes.append(str(error))
            where = without_secrets(wanted.where)
            rows.append((option, what, where, "?", "?", "no", terms))
            unknown += 1
            continue
        if source is None:  # a tokenizer that lies beside its weights
            continue
        found[option] = source
        missing = [file for file in source.files if file.path is None]
        fetching += sum(file.size or 0 for file in missing)
        unknown += sum(file.size is None for file in missing)
        names = ", ".join(file.name for file in source.files)
        here = "yes" if not missing else "no" if len(missing) == len(source.files) else "partly"
        rows.append((option, what, _name(source), names, _size(source), here, terms))
    notes += missing_packages(preset, found)
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    parts = [_bytes(fetching)] if fetching else []
    parts += [f"{unknown} of unknown size"] if unknown else []
    lines += ["", f"to fetch: {' and '.join(parts) or 'nothing, all is here'}", *notes]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _name(source: Source) -> str:
    return f"{source.name}@{source.revision[:12]}" if source.revision else source.name


def _size(source: Source) -> str:
    sizes = [file.size for file in source.files]
    return "?" if None in sizes else _bytes(sum(size for size in sizes if size is not None))


def _bytes(count: int) -> str:
    """Decimal, as the Hub shows sizes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
