//! What encoders see in images, side by side: `distill visualize`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::RgbImage;
use tch::{Device, Kind, Tensor};
use tracing::warn;

use super::device;
use super::frozen_encoder::{EncoderSource, FrozenEncoder, RoleInRun};
use crate::artifacts::paths;
use crate::config::{DeviceChoice, Precision};
use crate::data::image::load_central;
use crate::encoders::Input;
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::tasks;
use crate::viz::{Basis, PatchTokens, Sheet, agreement, colours, frame, heat, similarity};

/// An image of more pixels is refused.
const MOST_PIXELS: u64 = 1 << 28;
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

/// An encoder that looks at images.
struct Viewer {
    name: String,
    encoder: FrozenEncoder,
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
        let input_size = self.input_size()?;
        let (paths, pixels) = self.read(input_size)?;
        let mut viewers = Vec::new();
        for (name, source) in &self.encoders {
            // One at a time: what is kept of each is its tokens.
            let viewer = self.look(name, source, input_size, &pixels, device);
            viewers.push(viewer.with_context(|| name.clone())?);
        }
        guard(|| self.lay_out(&viewers, paths, &pixels, input_size))
    }

    /// Side of the images.
    fn input_size(&self) -> Result<usize> {
        let mut facts = Vec::new();
        for (name, source) in &self.encoders {
            let found = source.facts(["--weights", "--input-size"], self.input_size);
            facts.push(found.with_context(|| name.clone())?);
        }
        let first = facts.first().context("no encoder is named")?.0;
        if self.input_size.is_some() {
            return Ok(first);
        }
        let step = facts.iter().fold(1, |step, (_, patch)| least_common_multiple(step, *patch));
        Ok(first.next_multiple_of(step))
    }

    /// The central squares of the images that decode.
    fn read(&self, side: usize) -> Result<(Vec<PathBuf>, Vec<Vec<u8>>)> {
        let (mut paths, mut squares) = (Vec::new(), Vec::new());
        for path in &self.images {
            match load_central(path, side, side, MOST_PIXELS) {
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
    ) -> Result<Viewer> {
        let compute = self.precision.kind();
        let keys = ["--weights", "--input-size"];
        let encoder = source.load(keys, Some(side), device, compute)?;
        let normalisation =
            Normalisation::new(encoder.preprocessing.mean, encoder.preprocessing.std, device);
        let see = |pixels: &Vec<u8>| {
            let colours = upload(pixels, &[1, side as i64, side as i64, 3], device)?;
            let tokens = tch::no_grad(|| {
                let images = normalisation.apply(&colours);
                let tokens = encoder.model.forward(&Input::whole(images), compute);
                encoder.model.normalise(tokens)
            });
            let [rows, columns] = tokens.grid;
            let patches = tokens.patches().to_kind(Kind::Float).to_device(Device::Cpu);
            let patches = patches.reshape([rows, columns, patches.size()[2]]);
            let is_finite = patches.isfinite().all().int64_value(&[]) == 1;
            ensure!(is_finite, "its tokens are not finite: are the weights damaged?");
            Ok(patches)
        };
        let tokens = guard(|| images.iter().map(see).collect::<Result<Vec<PatchTokens>>>())?;
        let patch_size = encoder.model.shape().patch_size as u32;
        Ok(Viewer { name: name.to_string(), encoder, patch_size, tokens })
    }

    fn lay_out(
        &self,
        viewers: &[Viewer],
        paths: Vec<PathBuf>,
        pixels: &[Vec<u8>],
        input_size: usize,
    ) -> Result<Visualized> {
        let side = input_size as u32;
        let (shown, is_one_basis) = components(viewers)?;
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
    fn similar(&self, viewer: &Viewer, number: usize) -> Result<RgbImage> {
        let tokens = &viewer.tokens[number];
        let place = |share: f64, patches: i64| ((share * patches as f64) as i64).min(patches - 1);
        let chosen = [place(self.at[1], tokens.size()[0]), place(self.at[0], tokens.size()[1])];
        let map = similarity(tokens, chosen)?;
        let mut drawn = heat(&map, [map.min().double_value(&[]), 1.0], viewer.patch_size);
        frame(&mut drawn, chosen, viewer.patch_size);
        Ok(drawn)
    }
}

/// The principal components of each encoder's patches as images, and whether they are along the same directions:
/// so they are where all encoders have tokens of one width.
fn components(viewers: &[Viewer]) -> Result<(Vec<Vec<RgbImage>>, bool)> {
    let width = |viewer: &Viewer| viewer.encoder.model.shape().dim;
    let is_one_basis = viewers.iter().all(|viewer| width(viewer) == width(&viewers[0]));
    let tokens: Vec<&[PatchTokens]> = viewers.iter().map(|viewer| &viewer.tokens[..]).collect();
    let shared = if is_one_basis { Some(Basis::of(&tokens)?) } else { None };
    let mut first: Option<Vec<Tensor>> = None;
    let mut drawn = Vec::new();
    for viewer in viewers {
        let own;
        let basis = match &shared {
            Some(basis) => basis,
            None => {
                own = Basis::of(&[&viewer.tokens[..]])?;
                &own
            }
        };
        let places = basis.project(&viewer.tokens, first.as_deref());
        drawn.push(colours(&places, viewer.patch_size));
        first.get_or_insert(places);
    }
    Ok((drawn, is_one_basis))
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut greatest, mut rest) = (a, b);
    while rest > 0 {
        (greatest, rest) = (rest, greatest % rest);
    }
    a / greatest.max(1) * b
}
