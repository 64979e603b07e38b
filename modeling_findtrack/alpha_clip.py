"""The aligner: Alpha-CLIP, CLIP whose image tower also sees which region is meant.

Alpha-CLIP (Sun et al., CVPR 2024) adds one convolution over an alpha channel to CLIP's patch
embedding; everything else is CLIP. transformers has CLIP, so only that convolution lives here,
with two helpers that return unit vectors, whose dot product is the cosine FindTrack ranks by.

Shapes: B images, N texts, L tokens, c pixels per side, C channels of the shared space.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

# In configs older than transformers 4.31 this value stands for "the largest id of the sequence".
LEGACY_EOS = 2


class AlphaCLIPVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's patch embedding of the first three channels plus one of the fourth."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        self.patch_embedding_alpha = nn.Conv2d(
            1, self.embed_dim, kernel_size=self.patch_size, stride=self.patch_size, bias=False
        )

    def forward(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False
    ) -> torch.Tensor:
        """(B, 4, c, c) normalised RGB and alpha -> (B, 1 + patches, C)."""
        channels, height, width = pixel_values.shape[-3:]
        if channels != 4:
            raise ValueError(f"expected RGB and alpha, 4 channels, got {channels}")
        if not interpolate_pos_encoding and (height, width) != (self.image_size,) * 2:
            raise ValueError(f"expected {self.image_size} px squares, got {height} x {width}")
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixel_values[:, :3])
        patches = patches + self.patch_embedding_alpha(pixel_values[:, 3:])
        patches = patches.flatten(2).transpose(1, 2)  # (B, patches, C)
        cls = self.class_embedding.expand(len(patches), 1, -1)
        tokens = torch.cat([cls, patches], dim=1)
        if interpolate_pos_encoding:
            return tokens + self.interpolate_pos_encoding(tokens, height, width)
        return tokens + self.position_embedding(self.position_ids)


class AlphaCLIPVisionModel(CLIPVisionModel):
    """CLIP's image tower over four channels."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        self.embeddings = AlphaCLIPVisionEmbeddings(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # Zero, so that CLIP weights alone give exactly CLIP. It has to happen here and not in
        # AlphaCLIPModel: each nested PreTrainedModel initialises its own modules.
        if isinstance(module, AlphaCLIPVisionEmbeddings):
            init.zeros_(module.patch_embedding_alpha.weight)


class AlphaCLIPModel(CLIPModel):
    """CLIP with an alpha channel. Config: a plain `CLIPConfig`."""

    def __init__(self, config: CLIPConfig):
        super().__init__(config)
        self.vision_model = AlphaCLIPVisionModel._from_config(config.vision_config)
        self.post_init()

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed image regions.

        Args:
            pixel_values: (B, 4, c, c) normalised RGB, and the normalised alpha map of the region.

        Returns:
            (B, C) float32 unit vectors.
        """
        return F.normalize(self.get_image_features(pixel_values).pooler_output.float(), dim=-1)

    def encode_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embed texts; a batch gives what each text gives alone, on whichever side it is padded.

        Args:
            input_ids: (N, L) tokens, each text closed by the end-of-text token.
            attention_mask: (N, L), 0 at padding. Without it a text ends at its end-of-text token.

        Returns:
            (N, C) float32 unit vectors.

        Raises:
            ValueError: A text without end-of-text token, and no mask to tell where it ends.
        """
        if attention_mask is None:
            attention_mask = self._mask_up_to_eos(input_ids)
        mask = attention_mask.to(torch.long)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = self.text_model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions
        ).last_hidden_state
        # The last token that is no padding is the end of text. CLIPTextModel looks for
        # `config.eos_token_id` instead and silently pools token 0 where that id is not the
        # tokenizer's, as for any vocabulary but OpenAI's.
        last = (mask * torch.arange(mask.shape[-1], device=mask.device)).argmax(-1)
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return F.normalize(self.text_projection(pooled).float(), dim=-1)

    def similarity(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cosine of every image region with every text, (B, N), without `logit_scale`.

        Args:
            pixel_values: (B, 4, c, c), see `encode_image`.
            input_ids: (N, L), see `encode_text`.
            attention_mask: (N, L) or None.
        """
        text = self.encode_text(input_ids, attention_mask)
        return self.encode_image(pixel_values) @ text.T

    def _mask_up_to_eos(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(N, L) mask that is 1 up to and including the first end-of-text token."""
        eos = self.config.text_config.eos_token_id
        if eos == LEGACY_EOS:
            end = input_ids.argmax(-1)
        else:
            is_eos = input_ids == eos
            if not bool(is_eos.any(-1).all()):
                raise ValueError(
                    f"a text lacks the end-of-text token {eos} of config.text_config.eos_token_id; "
                    "set that to the tokenizer's eos_token_id, or pass attention_mask"
                )
            end = is_eos.int().argmax(-1)
        index = torch.arange(input_ids.shape[-1], device=input_ids.device)
        return (index <= end[:, None]).long()
