"""`findtrack assemble`: finds, fetches, converts and writes, or tells what would be fetched."""

import argparse
import sys

import torch
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

from .assemble import plan, write
from .assemble_options import given_sources
from .fetch_table import fetch_table
from .hub_folder import hub_folder
from .preset_sources import fetch_sources, find_sources
from .presets import MANIFEST
from .progress_bars import progress_bars


def run(args: argparse.Namespace) -> str:
    """Do what the options say; what can fail cheaply fails first.

    Args:
        args: Parsed, see `add_assemble`; `written` is set once the folder is in place.

    Returns:
        What there is to tell.

    Raises:
        CheckpointError: A source cannot be used.
        OutputError: The folder cannot be made.
    """
    given = given_sources(args)
    _quieten(args.quiet)
    if args.dry_run:
        return fetch_table(args.preset, given)
    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    output = hub_folder(args.out, args.overwrite, ["README.md", MANIFEST])
    with output as folder, progress_bars(args.quiet, in_bytes=True) as progress:
        found = find_sources(args.preset, given)
        sources = fetch_sources(args.preset, found, progress)
        manifest = write(plan(args.preset, sources, dtype, progress), sources, folder, progress)
    args.written = args.out
    if args.quiet:
        return ""
    size = sum(part["bytes"] for part in manifest["components"].values())
    return (
        f"image encoders: {manifest['image_encoder']}\n"
        f"model folder: {args.out} ({size / 1e9:.2f} GB of weights)\n"
    )


def _quieten(quiet: bool) -> None:
    """Keep libraries from talking; the Hub's download bars stay, on a terminal and if not quiet."""
    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
