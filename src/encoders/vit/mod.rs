//! Plain vision transformers (Dosovitskiy et al., 2021), as `transformers` has them: its ViT, which DINO's weights and
//! those of plain DeiTs are stored as too; the encoder of its masked autoencoder (He et al., 2022), whose positions are
//! fixed; and its DeiT (Touvron et al., 2021), which has a token for distillation beside the class token.

mod drawn;
mod family;
mod hugging_face;
mod measure;
mod model;
mod names;
mod spec;

pub use spec::Vit;
