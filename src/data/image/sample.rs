//! What is made of a sample: a crop of its image, and the same crop of each of its dense targets.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::crop_decoder::{CropDecoder, CropOptions};
use super::decode::Image;
use super::dense::{ClassMap, DenseMap, DensePixels};
use super::resize::CropResizer;
use super::transform::{ImageStats, Transform};

/// Decoding memory above this is given back after use: one huge image must not stay for good.
const KEPT_BYTES: usize = 64 << 20;

/// What is made of every sample of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplePlan {
    pub transform: Transform,
    pub options: CropOptions,
    /// The dense targets beside the image.
    pub targets: Vec<TargetPlan>,
}

/// A dense target of every sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPlan {
    pub name: String,
    pub pixels: DensePixels,
    /// What stored classes stand for; none: themselves.
    pub classes: Option<ClassMap>,
}

impl SamplePlan {
    /// Bytes of each field of a sample: of the image `[image_size, image_size, 3]`, and of the
    /// targets `[image_size, image_size]`.
    pub fn field_bytes(&self) -> Vec<usize> {
        let pixels = self.transform.pixels(self.options.image_size);
        let targets = self.targets.iter().map(|target| pixels * target.pixels.bytes());
        std::iter::once(pixels * 3).chain(targets).collect()
    }
}

/// Decodes the fields of samples; holds the memory for it, reused from sample to sample.
#[derive(Debug, Default)]
pub struct SampleDecoder {
    crops: CropDecoder,
    map: DenseMap,
}

impl SampleDecoder {
    /// Fills `out` with what the plan makes of a field, whose bytes are `encoded`, of the sample at
    /// `position` of the stream: of its image `[image_size, image_size, 3]`, and then of each target
    /// `[image_size, image_size]`, which is cut as the image was. A target needs to be told what
    /// `image` was found to be; it is given back.
    ///
    /// # Errors
    /// The field does not decode, or a target has other pixels than it should or is not of the
    /// image's size.
    pub fn field(
        &mut self,
        plan: &SamplePlan,
        field: usize,
        (position, image): (u64, Option<ImageStats>),
        encoded: &[u8],
        out: &mut [u8],
    ) -> Result<ImageStats> {
        let target = field.checked_sub(1).and_then(|target| plan.targets.get(target));
        let (Some(image), Some(target)) = (image, target) else {
            return plan.transform.make(&mut self.crops, &plan.options, position, encoded, out);
        };
        let mut cut = || {
            self.map.decode_for(image.size(), encoded, target.pixels, plan.options.max_pixels)?;
            let sources =
                plan.transform.sources(position, image.size(), plan.options.image_size)?;
            let pixels = sources[0].len() * sources[1].len();
            let out = match plan.transform.is_whole() {
                true => out.get_mut(..pixels * target.pixels.bytes()).context("too little room")?,
                false => out,
            };
            self.map.pick(sources.each_ref(), target.pixels, target.classes.as_ref(), out)
        };
        cut().with_context(|| format!("target `{}`", target.name))?;
        Ok(image)
    }

    /// Decodes a field whole and makes nothing of it. As with [`Self::field`], a target needs to be
    /// told the size of its image, which is given back.
    ///
    /// # Errors
    /// [`Self::field`]'s.
    pub fn check_field(
        &mut self,
        plan: &SamplePlan,
        field: usize,
        image: Option<(usize, usize)>,
        encoded: &[u8],
    ) -> Result<(usize, usize)> {
        let max_pixels = plan.options.max_pixels;
        let target = field.checked_sub(1).and_then(|target| plan.targets.get(target));
        let (Some(image), Some(target)) = (image, target) else {
            let size = |image: &Image, _: &mut CropResizer| Ok((image.width, image.height));
            return self.crops.decode_whole(encoded, &plan.options, size);
        };
        self.map
            .decode_for(image, encoded, target.pixels, max_pixels)
            .with_context(|| format!("target `{}`", target.name))?;
        Ok(image)
    }

    /// Gives memory back that one huge sample took, together with its bytes in `encoded`.
    pub fn forget_huge(&mut self, encoded: &mut Vec<u8>) {
        let held = self.crops.held_bytes().max(self.map.held_bytes()).max(encoded.capacity());
        if held > KEPT_BYTES {
            (*self, *encoded) = Default::default();
        }
    }
}
