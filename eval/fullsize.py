"""Sizes, memory and seconds of the full-size models, on the machine at hand, without their weights.

    python -m eval.fullsize [--preset sam2 paper] [--work runs/fullsize] [--dtype float16] [--keep]
                            [--device cuda --compute bfloat16 --frames 50]

For each preset, one step after the other and each in a process of its own:

1. *write* random checkpoints with the official names and shapes (`tests/golden/keys`). The image
   encoders of EVF-SAM2 and SAM 2 get the same numbers, so that the model has one for both.
2. *assemble* them, as `findtrack assemble` does.
3. *load* the folder with `trust_remote_code`, where the package cannot be imported and the Hub not
   be reached, and segment a video: *find* one sentence, *track* its mask. On a GPU, whose start
   belongs to *load*, it is segmented twice and the second time counts.

Random weights find nothing, so two settings are changed once the model is loaded: no presence is
asked for and empty masks are accepted. Whatever scores highest is tracked, with as much work as
anything else.

Seconds are wall-clock, without starting Python and loading its libraries. Peak memory is that of
the whole process, libraries and mapped files included; that of a GPU is what PyTorch allocated
there. A preset takes twice the size of its checkpoints on the disk and is deleted after it is
measured.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Nothing heavy: a process counts the memory of the one that started it as its own.
from eval.random_checkpoints import Checkpoint, official_checkpoints, write_checkpoints
from eval.report import markdown_table, one_line_errors, peak_memory, positive, write_json

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("sam2", "paper")
DTYPES = ("float16", "bfloat16", "float32")
VIDEO = (4, 480, 854)  # T, H, W
SENTENCE = "the red car on the left"
# Part -> what its parameters' names start with in the assembled model; the first that fits counts.
PARTS = {
    "finder: image encoder": ("finder.sam.vision_encoder.",),
    "finder: BEiT-3": ("finder.beit3.",),
    "finder: mask decoder": ("finder.",),
    "aligner: image tower": ("aligner.vision_model.", "aligner.visual_projection."),
    "aligner: text tower": ("aligner.",),
    "tracker: image encoder": ("tracker.sam2.vision_encoder.", "tracker.cutie.pixel_encoder."),
    "tracker: the rest": ("tracker.",),
}


@dataclass(frozen=True)
class Result:
    """What a preset took."""

    preset: str
    dtype: str  # of the checkpoints and the folder; Cutie's are float32
    video: tuple[int, int, int]  # T, H, W
    candidates: int  # frames looked at
    device: str  # "cpu", or a GPU's name
    compute: str  # dtype
    threads: int
    image_encoder: str  # in words, whether finder and tracker share it
    parameters: dict[str, int]  # by `PARTS`
    gigabytes: dict[str, float]  # checkpoints, folder: on disk
    seconds: dict[str, float]  # write, assemble, load, find, track
    peak_gigabytes: dict[str, float]  # assemble, load, segment: memory; gpu: load and segment
    areas: list[float]  # T, shares of the frames that the masks cover

    @property
    def total(self) -> int:
        """Parameters in all."""
        return sum(self.parameters.values())


def measure(
    preset: str,
    folder: Path,
    dtype: str = DTYPES[0],
    checkpoints: dict[str, Checkpoint] | None = None,
    video: tuple[int, int, int] = VIDEO,
    device: str = "cpu",
    compute: str = "float32",
) -> Result:
    """Write, assemble, load, segment.

    Args:
        preset: "sam2" or "paper".
        folder: Where everything is written; it must be empty.
        dtype: Of the checkpoints.
        checkpoints: Others than those of full size.
        video: T, H, W.
        device: "cpu" or "cuda".
        compute: The dtype of the model there.

    Raises:
        ValueError: The disk is too small, or a step failed, which has told why on stderr.
    """
    checkpoints = checkpoints or official_checkpoints(preset)
    size = 2 if dtype != "float32" else 4
    needed = 2 * size * sum(math.prod(s) for c in checkpoints.values() for s in c.shapes.values())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise ValueError(
            f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free; make "
            "room or choose another --work"
        )
    official, model = folder / "official", folder / "model"
    _say(f"{preset}: writing random checkpoints of {needed / 2e9:.1f} GB")
    written = _apart(
        write_checkpoints,
        folder=str(official),
        checkpoints={option: asdict(checkpoint) for option, checkpoint in checkpoints.items()},
        dtype=dtype,
    )
    _say(f"{preset}: assembling")
    sources = {option: str(official / option) for option in checkpoints}
    assembled = _apart(assemble, preset=preset, sources=sources, out=str(model))
    _say(f"{preset}: loading and segmenting")
    run = _apart(
        segment,
        folder=str(model),
        modules=str(folder / "modules"),
        video=video,
        device=device,
        compute=compute,
    )
    manifest = json.loads((model / "findtrack_manifest.json").read_text(encoding="utf-8"))
    return Result(
        preset=preset,
        dtype=dtype,
        video=video,
        candidates=run["candidates"],
        device=run["device"],
        compute=run["compute"],
        threads=run["threads"],
        image_encoder=manifest["image_encoder"],
        parameters=run["parameters"],
        gigabytes={"checkpoints": _gigabytes(official), "folder": _gigabytes(model)},
        seconds={**written["seconds"], **assembled["seconds"], **run["seconds"]},
        peak_gigabytes={**assembled["peak"], **run["peak"]},
        areas=run["areas"],
    )


def _gigabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


_CALL = """
import json, sys
from eval import fullsize
result = getattr(fullsize, sys.argv[1])(**json.load(sys.stdin))
print(json.dumps(result))
"""


def _apart(step: Callable, **arguments):
    """Call a function of this file in a process of its own, so that memory is measured alone."""
    process = subprocess.run(
        [sys.executable, "-c", _CALL, step.__name__],
        input=json.dumps(arguments),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    if process.returncode:
        killed = "; it was killed, perhaps for want of memory" if process.returncode == -9 else ""
        raise ValueError(f"{step.__name__}: exit status {process.returncode}{killed}")
    return json.loads(process.stdout.splitlines()[-1])


# ---- step 2: assemble ----------------------------------------------------------------------------


def assemble(preset: str, sources: dict[str, str], out: str) -> dict:
    """Run `findtrack assemble`.

    Raises:
        SystemExit: It failed, and has told why.
    """
    # What it loads when it is needed is not counted as its time.
    import modeling_findtrack.assemble  # noqa: F401
    from modeling_findtrack import cli

    options = [word for name, path in sources.items() for word in (f"--{name}", path)]
    start = time.perf_counter()
    if status := cli.main(["assemble", "--preset", preset, "--out", out, *options]):
        raise SystemExit(status)
    return {
        "seconds": {"assemble": time.perf_counter() - start},
        "peak": {"assemble": peak_memory() / 1e9},
    }


# ---- step 3: load and segment --------------------------------------------------------------------


def segment(
    folder: str, modules: str, video: Sequence[int], device: str = "cpu", compute: str = "float32"
) -> dict:
    """Load a model folder by its own code and segment a video with it.

    Args:
        folder: Written by `assemble`.
        modules: Where transformers shall copy that code.
        video: T, H, W.
        device: "cpu" or "cuda".
        compute: The dtype of the model there.

    Raises:
        ValueError: The folder does not fill the model, or what comes out is no answer.
    """
    sys.modules["modeling_findtrack"] = None  # importing it fails, as where it is not installed
    os.environ |= {"HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1"}
    import torch
    from transformers import AutoModel, AutoProcessor
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    start = time.perf_counter()
    model, loading = AutoModel.from_pretrained(
        folder, trust_remote_code=True, dtype=getattr(torch, compute), output_loading_info=True
    )
    model.to(device)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    loaded, peak_loaded = time.perf_counter(), peak_memory() / 1e9
    if wrong := {k: sorted(map(str, v)) for k, v in loading.items() if v}:
        raise ValueError(f"{folder} does not fill the model: {wrong}")

    model.config.presence_threshold, model.config.accept_empty_masks = None, True
    frames, ended = moving_blob(*video), {}

    def progress(stage: str, done: int, total: int) -> None:
        ended[stage] = time.perf_counter()
        _say(f"{stage} {done}/{total}")

    for _ in range(1 if device == "cpu" else 2):
        start_segment = time.perf_counter()
        (track,) = model.segment(frames, SENTENCE, processor=processor, progress=progress)
    scores = [candidate.score for candidate in track.candidates]
    if not (track.found and all(map(math.isfinite, scores)) and len(track.masks) == video[0]):
        raise ValueError(f"no answer: found {track.found}, {scores}, {len(track.masks)} masks")
    return {
        "candidates": len(track.candidates),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "compute": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": parameters(model),
        "seconds": {
            "load": loaded - start,
            "find": ended["find"] - start_segment,
            "track": ended["track"] - ended["find"],
        },
        "peak": {
            "load": peak_loaded,
            "segment": peak_memory() / 1e9,
            "gpu": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0,
        },
        "areas": [float(area) / (video[1] * video[2]) for area in track.masks.areas()],
    }


def parameters(model) -> dict[str, int]:
    """Numbers in each of `PARTS`, buffers left out."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        counts[part] += parameter.numel()
    return counts


def moving_blob(frames: int, height: int, width: int):
    """(T, H, W, 3) uint8: a bright disk drifts over noise."""
    import numpy as np

    video = np.random.default_rng(0).integers(0, 90, (frames, height, width, 3), dtype=np.uint8)
    y, x = np.ogrid[:height, :width]
    for t in range(frames):
        disk = np.hypot(y - height / 2, x - width * ((0.3 + 0.05 * t) % 1)) < height / 5
        video[t, disk] = (250, 60, 40)
    return video


def gpu_available() -> bool:
    """Whether PyTorch can use one."""
    import torch

    return torch.cuda.is_available()


# ---- the command ---------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """Markdown, one column per preset."""
    rows = [[f"{part}, M", *(_number(r.parameters[part] / 1e6) for r in results)] for part in PARTS]
    rows.append(["parameters, M", *(_number(r.total / 1e6) for r in results)])
    first = results[0]
    steps = {
        "checkpoints, GB": [r.gigabytes["checkpoints"] for r in results],
        "model folder, GB": [r.gigabytes["folder"] for r in results],
        "assemble, s": [r.seconds["assemble"] for r in results],
        "assemble, GB of memory": [r.peak_gigabytes["assemble"] for r in results],
        "load, s": [r.seconds["load"] for r in results],
        "load, GB of memory": [r.peak_gigabytes["load"] for r in results],
        f"find on {first.candidates} frames, s": [r.seconds["find"] for r in results],
        f"track {first.video[0]} frames, s": [r.seconds["track"] for r in results],
        "find and track, GB of memory": [r.peak_gigabytes["segment"] for r in results],
    }
    if any(on_gpu := [r.peak_gigabytes["gpu"] for r in results]):
        steps["find and track, GB on the GPU"] = on_gpu
    rows += [[name, *map(_number, values)] for name, values in steps.items()]
    return markdown_table(["", *(r.preset for r in results)], rows)


def _number(value: float) -> str | None:
    """One decimal; a part that is not there has none."""
    return f"{value:.1f}" if value else None


def _say(text: str) -> None:
    """Tell how far it is, on a terminal only."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


@one_line_errors("eval.fullsize")
def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when done, 2 if a step failed or its room is taken."""
    parser = argparse.ArgumentParser(prog="python -m eval.fullsize", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--preset", choices=PRESETS, nargs="+", default=PRESETS, help="(both)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/fullsize"),
        metavar="DIR",
        help="where all is written, in the end PRESET.json (%(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="of the stored weights (%(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--compute", choices=DTYPES, default="float32", help="dtype of the model (%(default)s)"
    )
    parser.add_argument(
        "--frames", type=positive, default=VIDEO[0], metavar="T", help="of the video (%(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="do not delete checkpoints and models")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not _apart(gpu_available):
        raise ValueError("device cuda: not available here; use --device cpu")
    video = (args.frames, *VIDEO[1:])
    results = []
    for preset in args.preset:
        folder = (args.work / preset).resolve()
        folder.mkdir(parents=True)  # an earlier one is not ours to delete
        try:
            results.append(
                measure(
                    preset,
                    folder,
                    args.dtype,
                    video=video,
                    device=args.device,
                    compute=args.compute,
                )
            )
        finally:
            if not args.keep:
                shutil.rmtree(folder)
        write_json(args.work / f"{preset}.json", asdict(results[-1]))
    frames, height, width = video
    first = results[0]
    print(
        f"random weights stored in {args.dtype}, computing in {first.compute} on {first.device}, "
        f"with {first.threads} threads of the CPU"
    )
    print(f"{frames} frames of {width}x{height}, 1 sentence\n")
    print(table(results))
    for result in results:
        print(f"\n{result.preset}: image encoder: {result.image_encoder}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing large stays behind
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
