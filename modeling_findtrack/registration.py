"""Tells transformers about FindTrack. Never part of a Hub folder: there, auto_map does this."""


def register() -> None:
    """Make `AutoConfig`, `AutoModel`, `AutoProcessor` and `pipeline` know FindTrack; repeatable."""
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_findtrack import CutieConfig, FindTrackConfig
    from .modeling_findtrack import FindTrackModel
    from .pipeline_findtrack import TASK, FindTrackPipeline
    from .processing_findtrack import FindTrackProcessor

    AutoConfig.register("findtrack", FindTrackConfig, exist_ok=True)
    AutoConfig.register(CutieConfig.model_type, CutieConfig, exist_ok=True)
    AutoModel.register(FindTrackConfig, FindTrackModel, exist_ok=True)
    AutoProcessor.register(FindTrackConfig, FindTrackProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, FindTrackPipeline, pt_model=AutoModel, type="multimodal"
        )


def carry_code() -> None:
    """Make every later `save_pretrained` of this process write a Hub folder, code included."""
    from .configuration_findtrack import FindTrackConfig
    from .modeling_findtrack import FindTrackModel
    from .processing_findtrack import FindTrackProcessor

    FindTrackConfig.register_for_auto_class()
    FindTrackModel.register_for_auto_class("AutoModel")
    FindTrackProcessor.register_for_auto_class()
