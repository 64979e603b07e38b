"""The options of `findtrack assemble`; without a heavy import, so that help comes at once."""

import argparse

from .presets import PRESETS

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_SOURCES = {
    "evf-sam": "finder: EVF-SAM2, or EVF-SAM for preset paper, fine-tuned ones too",
    "alpha-clip": "aligner: Alpha-CLIP's image tower",
    "clip": "aligner: CLIP, of which the text tower is used",
    "sam2": "tracker of preset sam2: SAM 2 or 2.1 with video memory",
    "cutie": "tracker of preset paper: Cutie",
    "tokenizer": "where --evf-sam's tokenizer is, if not beside its weights",
    "clip-tokenizer": "where --clip's tokenizer is, if not beside its weights",
}


def add_assemble(commands) -> argparse.ArgumentParser:
    """Add the subcommand.

    Args:
        commands: What `ArgumentParser.add_subparsers` returns.
    """
    assemble = commands.add_parser(
        "assemble",
        help="make a full-size model of the weights that the components' authors publish",
        description="Fetch, convert and check the published weights of finder, aligner and "
        "tracker, and write one Hub-ready folder. Every SOURCE is a Hub id "
        "(OWNER/NAME[@REVISION][/FILE]), an https address of a file, a folder, or a file: "
        "safetensors (in shards, too), .pth, .pt or .bin. Every tensor is accounted for: unknown, "
        "missing or misshaped ones are listed and stop the conversion.",
        epilog="Dimensions are read from the tensors; what those do not tell (attention heads, "
        "windows of an unpublished Hiera) from a config.json beside them, or a .yaml as "
        "SAM 2 has it. Weights keep their authors' licences: --dry-run lists them.",
    )
    assemble.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        required=True,
        help="sam2: EVF-SAM2, Alpha-CLIP and SAM 2, recommended; paper: EVF-SAM, Alpha-CLIP and "
        "Cutie, set as the paper's code, quirks included",
    )
    assemble.add_argument("--out", metavar="DIR", help="the folder to make")
    for option, what in _SOURCES.items():
        parts = [part for preset in PRESETS.values() if (part := preset.part(option))]
        default = " or ".join(dict.fromkeys(part.default for part in parts))
        default = default or "as published"
        assemble.add_argument(f"--{option}", metavar="SOURCE", help=f"{what} (default: {default})")
    assemble.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="auto",
        help="number format of the weights (default: auto, which leaves them as they are)",
    )
    assemble.add_argument(
        "--dry-run",
        action="store_true",
        help="only print what would be fetched, how large it is, and under which licence",
    )
    assemble.add_argument(
        "--overwrite",
        action="store_true",
        help="write into DIR though it holds other files; of these none is replaced "
        "(an earlier Hub folder in DIR is always replaced)",
    )
    assemble.add_argument("--quiet", action="store_true", help="no progress bars, no summary")
    return assemble


def given_sources(args: argparse.Namespace) -> dict[str, str]:
    """Option -> what the user gave for it, for those that are given."""
    options = {name: getattr(args, name.replace("-", "_")) for name in _SOURCES}
    return {name: value for name, value in options.items() if value is not None}
