//! What encoders see in images, side by side: `distill visualize`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::RgbImage;
use tch::{Device, Kind};
use tracing::warn;

use super::device;
use super::frozen_encoder::{EncoderSource, RoleInRun};
use super::viewing::{PatchesOf, Viewer, central_square, common_input_size, components};
use crate::artifacts::paths;
use crate::config::{DeviceChoice, Precision};
use crate::native::guard;
use crate::tasks;
use crate::viz::{PatchTokens, Sheet, agreement, frame, heat, similarity};

/// An agreement of nothing is at one end of the colours, one of all at the other.
const AGREEMENT_RANGE: [f64; 2] = [0.0, 1.0];

/// What is to be drawn.
#[derive(Debug, Clone)]
pub struct Visualization {
    /// Encoders and what they are called; the others are compared with the first.
    pub encoders: Vec<(String, EncoderSource)>,
    pub images: Vec<PathBuf>,
    /// Side of the images, in pixels; none: that of the first encoder's weights, or the next one that all patches
    /// divide.
    pub input_size: Option<usize>,
    /// A place in the images, from the left and from the top, both from 0 to 1.
    pub at: [f64; 2],
    pub device: DeviceChoice,
    pub precision: Precision,
}

/// What was drawn.
pub struct Visualized {
    /// A row for each image.
    pub sheet: Sheet,
    /// Of the columns.
    pub titles: Vec<String>,
    pub rows: Vec<VisualizedRow>,
    /// Side of the images, in pixels.
    pub input_size: usize,
    /// Whether the colours of all encoders are along the same directions.
    pub is_one_basis: bool,
}

/// A row of a [`Visualized`] sheet.
pub struct VisualizedRow {
    pub image: PathBuf,
    /// Mean agreement of each encoder after the first with it.
    pub agreements: Vec<f64>,
}

/// The encoders of the run in `run`: its teacher, if it has one, and what it trained.
///
/// # Errors
/// It is no run.
pub fn encoders_of_run(run: &Path) -> Result<Vec<(String, EncoderSource)>> {
    let config = tasks::load(&paths::config(run), &[])?;
    let of =
        |student: Option<String>, role| EncoderSource::of_run(run.to_path_buf(), student, role);
    let teacher = config.teacher().map(|_| ("teacher".to_string(), of(None, RoleInRun::Teacher)));
    let trained = config
        .encoders()
        .iter()
        .map(|one| (one.name.clone(), of(Some(one.name.clone()), RoleInRun::Trained)));
    Ok(teacher.into_iter().chain(trained).collect())
}

/// What an encoder saw.
struct Looked {
    name: String,
    patch_size: u32,
    /// Of each image.
    tokens: Vec<PatchTokens>,
}

impl Visualization {
    /// Draws a sheet: of each image the image itself, then each encoder's principal components as colours, the
    /// similarity to one patch by each, and the agreement of each encoder after the first with it.
    ///
    /// # Errors
    /// An encoder cannot be loaded, or does not take images of this size; or no image decodes.
    pub fn draw(&self) -> Result<Visualized> {
        let device = device::find("--device", self.device, 0)?;
        let input_size = common_input_size(&self.encoders, self.input_size)?;
        let (paths, pixels) = self.read(input_size)?;
        let mut viewers = Vec::new();
        for (name, source) in &self.encoders {
            // One at a time: what is kept of each is its tokens.
            let viewer = self.look(name, source, input_size, &pixels, device);
            viewers.push(viewer.with_context(|| name.clone())?);
        }
        guard(|| self.lay_out(&viewers, paths, &pixels, input_size))
    }

    /// The central squares of the images that decode.
    fn read(&self, side: usize) -> Result<(Vec<PathBuf>, Vec<Vec<u8>>)> {
        let (mut paths, mut squares) = (Vec::new(), Vec::new());
        for path in &self.images {
            match central_square(path, side) {
                Ok(square) => {
                    paths.push(path.clone());
                    squares.push(square);
                }
                Err(error) => warn!("left out: {error:#}"),
            }
        }
        if paths.is_empty() {
            bail!("none of the {} images can be read", self.images.len());
        }
        Ok((paths, squares))
    }

    /// The patch tokens of each image by one encoder, after its final norm.
    fn look(
        &self,
        name: &str,
        source: &EncoderSource,
        side: usize,
        images: &[Vec<u8>],
        device: Device,
    ) -> Result<Looked> {
        let viewer = Viewer::load(source, side, device, self.precision)?;
        let mut tokens = Vec::new();
        for pixels in images {
            tokens.extend(viewer.see(&[pixels])?.patches);
        }
        Ok(Looked { name: name.to_string(), patch_size: viewer.patch_size() as u32, tokens })
    }

    fn lay_out(
        &self,
        viewers: &[Looked],
        paths: Vec<PathBuf>,
        pixels: &[Vec<u8>],
        input_size: usize,
    ) -> Result<Visualized> {
        let side = input_size as u32;
        let patches: Vec<PatchesOf> = viewers
            .iter()
            .map(|viewer| PatchesOf { tokens: &viewer.tokens, square: viewer.patch_size })
            .collect();
        let (shown, is_one_basis) = components(&patches)?;
        let mut titles = vec!["image".to_string()];
        let all = || viewers.iter().map(|viewer| &viewer.name);
        titles.extend(all().map(|name| format!("principal components of {name}")));
        titles.extend(all().map(|name| format!("similarity by {name}")));
        let first = &viewers[0];
        titles.extend(all().skip(1).map(|name| format!("agreement of {name} with {}", first.name)));
        let mut sheet = Sheet::new(paths.len() as u32, titles.len() as u32, (side, side));
        let mut rows = Vec::new();
        for (number, (path, pixels)) in paths.into_iter().zip(pixels).enumerate() {
            let whole = RgbImage::from_raw(side, side, pixels.clone());
            let whole = whole.context("an image has three bytes a pixel")?;
            let mut drawn = vec![whole];
            drawn.extend(shown.iter().map(|images| images[number].clone()));
            for viewer in viewers {
                drawn.push(self.similar(viewer, number)?);
            }
            let mut agreements = Vec::new();
            for viewer in &viewers[1..] {
                let map = agreement(&first.tokens[number], &viewer.tokens[number]);
                agreements.push(map.mean(Kind::Double).double_value(&[]));
                drawn.push(heat(&map, AGREEMENT_RANGE, first.patch_size));
            }
            for (column, image) in (0..).zip(&drawn) {
                sheet.put(number as u32, column, image);
            }
            rows.push(VisualizedRow { image: path, agreements });
        }
        Ok(Visualized { sheet, titles, rows, input_size, is_one_basis })
    }

    /// How much every patch of an image is like the one at the chosen place, which is framed; from the least
    /// like one to itself.
    fn similar(&self, viewer: &Looked, number: usize) -> Result<RgbImage> {
        let tokens = &viewer.tokens[number];
        let place = |share: f64, patches: i64| ((share * patches as f64) as i64).min(patches - 1);
        let chosen = [place(self.at[1], tokens.size()[0]), place(self.at[0], tokens.size()[1])];
        let map = similarity(tokens, chosen)?;
        let mut drawn = heat(&map, [map.min().double_value(&[]), 1.0], viewer.patch_size);
        frame(&mut drawn, chosen, viewer.patch_size);
        Ok(drawn)
    }
}
