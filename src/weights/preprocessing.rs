//! `preprocessor_config.json` of a Hugging Face folder: how images become an encoder's input.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// What `AutoImageProcessor` reads.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// Pillow's number for bicubic resampling.
const BICUBIC: u8 = 3;

/// How images become the encoder's input.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Preprocessing {
    /// Per channel mean of pixels in `[0, 1]`, subtracted.
    #[serde(rename = "image_mean")]
    pub mean: [f64; 3],
    /// Per channel standard deviation of pixels in `[0, 1]`, divided by.
    #[serde(rename = "image_std")]
    pub std: [f64; 3],
}

/// Which steps an image processor takes, with the defaults of `transformers`.
#[derive(Deserialize)]
#[serde(default)]
struct Steps {
    do_normalize: bool,
    do_rescale: bool,
    rescale_factor: f64,
}

impl Default for Steps {
    fn default() -> Self {
        Self { do_normalize: true, do_rescale: true, rescale_factor: 1.0 / 255.0 }
    }
}

impl Preprocessing {
    /// Mean and deviation of ImageNet, which the published encoders use.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// The file is damaged, or pixels are not brought to `[0, 1]`.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(context)?;
        let steps: Steps = serde_json::from_str(&text).with_context(context)?;
        let factor = steps.rescale_factor * 255.0;
        ensure!(
            steps.do_rescale && (factor - 1.0).abs() < 1e-3,
            "{}: {}, expected pixels in [0, 1]: such an encoder is not read",
            path.display(),
            match steps.do_rescale {
                true => format!("rescale_factor is {}", steps.rescale_factor),
                false => "do_rescale is false".into(),
            }
        );
        if !steps.do_normalize {
            return Ok(Self { mean: [0.0; 3], std: [1.0; 3] });
        }
        serde_json::from_str(&text).with_context(context)
    }

    /// Whether there is a `preprocessor_config.json` beside the weights at `path`.
    pub fn is_beside(path: &Path) -> bool {
        file_beside(path).is_file()
    }

    /// What `preprocessor_config.json` beside the weights at `path` (a folder or a file) says; where
    /// there is none, ImageNet's.
    pub fn beside(path: &Path) -> Result<Self> {
        let file = file_beside(path);
        if file.is_file() { Self::read(&file) } else { Ok(Self::IMAGENET) }
    }

    /// What `AutoImageProcessor` reads: the short side is resized bicubically to `image_size`,
    /// the middle cut out, and the pixels normalised. `processor` is the class of `transformers` that
    /// does so.
    pub fn to_json(self, image_size: usize, processor: &str) -> Value {
        json!({
            "crop_size": { "height": image_size, "width": image_size },
            "do_center_crop": true,
            "do_convert_rgb": true,
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": self.mean,
            "image_processor_type": processor,
            "image_std": self.std,
            "resample": BICUBIC,
            "rescale_factor": 1.0 / 255.0,
            "size": { "shortest_edge": image_size },
        })
    }
}

/// Where it would lie for the weights at `path`, a folder or a file.
fn file_beside(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    folder.join(PREPROCESSOR)
}
