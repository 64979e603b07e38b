"""The end of a run: curves, and model cards for its last and best checkpoint."""

from importlib.metadata import version

from . import engine
from .card import RunFacts, write_card
from .plot import plot

PICTURE = "training.png"
_PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "datasets")


def finish_run(session) -> None:
    """Write `training.png` and the cards of a `Session` that has trained to its end."""
    folder = session.folder
    picture = folder.path / PICTURE
    plot([folder.path], picture, session.name)
    best = folder.best()
    for link in ("last", "best"):
        place = folder.path / link
        step = int(place.resolve().name.removeprefix("step-"))
        chosen = best is not None and best[0] == step
        (place / PICTURE).write_bytes(picture.read_bytes())
        write_card(place, _facts(session, step, chosen))


def _facts(session, step: int, is_best: bool) -> RunFacts:
    config, folder = session.config, session.folder
    losses = [r["losses"] for r in folder.rows() if "losses" in r and r["step"] <= step]
    measured = [r["validation"] for r in folder.validations() if r["step"] == step]
    scored = [scores for scores in measured if scores.get("J&F") is not None]
    rates = (engine.learning_rate(config.optimizer, s, session.total) for s in range(step))
    if config.scenes is not None:
        data = ["Ref-Sprites scenes, drawn as training went"]
    else:
        data = [f"{b.name} {b.split}" for b in config.benchmarks]
    return RunFacts(
        base_model=config.start,
        config_name=session.name,
        benchmark=config.validation.name if config.validation else "",
        split=config.validation.split if config.validation else None,
        train_data=data,
        steps=step,
        epochs=step / session.epoch_steps,
        samples=step * session.share.batch_size,
        global_batch=session.share.batch_size,
        processes=session.share.processes,
        precision=session.accelerator.mixed_precision,
        learning_rate=max(rates),
        trained_parts=[*config.train, *(["LoRA"] if config.lora else [])],
        trained_parameters=session.trained_count,
        seconds=folder.facts(step)["seconds"],
        losses=losses[-1] if losses else {},
        validation=scored[-1] if scored else None,
        best_step=step if is_best else None,
        command=session.command,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:  # an extra that is not installed
            continue
    return found
