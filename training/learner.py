"""The model and what it learns, as one module whose forward is the losses.

One module, so that data parallel and sharded wrappers see every parameter and every forward.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .align_task import AlignObjective
from .box_task import BoxObjective
from .config import Config, Task
from .embedding_cache import EmbeddingCache
from .find_task import FindObjective, GroundObjective
from .noun_task import NounObjective
from .track_task import TrackObjective
from .word_task import WordObjective


class Learner(nn.Module):
    """A `FindTrackModel` with the objectives of the tasks that are on.

    Args:
        model: The model.
        objectives: Task -> objective.
        tasks: Task -> its configuration.
    """

    def __init__(self, model, objectives: Mapping[str, nn.Module], tasks: Mapping[str, Task]):
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.weights = {
            f"{name}/{term}": weight
            for name, task in tasks.items()
            for term, weight in task.weights.items()
            if weight > 0
        }

    def forward(self, batches: Mapping[str, dict]) -> dict[str, Tensor]:
        """Losses of the tasks whose batches are given.

        Returns:
            Each weighted term by the name "task/term", unweighted, and "total".

        Raises:
            ValueError: The model does not give what a weighted term needs.
        """
        losses: dict[str, Tensor] = {}
        total = 0
        for name, batch in batches.items():
            terms = self.objectives[name](self.model, batch)
            for full, weight in self.weights.items():
                task, term = full.split("/")
                if task != name:
                    continue
                if term not in terms:
                    raise ValueError(f"this model gives no {full}: remove it from the weights")
                losses[full] = terms[term]
                total = total + weight * terms[term]
        return losses | {"total": total}

    def train(self, mode: bool = True) -> "Learner":
        """Only what is trained goes into training mode: frozen parts work as in inference."""
        super().train(mode)
        if mode:
            for module in self.modules():
                own = list(module.parameters())
                if own and not any(p.requires_grad for p in own):
                    module.eval()
        return self


def build_objectives(
    config: Config, model, processor, nouns: Sequence[str], cache: EmbeddingCache | None
) -> dict[str, nn.Module]:
    """The objectives of a configuration's tasks.

    Args:
        nouns: What the data's objects are called; none where nobody says.

    Raises:
        ValueError: A task that this model cannot learn.
    """

    def need(task: str, condition: bool, part: str) -> None:
        if not condition:
            raise ValueError(f"{task}: this model has no {part}")

    beit3 = model.config.finder_config.beit3_config
    objectives: dict[str, nn.Module] = {}
    if config.find is not None:
        objectives["find"] = FindObjective(config.find, processor, cache)
    if config.ground is not None:
        need("ground", model.finder.grounding_head is not None, "heat map as a prompt")
        need("ground", model.finder.presence_head is not None, "presence head")
        objectives["ground"] = GroundObjective(config.ground, processor, beit3.hidden_size)
    if config.nouns is not None:
        objectives["nouns"] = NounObjective(processor, nouns, beit3.hidden_size)
    if config.words is not None:
        need("words", model.finder.word_map is not None, "word map")
        objectives["words"] = WordObjective(processor, nouns)
    if config.boxes is not None:
        need("boxes", model.finder.is_sam2, "SAM 2 finder")
        need("boxes", model.finder.word_map is None, "decoder that works without its heat map")
        objectives["boxes"] = BoxObjective(config.boxes, processor)
    if config.align is not None:
        need("align", model.aligner is not None, "aligner")
        named = nouns if config.align.weights.get("noun") else ()
        width = model.config.aligner_config.projection_dim
        objectives["align"] = AlignObjective(processor, named, width)
    if config.track is not None:
        need("track", hasattr(model.tracker, "sam2"), "SAM 2 tracker")
        objectives["track"] = TrackObjective(config.track, processor)
    return objectives
