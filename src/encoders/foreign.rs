//! Encoders of other families, by the names of their tensors: what weights are called that are not read here.

/// What the weights with tensors of these `names` seem to be; none where nothing tells.
pub fn family_of(names: &[&str]) -> Option<&'static str> {
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let has_any = |parts: &[&str]| parts.iter().any(|part| has(part));
    if has_any(&["rope_embed", "storage_tokens"])
        || (has("layer_scale1") && has("register_tokens") && !has("position_embeddings"))
    {
        return Some("DINOv3");
    }
    if has_any(&["layer_scale1", ".ls1.gamma"]) {
        return Some("DINOv2");
    }
    if has_any(&["decoder_blocks.", "decoder.decoder_layers.", "decoder_pos_embed"]) {
        return Some("MAE");
    }
    if has_any(&["head.probe", "attn_pool.latent"]) {
        return Some("SigLIP");
    }
    if has_any(&["visual.transformer.", "vision_model.", "visual_projection", "pre_layrnorm"]) {
        return Some("CLIP");
    }
    if has_any(&["stages.0.", "downsample_layers."]) {
        return Some("ConvNeXt");
    }
    if has_any(&["layer1.0.conv1", "bn1.running_mean"]) {
        return Some("ResNet");
    }
    if has_any(&["relative_position_bias_table", "layers.0.blocks.0."]) {
        return Some("Swin");
    }
    if has("blocks.0.attn.qkv") && has_any(&["head.weight", "fc_norm.weight", "reg_token"]) {
        return Some("timm's ViT");
    }
    if has_any(&["vit.encoder.layer.", "embeddings.patch_embeddings.projection"]) {
        return Some("transformers' ViT");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_by_their_names() {
        for (names, family) in [
            (&["embeddings.register_tokens", "layer.0.layer_scale1.lambda1"][..], "DINOv3"),
            (&["rope_embed.periods", "blocks.0.ls1.gamma"], "DINOv3"),
            (&["pos_embed", "blocks.0.ls1.gamma"], "DINOv2"),
            (&["embeddings.position_embeddings", "encoder.layer.0.layer_scale1.lambda1"], "DINOv2"),
            (&["blocks.0.attn.qkv.weight", "decoder_blocks.0.norm1.weight"], "MAE"),
            (&["blocks.0.attn.qkv.weight", "head.weight", "cls_token"], "timm's ViT"),
            (&["vision_model.encoder.layers.0.layer_norm1.weight"], "CLIP"),
        ] {
            assert_eq!(family_of(names), Some(family), "{names:?}");
        }
        assert_eq!(family_of(&["cls_token", "blocks.0.attn.qkv.weight", "norm.weight"]), None);
    }
}
