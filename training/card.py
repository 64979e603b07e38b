"""The model card of a trained checkpoint: what it came from, how it was trained, how it does."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from eval.conventions import PER_EXPRESSION
from eval.report import markdown_table, write_text
from modeling_findtrack.cli import model_name

from .wording import counted, duration

CARD, PICTURE = "README.md", "training.png"
BEGIN, END = "<!-- training: begin -->", "<!-- training: end -->"
TITLE = "# FindTrack, fine-tuned"  # of a card made from scratch
TASK = "mask-generation"
TAGS = ("referring-video-object-segmentation", "video-segmentation")
SCORES = {  # of the model index: as validation names them -> type and whole name
    "J&F": ("j_and_f", "J&F"),
    "J": ("jaccard", "J (region similarity)"),
    "F": ("boundary_f", "F (boundary accuracy)"),
}
TITLES = {  # of the benchmarks, as people write them
    "ref-youtube-vos": "Ref-YouTube-VOS",
    "ref-davis17": "Ref-DAVIS17",
    "mevis": "MeViS",
    "ref-sprites": "Ref-Sprites",
    "video-folder": "Video folder",
}
MEVIS_LICENCE = "cc-by-nc-sa-4.0"
BAR = r"\|"  # in a table's cell
_LICENCE_KEYS = ("license", "license_name", "license_link")
_FRONT_MATTER = re.compile(r"\A\s*---\n")


@dataclass(frozen=True)
class RunFacts:
    """What a card tells of a run."""

    base_model: str  # folder or Hub id the run started from
    config_name: str  # of `training/configs`, with or without ".yaml"
    benchmark: str  # validated on; a name of `eval.benchmarks`
    split: str | None  # of it; None without validation
    train_data: list[str]  # names; one that names MeViS decides the licence
    steps: int  # optimiser steps
    epochs: float
    samples: int  # seen, repetitions counted
    global_batch: int  # samples per optimiser step, over all processes
    processes: int
    precision: str  # "bf16", "fp16" or "no", as accelerate names it
    learning_rate: float  # highest
    trained_parts: list[str]  # of the model, e.g. "finder"
    trained_parameters: int
    seconds: float  # of training, wall time
    losses: dict[str, float]  # at the end, by name, unweighted; "total" is their weighted sum
    validation: dict | None  # of the weights in the folder: a "validation" of log.jsonl
    best_step: int | None  # that those weights are of; None: of the last step
    command: str  # that started the run
    versions: dict[str, str]  # of packages


def write_card(folder: str | Path, facts: RunFacts) -> Path:
    """Write or renew the model card of a checkpoint; writing it twice changes nothing.

    The text of the folder's card, else of the base model's, is kept. In it the section between
    BEGIN and END is replaced; where there is none it is put before the first other section. With no
    card to start from a short one is made. Nothing is asked of the Hub.

    Args:
        folder: The checkpoint's. Its `training.png` is shown if it is there.
        facts: What to tell.

    Returns:
        The path of the card.

    Raises:
        OSError: A card cannot be read or written.
        ValueError: A card to start from has no readable front matter, or half a section.
    """
    folder = Path(folder)
    own = _read(folder / CARD)
    base = _read(Path(facts.base_model) / CARD) if _is_local(facts.base_model) else None
    kept = own or base
    before, after = _around(kept.text if kept else TITLE, folder / CARD)
    data = _front_matter(facts, own, base)
    more = bool(after) or before != TITLE.strip()
    section = _section(facts, data, base, more, (folder / PICTURE).is_file())
    body = "\n\n".join(filter(None, (before, section, after)))
    write_text(folder / CARD, f"---\n{data.to_yaml()}\n---\n\n{body}\n")
    return folder / CARD


def _read(path: Path) -> ModelCard | None:
    """A card on disk; None if there is none."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8-sig")
    if not _FRONT_MATTER.match(text):
        text = f"---\n{{}}\n---\n{text}"
    try:
        return ModelCard(text, ignore_metadata_errors=True)
    except Exception as error:  # YAML's own, and whatever odd values bring up in the Hub's classes
        raise ValueError(f"the front matter of {path} cannot be read: {error}") from error


def _is_local(base_model: str) -> bool:
    return Path(base_model).is_dir()


def _hub_id(base_model: str) -> str | None:
    """The name, if it can be the Hub's; a folder `a/b` is no model `b` of user `a`."""
    if _is_local(base_model):
        return None
    try:
        validate_repo_id(base_model)
    except HFValidationError:
        return None
    return base_model


def _front_matter(facts: RunFacts, own: ModelCard | None, base: ModelCard | None) -> ModelCardData:
    """The kept card's with what this run changes. Its results were of other weights: dropped."""
    kept = own or base
    fields = kept.data.to_dict() if kept else {}
    fields = {k: v for k, v in fields.items() if k not in ("model-index", "model_name")}
    if hub_id := _hub_id(facts.base_model):  # else the base model's own ancestors stay
        fields["base_model"] = hub_id
    # The base model's licence before the card's own, which an earlier run may have set.
    source = base if base and base.data.get("license") else own
    licence = {key: source.data.get(key) for key in _LICENCE_KEYS} if source else {}
    fields |= licence | ({"license": MEVIS_LICENCE} if _on_mevis(facts) else {})
    if fields.get("license") == MEVIS_LICENCE:
        fields |= {"license_name": None, "license_link": None}
    tags = fields.pop("tags", None) or []
    tags = [tags] if isinstance(tags, str) else tags
    fields |= {"library_name": "transformers", "pipeline_tag": TASK, "tags": [*tags, *TAGS]}
    results = _results(facts)
    name = f"findtrack-{Path(facts.config_name).name.removesuffix('.yaml')}" if results else None
    return ModelCardData(**fields, eval_results=results or None, model_name=name)


def _on_mevis(facts: RunFacts) -> bool:
    return any("mevis" in name.lower() for name in facts.train_data)


def _results(facts: RunFacts) -> list[EvalResult]:
    """J&F, J and F for the model index, as fractions."""
    scores = facts.validation or {}
    benchmark, split, convention = _validated_on(facts)
    counts = {key: scores[key] for key in ("videos", "expressions") if scores.get(key) is not None}
    return [
        EvalResult(
            task_type=TASK,
            task_name="Referring video object segmentation",
            dataset_type=benchmark,
            dataset_name=TITLES.get(benchmark, benchmark),
            dataset_split=split,
            dataset_args=counts or None,
            metric_type=type_,
            metric_name=name,
            metric_value=round(float(scores[key]), 4),
            metric_args={"convention": convention},
        )
        for key, (type_, name) in SCORES.items()
        if scores.get(key) is not None
    ]


def _validated_on(facts: RunFacts) -> tuple[str, str | None, str]:
    """Benchmark, split and convention of the validation."""
    scores = facts.validation or {}
    return (
        scores.get("benchmark", facts.benchmark),
        scores.get("split", facts.split),
        scores.get("convention", PER_EXPRESSION),
    )


def _around(text: str, path: Path) -> tuple[str, str]:
    """What stands before and after the section, or before and after where it belongs."""
    if BEGIN not in text and END not in text:
        at = _first_section(text)
        return text[:at].strip(), text[at:].strip()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or END in before:
        raise ValueError(
            f"{path}, or the base model's card it comes from, wants one {BEGIN} with one {END} "
            "after it, or neither: repair it"
        )
    return before.strip(), after.strip()


def _first_section(text: str) -> int:
    """Where the first "## " heading starts that is not inside a code block; else the end."""
    at, fence = 0, ""
    for line in text.splitlines(keepends=True):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" `~\n"):
            fence = ""
        elif not fence and line.startswith("## "):
            return at
        at += len(line)
    return len(text)


def _section(
    facts: RunFacts, data: ModelCardData, base: ModelCard | None, more: bool, picture: bool
) -> str:
    """The section on the run, with its marks.

    Args:
        facts: Of the run.
        data: The front matter.
        base: Card of the base model, if there is one.
        more: Whether the card says more than this section.
        picture: Whether there is one.
    """
    parts = [BEGIN, "## Fine-tuning", _introduction(facts, more), _fact_table(facts)]
    if picture:
        parts.append(f"![training]({PICTURE})")
    if facts.losses:
        losses = [(name, float(value)) for name, value in facts.losses.items()]
        parts.append(markdown_table(("loss at the end (total: weighted)", ""), losses))
    parts += [
        *_validation(facts),
        "### Command",
        _fenced(facts.command, "sh"),
        "### Use",
        "With FOLDER for this folder, or its name on the Hub:",
        _fenced('findtrack segment clip.mp4 "the panda on the left" --model FOLDER', "sh"),
        "### Licence",
        _licence(facts, data, base),
        END,
    ]
    return "\n\n".join(parts)


def _introduction(facts: RunFacts, more: bool) -> str:
    text = (
        f"These weights are {_code(_base_name(facts))}, trained further on "
        f"{', '.join(map(_code, facts.train_data)) or 'data that has no name'}."
    )
    if more:
        text += (
            " **What this card says outside of this section is about the model they started "
            "from**: its numbers, its training and its limits are not measured again."
        )
    return text


def _base_name(facts: RunFacts) -> str:
    """As given, but no absolute path: it tells of the machine, not of the model."""
    name = model_name(facts.base_model)
    return Path(name).name if Path(name).is_absolute() else name


def _fact_table(facts: RunFacts) -> str:
    batch = f"{facts.global_batch}" + (
        f", over {facts.processes} processes" if facts.processes > 1 else ", in one process"
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    seen = f"{counted(float(facts.epochs), 'epoch')}, {counted(facts.samples, 'sample')}"
    rows = [
        ("base model", _code(_base_name(facts))),
        ("config", _code(facts.config_name)),
        ("training data", ", ".join(map(_code, facts.train_data)) or "not named"),
        ("trained", f"{', '.join(facts.trained_parts)}: {_millions(facts.trained_parameters)}"),
        ("steps", f"{facts.steps:,} ({seen})"),
        ("samples per step", batch),
        ("learning rate, highest", f"{facts.learning_rate:g}"),
        ("precision", {"no": "float32"}.get(facts.precision, facts.precision)),
        ("time", duration(facts.seconds)),
        ("versions", versions),
    ]
    if facts.best_step is not None:
        rows.insert(5, ("weights of", f"step {facts.best_step:,}, the best of the validation"))
    lines = [f"| {name} | {text.replace('|', BAR)} |" for name, text in rows if text]
    return "\n".join(["| run | |", "|---|---|", *lines])


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M parameters" if count >= 10_000 else f"{count:,} parameters"


def _validation(facts: RunFacts) -> list[str]:
    """The numbers, and what they are."""
    scores = facts.validation
    if scores is None:
        return ["Not validated: how well these weights do is not known."]
    benchmark, split, convention = _validated_on(facts)
    names = ("J&F", "J", "F", "N-acc", "T-acc")
    rows = [(name, float(scores[name])) for name in names if scores.get(name) is not None]
    which = " ".join(filter(None, (TITLES.get(benchmark, benchmark), split)))
    counts = ", ".join(
        counted(scores[noun + "s"], noun)
        for noun in ("video", "expression")
        if scores.get(noun + "s")
    )
    told = f"On {which}" + (f" ({counts})" if counts else "") + ", 0 to 1. "
    told += f"The convention is `{convention}`"
    if convention == PER_EXPRESSION:
        told += (
            ": every sentence on its own, all frames, mean over the sentences that have a target; "
            "not comparable with `davis-unsupervised` numbers"
        )
    told += "."
    if {"N-acc", "T-acc"} & {name for name, _ in rows}:
        told += (
            " N-acc: sentences without a target that are answered with empty masks; "
            "T-acc: the others that are not."
        )
    if facts.best_step is not None:
        told += " The best step was chosen by these very numbers, so they flatter a little."
    return [markdown_table(("validation", "score"), rows), told]


def _licence(facts: RunFacts, data: ModelCardData, base: ModelCard | None) -> str:
    """What training data does to the licence, and what that means here."""
    rule = (
        "Training data can bind weights: MeViS is published under CC BY-NC-SA 4.0, and "
        "weights trained on it come under the same terms: attribution, no commercial use, share "
        "alike."
    )
    inherited = base.data.get("license_name") or base.data.get("license") if base else None
    if isinstance(inherited, list):
        inherited = ", ".join(inherited)
    if _on_mevis(facts):
        text = (
            f"{rule} MeViS is among the data of this run, hence `license: {MEVIS_LICENCE}` above, "
            "whatever else this card says."
        )
        if inherited and inherited != MEVIS_LICENCE:
            return f"{text} The terms of the model it started from (`{inherited}`) hold beside it."
        return text
    if inherited:
        return (
            f"{rule} This run used none, by the names of its data, and the licence is that of the "
            f"model it started from: `{inherited}`."
        )
    if stated := data.get("license"):
        return f"{rule} This run used none, by the names of its data. The licence is `{stated}`."
    return (
        f"{rule} This run used none, by the names of its data. The model it started from has no "
        "card here that names a licence: look its terms up before you pass these weights on."
    )


def _code(text: str) -> str:
    """Text in code style, on one line."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{ticks}{space}{' '.join(text.split())}{space}{ticks}"


def _fenced(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"
