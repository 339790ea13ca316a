//! Pixio: vision transformers with several class tokens, pre-trained as masked autoencoders.

mod drawn;
mod family;
mod hugging_face;
mod measure;
mod names;
mod spec;
mod vit;

pub use spec::Pixio;
