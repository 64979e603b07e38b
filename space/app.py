"""Serve the page: `python -m space.app`.

FINDTRACK_SPACE_MODEL names the checkpoint as `findtrack segment --model` does; without it that
command's default is taken. Limits are settings, too: see limits.py.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file, as Spaces do: the packages lie one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from space.surroundings import FILES  # isort: skip  (before Gradio)
from space.segmenter import Segmenter  # isort: skip  (before Gradio and torch, for ZeroGPU)

import gradio as gr

from modeling_findtrack.shipped import DEFAULT_MODEL
from space.download import limit_downloads
from space.limits import PREFIX, Limits
from space.look import CSS, SCRIPT, theme
from space.page import Page
from space.sweeper import Sweeper

MODEL = os.environ.get(f"{PREFIX}MODEL") or DEFAULT_MODEL


def build(model: str = DEFAULT_MODEL, device: str = "auto") -> gr.Blocks:
    """The page with its model, ready to launch.

    Raises:
        ValueError: The checkpoint cannot be loaded, or a setting makes no sense.
    """
    limits = Limits.from_environment()
    return Page(Segmenter(model, device), limits).blocks


def launch(blocks: gr.Blocks, **options) -> tuple:
    """Serve the page, with everything of ours that Gradio wants at this point."""
    limits = Limits.from_environment()
    limit_downloads(limits.max_bytes)
    Sweeper(Path(FILES.name), limits.keep_seconds, lambda: _kept_files(blocks)).start()
    return blocks.launch(
        theme=theme(),
        css=CSS,
        js=SCRIPT,
        mcp_server=True,
        max_file_size=limits.max_bytes,
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        share=False,
        ssr_mode=False,
        **options,
    )


def _kept_files(blocks: gr.Blocks) -> set[str]:
    """What the page itself shows: the videos of its examples."""
    return set().union(*(getattr(b, "keep_in_cache", ()) for b in blocks.blocks.values()))


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to 65535")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 2 with one line on stderr where it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m space.app", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", help="address to listen on (GRADIO_SERVER_NAME, or 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, help="(GRADIO_SERVER_PORT, or the first free from 7860)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    args = parser.parse_args(argv)
    # As after Ctrl-C: what lies in temporary folders goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        launch(build(MODEL, args.device), server_name=args.host, server_port=args.port)
    except (ValueError, OSError) as error:
        print(f"space.app: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
