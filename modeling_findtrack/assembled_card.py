"""The model card of an assembled model."""

from collections.abc import Mapping
from typing import Any

from .presets import MANIFEST

_WHAT = {
    "sam2": "EVF-SAM2 finds, Alpha-CLIP judges, SAM 2 tracks. Settings are the sound ones.",
    "paper": "EVF-SAM finds, Alpha-CLIP judges, Cutie tracks, with the settings of the paper's "
    "code, its quirks included.",
}


def model_card(manifest: Mapping[str, Any]) -> str:
    """A card with sources, licences and sizes.

    Args:
        manifest: What `assemble.write` makes.
    """
    preset = manifest["preset"]
    sources = [
        f"| `{option}` | {source['role']} | {source['name']}"
        f"{'@' + source['revision'][:12] if source['revision'] else ''} | {source['licence']} |"
        for option, source in manifest["sources"].items()
    ]
    components = [
        f"| {name} | {part['tensors']} | {part['parameters'] / 1e6:.1f} M | "
        f"{', '.join(part['dtypes'])} |"
        for name, part in manifest["components"].items()
    ]
    newline = "\n"
    return f"""---
license: other
license_name: research-only
library_name: transformers
pipeline_tag: mask-generation
tags:
- referring-video-object-segmentation
- video-segmentation
- custom_code
language:
- en
---

# FindTrack, preset `{preset}`

A video and a sentence in, one mask per frame out: *find* the object on a few sampled frames,
*track* the best mask through the video. The method of
[Find First, Track Next](https://arxiv.org/abs/2503.03492). {_WHAT[preset]}

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(PATH_OR_ID, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(PATH_OR_ID, trust_remote_code=True)
tracks = model.segment("clip.mp4", ["the panda on the left"], processor=processor)
```

## Made of

Converted by `findtrack assemble`, which trains nothing.

| option | role | from | licence |
|---|---|---|---|
{newline.join(sources)}

| component | tensors | numbers | stored as |
|---|---|---|---|
{newline.join(components)}

Image encoders: {manifest["image_encoder"]}. File hashes and versions are in `{MANIFEST}`.

## Licences

The code is Apache-2.0. The weights keep their authors' terms, listed above; together they may be
used for research only, because of Alpha-CLIP. Weights trained on MeViS are CC BY-NC-SA 4.0. The
authors of FindTrack ask for non-commercial research use. With `aligner="none"` in the config key
frames are ranked by predicted IoU alone, and Alpha-CLIP's weights are not used.
"""
