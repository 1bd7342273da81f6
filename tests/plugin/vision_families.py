"""Every family of pretrained encoders in a small size, saved as a folder."""

import torch
import transformers

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
FAMILIES = {
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
    "registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel),
    "vit": (transformers.ViTConfig, transformers.ViTModel),
    "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
    "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
    "vit_mae": (transformers.ViTMAEConfig, transformers.ViTMAEModel),
    "siglip2": (transformers.Siglip2VisionConfig, transformers.Siglip2VisionModel),
    "dinov3": (transformers.DINOv3ViTConfig, transformers.DINOv3ViTModel),
    "internvit": (transformers.InternVLVisionConfig, transformers.InternVLVisionModel),
}
DIFFERENT = {
    "dinov2": {"intermediate_size": None},
    "siglip2": {"image_size": None, "num_patches": 16},
    "dinov3": {"num_register_tokens": 2},
}


def saved(tmp_path, family):
    torch.manual_seed(0)
    config, model = FAMILIES[family]
    sizes = SIZES | DIFFERENT.get(family, {})
    original = model(config(**{name: size for name, size in sizes.items() if size is not None})).eval()
    with torch.no_grad():  # positions that matter, and tokens that are not zero
        for name, parameter in original.named_parameters():
            if "position" in name or "token" in name or "embedding" in name:
                parameter.normal_(std=0.5)
    original.save_pretrained(tmp_path)
    return original, str(tmp_path)


def pictures(size=32):
    return torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
