"""BEiT-3 multiway encoder: image and text tokens attend jointly, each with its own weights.

"Image as a Foreign Language", arXiv 2208.10442, as EVF-SAM (arXiv 2406.20076) uses it. Parameter
names are those of the published checkpoints below `mm_extractor.beit3.`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .conv_backbone import ConvStages


class Multiway(nn.Module):
    """Two copies of a module: `A` for image tokens, `B` for text tokens."""

    def __init__(self, make):
        super().__init__()
        self.A = make()
        self.B = make()

    def forward(self, x: Tensor, split: int) -> Tensor:
        """x (B, L, D): the first `split` tokens go through A, the others through B."""
        if split == x.shape[1]:
            return self.A(x)
        return torch.cat([self.A(x[:, :split]), self.B(x[:, split:])], dim=1)


class Beit3Attention(nn.Module):
    """Self-attention over all tokens with multiway projections and an inner layer norm."""

    def __init__(self, config):
        super().__init__()
        dim = config.hidden_size
        self.config = config
        self.num_heads = config.num_attention_heads
        self.q_proj = Multiway(lambda: nn.Linear(dim, dim))
        self.k_proj = Multiway(lambda: nn.Linear(dim, dim))
        self.v_proj = Multiway(lambda: nn.Linear(dim, dim))
        self.out_proj = Multiway(lambda: nn.Linear(dim, dim))
        self.inner_attn_ln = Multiway(lambda: nn.LayerNorm(dim, config.layer_norm_eps))

    def forward(self, x: Tensor, split: int, mask: Tensor | None) -> Tensor:
        batch, length, dim = x.shape

        def heads(t: Tensor) -> Tensor:  # (B, L, D) -> (B, heads, L, D / heads)
            return t.view(batch, length, self.num_heads, -1).transpose(1, 2)

        q, k, v = (heads(p(x, split)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.config._attn_implementation == "eager":
            weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            if mask is not None:
                weights = weights.masked_fill(~mask, float("-inf"))
            y = weights.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = y.transpose(1, 2).reshape(batch, length, dim)
        return self.out_proj(self.inner_attn_ln(y, split), split)


class Beit3FeedForward(nn.Module):
    """Two linear layers with a layer norm between."""

    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.ffn_layernorm = nn.LayerNorm(config.intermediate_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x).float()).to(x.dtype)
        return self.fc2(self.ffn_layernorm(hidden))


class Beit3Layer(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config):
        super().__init__()

        def norm():
            return nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

        self.self_attn = Beit3Attention(config)
        self.self_attn_layer_norm = Multiway(norm)
        self.ffn = Multiway(lambda: Beit3FeedForward(config))
        self.final_layer_norm = Multiway(norm)

    def forward(self, x: Tensor, split: int, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x, split), split, mask)
        return x + self.ffn(self.final_layer_norm(x, split), split)


class Beit3Encoder(nn.Module):
    """Position tables, blocks and the final norm."""

    def __init__(self, config):
        super().__init__()
        dim = config.hidden_size
        patches = (config.image_size // config.patch_size) ** 2
        # Both tables start at row 2, a habit of the fairseq code BEiT-3 was trained with.
        self.embed_positions = nn.ModuleDict(
            {
                "A": nn.Embedding(patches + 3, dim),
                "B": nn.Embedding(config.max_text_positions, dim),
            }
        )
        self.layers = nn.ModuleList([Beit3Layer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = Multiway(lambda: nn.LayerNorm(dim, config.layer_norm_eps))


class Beit3VisionEmbedding(nn.Module):
    """Patches, or a map of features (B, D, h, w), to tokens, class token first."""

    def __init__(self, config):
        super().__init__()
        dim = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))  # in the checkpoints, unused
        if config.tokens_from_backbone:
            self.stem = self.proj = None
            self.norm = nn.LayerNorm(dim, config.layer_norm_eps)
        elif config.conv_stem_widths:
            self.stem = ConvStages(config.conv_stem_widths)
            self.proj = nn.Conv2d(config.conv_stem_widths[-1], dim, 1)
            # Convolutions without a norm grow loud enough to drown text and positions.
            self.norm = nn.LayerNorm(dim, config.layer_norm_eps)
        else:
            self.stem = self.norm = None
            self.proj = nn.Conv2d(3, dim, config.patch_size, stride=config.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = pixel_values if self.stem is None else self.stem(pixel_values)[-1]
        x = x if self.proj is None else self.proj(x)
        x = x.flatten(2).transpose(1, 2)  # (B, P, D)
        x = x if self.norm is None else self.norm(x)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


class Beit3Model(nn.Module):
    """BEiT-3 over [class token, image patches, text tokens].

    Args:
        config: A `Beit3Config`.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.text_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision_embed = Beit3VisionEmbedding(config)
        self.encoder = Beit3Encoder(config)

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        """Images (B, 3, S, S), or with `tokens_from_backbone` feature maps (B, D, h, w), -> tokens
        with positions (B, 1 + P, D); independent of any text."""
        x = self.vision_embed(pixel_values)
        table = self.encoder.embed_positions["A"].weight
        if not self.config.tokens_from_backbone:
            return x + table[2 : 2 + x.shape[1]]
        side, size = self.config.image_size // self.config.patch_size, pixel_values.shape[-2:]
        places = table[3 : 3 + side * side].T.reshape(1, -1, side, side)
        if tuple(size) != (side, side):
            places = F.interpolate(places, size, mode="bilinear", align_corners=False)
        return x + torch.cat([table[None, 2:3], places.flatten(2).transpose(1, 2)], dim=1)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, L) -> tokens with positions (B, L, D)."""
        table = self.encoder.embed_positions["B"].weight
        length, most = input_ids.shape[1], len(table) - 2
        if length > most:
            raise ValueError(f"expression of {length} tokens, at most {most} fit: shorten it")
        return self.text_embed(input_ids) + table[2 : 2 + length]

    def forward(
        self,
        image_tokens: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Encode images and texts together.

        Args:
            image_tokens: (B, 1 + P, D) from `embed_image`.
            input_ids: (B, L) token ids, or None for images alone.
            attention_mask: (B, L), 1 for tokens and 0 for padding; None attends to everything.

        Returns:
            (B, 1 + P + L, D) in the order class token, patches, text.
        """
        x, split, mask = image_tokens, image_tokens.shape[1], None
        if input_ids is not None:
            text = self.embed_text(input_ids)
            if attention_mask is not None:
                keep = attention_mask.bool()
                text = text * keep[..., None]
                mask = F.pad(keep, (split, 0), value=True)[:, None, None, :]  # (B, 1, 1, 1 + P + L)
            x = torch.cat([x, text], dim=1)
        for layer in self.encoder.layers:
            x = layer(x, split, mask)
        return self.encoder.layer_norm(x, split)
