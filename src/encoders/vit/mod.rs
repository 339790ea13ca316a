//! Plain vision transformers (Dosovitskiy et al., 2021) with one class token, as `transformers` has them: its ViT, which
//! DeiT's and DINO's weights are stored as too, and the encoder of its masked autoencoder (He et al., 2022), whose
//! positions are fixed.

mod drawn;
mod family;
mod hugging_face;
mod measure;
mod model;
mod names;
mod spec;

pub use spec::Vit;
