"""Vision transformers (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from benchmark.api.network import Network
from benchmark.networks.architecture import Architecture, Shape, WrongShape
from benchmark.networks.dropout import seeded


def vit(classes: int, shape: Shape) -> Network:
    """timm's ViT as DIFFENCE's code has it: patches of 4x4, width 512, depth 6, 8 heads, MLP 512, dropout 0.1; d = 512.

    Queries, keys and values have no bias. Raises WrongShape where patches do not tile the image.
    """
    channels, height, width = shape
    if height % 4 or width % 4:
        raise WrongShape(f"ViT: expected images whose height and width are multiples of 4, given {height}x{width}")
    from timm.models.vision_transformer import VisionTransformer

    backbone = VisionTransformer(
        img_size=(height, width), patch_size=4, in_chans=channels, num_classes=0, embed_dim=512, depth=6, num_heads=8,
        mlp_ratio=1, qkv_bias=False, pos_drop_rate=0.1, proj_drop_rate=0.1,
    )  # fmt: skip
    return Network(seeded(backbone), width=512, classes=classes)


NETWORKS = {"vit": Architecture("ViT, patches of 4x4", "Dosovitskiy et al. 2021", 4, vit)}
