//! DINOv3's vision transformers (Siméoni et al., 2025): one class token, registers, rotary positions, branches that are
//! scaled channel by channel, keys without a bias, and in some sizes gated MLPs.

mod drawn;
mod family;
mod hugging_face;
mod measure;
mod names;
mod spec;
mod vit;

pub use spec::Dinov3Vit;
