//! DINOv2 (Oquab et al., 2024), and DINOv2 with registers (Darcet et al., 2024): vision transformers with one class
//! token, branches that are scaled channel by channel, and in the giant gated MLPs.

mod drawn;
mod family;
mod hugging_face;
mod measure;
mod names;
mod spec;
mod vit;

pub use spec::Dinov2;
