"""SAM and SAM2 with few, random weights, saved in the published format, and a network that draws what it is told.

They test the plumbing and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nodulens.stages.sam import Embedding

SIDE = 64
"""Of the square that they see; the published ones see 1024."""


class Drawn:
    """A network that draws the box it is told, a disc round a point, or the mask; and counts what it encodes."""

    remembers = True

    def __init__(self, square: bool, side: int = 256) -> None:
        self.square, self.side, self.encoded = square, side, 0
        self.seen: list[Tensor] = []

    def encode(self, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        self.encoded += 1
        self.seen.append(pixels)
        return (pixels,), None

    def decode(self, maps: tuple[Tensor, ...], spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(torch.arange(self.side), torch.arange(self.side), indexing="ij")
        if "input_masks" in spot:
            drawn = spot["input_masks"][0, 0] * 2 - 1
        elif "input_boxes" in spot:
            left, top, right, bottom = spot["input_boxes"].flatten().tolist()
            inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
            drawn = torch.where(inside, 1.0, -1.0)
        else:
            right, down = spot["input_points"].flatten().tolist()
            drawn = torch.where((x - right) ** 2 + (y - down) ** 2 < 100, 1.0, -1.0)
        worse = torch.full_like(drawn, -1.0)
        return (torch.stack([worse, drawn]), torch.tensor([0.2, 0.9])) if many else (drawn[None], torch.ones(1))

    def carry(
        self, embed: Callable[[int], Embedding], count: int, at: int, spot: dict[str, Tensor]
    ) -> dict[int, Tensor]:
        drawn, _ = self.decode(embed(at).maps, spot, False)
        return {k: drawn[0] for k in range(max(at - 1, 0), min(at + 2, count))}


def write_sam2(folder: Path) -> Path:
    """As the published files are: of the network with memory."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    quarter = SIDE // 4
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [SIDE, SIDE],
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[quarter // n, quarter // n] for n in (1, 2, 4)],
        "fpn_hidden_size": 128,
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": SIDE},
        mask_decoder_config=_decoder(128),
        image_size=SIDE,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
    )
    return _write(Sam2VideoModel, config, folder)


def write_sam(folder: Path) -> Path:
    """SAM, with the file that says how pictures are normalised."""
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 16,
            "mlp_dim": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE},
        mask_decoder_config=_decoder(32),
    )
    _write(SamModel, config, folder)
    told = {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def _decoder(width: int) -> dict[str, int]:
    return {"hidden_size": width, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def _write(kind: type, config: object, folder: Path) -> Path:
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones are so small that prompts would hardly matter
            parameter.add_(torch.randn_like(parameter) * 0.15)
        for name, parameter in model.named_parameters():
            if name.endswith("pred_obj_score_head.proj_out.bias"):  # else SAM2 mostly says that there is nothing
                parameter.fill_(100.0)
    model.save_pretrained(folder)
    return folder
