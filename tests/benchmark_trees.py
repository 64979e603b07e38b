"""Small trees of every benchmark: real image files of moving shapes, whose masks are known exactly.

Each `make_*` writes a whole tree and returns its root. The clips are in `CLIPS`; `Clip.masks` are
the shapes as drawn, so a test can compare them with what a loader decodes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = (48, 64)  # (H, W) of every frame
COLOURS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (50, 80, 230)}
WORDS = {1: "red square", 2: "green disk", 3: "blue bar"}


@dataclass(frozen=True)
class Clip:
    """A video of up to three shapes; where they overlap, the higher number is in front."""

    name: str
    frames: tuple[str, ...]  # T names without suffix
    shift: int  # pixels by which all shapes are moved to the right
    objects: tuple[int, ...] = (1, 2)

    def masks(self) -> dict[int, np.ndarray]:
        """Object -> (T, H, W) bool, overlapping; the disk is gone in the last frame and the bar
        comes in the second."""
        T = len(self.frames)
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        x = x - self.shift
        shapes = {n: np.zeros((T, *SIZE), dtype=bool) for n in self.objects}
        for t in range(T):
            drawn = {
                1: (abs(y - 16) < 9) & (abs(x - 14 - 3 * t) < 9),
                2: ((y - 26) ** 2 + (x - 30) ** 2 < 121) & (t < T - 1),
                3: (y >= 38) & (y < 44) & (x >= 6 + 2 * t) & (x < 46 + 2 * t) & (t > 0),
            }
            for n in self.objects:
                shapes[n][t] = drawn[n]
        return shapes

    def labels(self) -> np.ndarray:
        """(T, H, W) uint8: the number of the shape in front, 0 where there is none."""
        labels = np.zeros((len(self.frames), *SIZE), dtype=np.uint8)
        for n, mask in sorted(self.masks().items()):
            labels[mask] = n
        return labels


def _clip(name: str, length: int, shift: int, step: int = 1, objects=(1, 2)) -> Clip:
    return Clip(name, tuple(f"{step * t:05d}" for t in range(length)), shift, objects)


# By benchmark and split. The frames of Ref-YouTube-VOS are numbered in steps of five.
CLIPS: dict[tuple[str, str], tuple[Clip, ...]] = {
    ("ref-youtube-vos", "train"): (
        _clip("0a1b2c3d4e", 4, 0, 5),
        _clip("1b2c3d4e5f", 5, 4, 5, (1, 2, 3)),
    ),
    ("ref-youtube-vos", "valid"): (
        _clip("2c3d4e5f60", 5, 1, 5),
        _clip("3d4e5f6071", 4, 6, 5, (1, 2, 3)),
    ),
    ("ref-youtube-vos", "test"): (_clip("4e5f607182", 4, 2, 5),),
    ("ref-davis17", "train"): (_clip("classic-car", 4, 0),),
    ("ref-davis17", "valid"): (_clip("blocks", 5, 2), _clip("shapes", 4, 5, 1, (1, 2, 3))),
    ("mevis", "train"): (_clip("0ab4afe7fb46", 4, 3),),
    ("mevis", "valid_u"): (
        _clip("1bc5b0f80c57", 5, 0, 1, (1, 2, 3)),
        _clip("2cd6c1091d68", 4, 6),
    ),
    ("mevis", "valid"): (_clip("3de7d21a2e79", 4, 1),),
    ("mevis", "test"): (_clip("4ef8e32b3f8a", 4, 2),),
    ("ref-sprites", "valid"): (
        _clip("5f09f43c409b", 5, 0),
        _clip("601a054d51ac", 4, 4, 1, (1, 2, 3)),
    ),
}


def make_ref_youtube_vos(root: Path) -> Path:
    """Splits train, valid and test. `valid/Annotations` is there, and the file that says which
    object an expression of valid is about: `object_ids=root / "object_ids.json"`."""
    root = Path(root)
    known = {}
    for split in ("train", "valid", "test"):
        clips = CLIPS["ref-youtube-vos", split]
        for clip in clips:
            write_frames(root / split / "JPEGImages" / clip.name, clip)
            if split != "test":
                write_labels(root / split / "Annotations" / clip.name, clip)
        known[split] = {
            c.name: {"expressions": _one_by_one(c), "frames": list(c.frames)} for c in clips
        }
        videos = known[split] if split != "valid" else known["valid"] | _test_videos()
        meta = root / "meta_expressions" / split / "meta_expressions.json"
        write_json(meta, {"videos": videos if split == "train" else without_objects(videos)})
    categories = {
        c.name: {"objects": {str(n): {"category": WORDS[n]} for n in c.objects}}
        for c in CLIPS["ref-youtube-vos", "train"]
    }
    write_json(root / "train" / "meta.json", {"videos": categories})
    write_json(root / "object_ids.json", {"videos": known["valid"]})
    return root


def _one_by_one(clip: Clip) -> dict:
    """Expressions about one object each; ids have gaps and are not in order."""
    entries = {"10": {"exp": f"a {WORDS[1]} going right", "obj_id": "1"}}
    for n in clip.objects:
        entries[str(2 * n - 2)] = {"exp": f"the {WORDS[n]}", "obj_id": str(n)}
    return entries


def _test_videos() -> dict:
    clips = CLIPS["ref-youtube-vos", "test"]
    return {c.name: {"expressions": _one_by_one(c), "frames": list(c.frames)} for c in clips}


def without_objects(videos: dict) -> dict:
    """The videos of a meta file as published where masks are not: no `obj_id`, no `anno_id`."""
    hidden = {}
    for name, video in videos.items():
        entries = {i: {"exp": e["exp"]} for i, e in video["expressions"].items()}
        hidden[name] = video | {"expressions": entries}
    return hidden


DAVIS_TEXTS = (  # file, annotator and style, encoding
    ("Davis17_annot1.txt", "first of one", "utf-8"),
    ("Davis17_annot1_full_video.txt", "full of one", "utf-8"),
    ("Davis17_annot2.txt", "first of two", "latin-1"),
    ("Davis17_annot2_full_video.txt", "full of two", "latin-1"),
)


def make_ref_davis17(root: Path) -> Path:
    """The unzipped DAVIS files and the four text files, with their encodings and a known typo.

    The unsupervised annotations have void pixels (255) in the two leftmost columns. In those of
    2017 objects 1 and 2 have each other's numbers, so that it shows which were read.
    """
    root = Path(root)
    davis = root / "DAVIS"
    lines = []
    for split, listed in (("train", "train"), ("valid", "val")):
        clips = CLIPS["ref-davis17", split]
        for clip in clips:
            write_frames(davis / "JPEGImages/480p" / clip.name, clip)
            labels = clip.labels()
            labels[:, :, :2] = 255
            write_labels(davis / "Annotations_unsupervised/480p" / clip.name, clip, labels)
            swapped = np.array([0, 2, 1, 3], dtype=np.uint8)[clip.labels()]
            write_labels(davis / "Annotations/480p" / clip.name, clip, swapped)
            lines += [(clip.name.replace("classic", "clasic"), n) for n in clip.objects]
        sets = davis / "ImageSets/2017" / f"{listed}.txt"
        sets.parent.mkdir(parents=True, exist_ok=True)
        sets.write_text("".join(f"{c.name}\n" for c in clips))
    texts = root / "davis_text_annotations"
    texts.mkdir()
    for name, style, encoding in DAVIS_TEXTS:
        text = "".join(f'{video} {n} "a {WORDS[n]}, café, {style}"\n' for video, n in lines)
        (texts / name).write_bytes(text.encode(encoding))
    return root


def make_mevis(root: Path, v2: bool = True) -> Path:
    """All four splits, masks for train and valid_u, each version by its own file names; v2 has
    expressions without a target too."""
    root = Path(root)
    for split in ("train", "valid_u", "valid", "test"):
        clips = CLIPS["mevis", split]
        videos, masks = mevis_split(root / split, clips, no_target=v2)
        if split in ("valid", "test"):
            videos = without_objects(videos)
        else:
            write_json(root / split / "mask_dict.json", masks)
        write_json(root / split / mevis_meta(split, v2), {"videos": videos})
    return root


def mevis_meta(split: str, v2: bool = True) -> str:
    """Name of the file of expressions in the release."""
    release = split == "test" or (v2 and split == "valid")
    return f"meta_expressions{'_v2' * v2}{'_release' * release}.json"


def mevis_split(folder: Path, clips: tuple[Clip, ...], no_target: bool) -> tuple[dict, dict]:
    """Write the frames of one split; its videos and masks as they go into the JSON files."""
    videos, masks = {}, {}
    for vid_id, clip in enumerate(clips):
        write_frames(folder / "JPEGImages" / clip.name, clip)
        for n, shape in clip.masks().items():
            masks[str(anno_id(vid_id, n))] = [rle(m) if m.any() else None for m in shape]

        def entry(text, *objects, vid_id=vid_id):
            ids = [anno_id(vid_id, n) for n in objects]
            return {"exp": text, "obj_id": [n - 1 for n in objects], "anno_id": ids}

        expressions = {
            "10": entry(f"all {len(clip.objects)} shapes", *clip.objects),
            **{str(n - 1): entry(f"the {WORDS[n]}", n) for n in clip.objects},
        }
        if no_target:
            expressions["5"] = entry("the yellow cat")
        videos[clip.name] = {
            "expressions": expressions,
            "vid_id": vid_id,
            "frames": list(clip.frames),
        }
    return videos, masks


def anno_id(vid_id: int, n: int) -> int:
    """Key in mask_dict.json of object `n` of the video that is number `vid_id` of its split."""
    return 17 + 10 * vid_id + n


def make_ref_sprites(root: Path) -> Path:
    """Split valid: MeViS with what Ref-Sprites knows beyond it."""
    root = Path(root)
    clips = CLIPS["ref-sprites", "valid"]
    videos, masks = mevis_split(root / "valid", clips, no_target=True)
    kinds = {"0": "noun", "1": "position", "2": "motion-only", "5": "no-target", "10": "relation"}
    for vid_id, clip in enumerate(clips):
        video = videos[clip.name]
        for exp_id, entry in video["expressions"].items():
            art = ("noto", "fluent3d")[vid_id] if entry["anno_id"] else None
            entry |= {"kind": kinds[exp_id], "noun": entry["exp"].split()[-1], "art": art}
        objects = [{"noun": WORDS[n], "anno_id": anno_id(vid_id, n)} for n in clip.objects]
        video |= {"height": SIZE[0], "width": SIZE[1], "fps": 12, "background": "noise"}
        video |= {"heldout_art": vid_id == 1, "heldout_background": False, "objects": objects}
    write_json(root / "valid" / "mask_dict.json", masks)
    write_json(root / "valid" / "meta_expressions.json", {"videos": videos})
    return root


def write_truth(benchmark, folder: Path) -> None:
    """The truth of every expression of a benchmark, written as its predictions would be:
    `folder/<video>/<exp_id>/<frame>.png`, 8-bit grey, 0 or 255."""
    from eval.benchmarks.base import decode_mask

    for video in benchmark.videos:
        for row in benchmark.rows(video):
            out = Path(folder) / video / row["exp_id"]
            out.mkdir(parents=True)
            for t, name in enumerate(row["frame_names"]):
                mask = decode_mask(row, t).astype(np.uint8) * 255
                Image.fromarray(mask).save(out / f"{name}.png")


def write_frames(folder: Path, clip: Clip) -> None:
    """One JPEG per frame: the shapes on a grey ramp."""
    folder.mkdir(parents=True)
    for name, labels in zip(clip.frames, clip.labels(), strict=True):
        image = np.empty((*SIZE, 3), dtype=np.uint8)
        image[:] = np.linspace(90, 150, SIZE[1], dtype=np.uint8)[:, None]
        for n, colour in COLOURS.items():
            image[labels == n] = colour
        Image.fromarray(image).save(folder / f"{name}.jpg", quality=90)


def write_labels(folder: Path, clip: Clip, labels: np.ndarray | None = None) -> None:
    """One palette PNG per frame whose pixels are object numbers: `labels`, or as drawn."""
    folder.mkdir(parents=True)
    for name, pixels in zip(clip.frames, clip.labels() if labels is None else labels, strict=True):
        image = Image.fromarray(pixels).convert("P")
        # All 256 entries: with a shorter palette Pillow saves fewer bits per pixel and 255 is lost.
        image.putpalette([c for n in range(256) for c in COLOURS.get(n, (n, n, n))])
        image.save(folder / f"{name}.png")


def rle(mask: np.ndarray) -> dict:
    """(H, W) bool -> compressed COCO RLE as it is written to JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def write_json(path: Path, value) -> None:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, change) -> None:
    """Rewrite a JSON file after `change` was applied to its content in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    write_json(path, value)
