//! Figures of predicted depth.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::task::DenseTask;
use crate::native::guard;

/// The figures, in the order of [`DepthFigures`].
pub const DEPTH_FIGURES: [&str; 9] =
    ["d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog"];

/// An image with fewer pixels that count has no figures.
pub const LEAST_VALID: i64 = 10;

/// Figures of an image, or means over images, each as [`DEPTH_FIGURES`] has it: shares of pixels within
/// a factor of 1.25, 1.25², 1.25³, then errors, of which less is better (Eigen et al., 2014).
pub type DepthFigures = [f64; 9];

/// Pixels of one image that count, and its figures unless those are fewer than [`LEAST_VALID`]:
/// `prediction` and `target` are metres of one shape. Computed in float64.
///
/// # Errors
/// libtorch fails.
pub fn depth_figures(
    task: DenseTask,
    prediction: &Tensor,
    target: &Tensor,
) -> Result<(i64, Option<DepthFigures>)> {
    guard(|| {
        let counted = task.counted(target);
        let of_counted = |tensor: &Tensor| tensor.masked_select(&counted).to_kind(Kind::Double);
        let (p, t) = (of_counted(prediction), of_counted(target));
        let count = p.size1()?;
        if count < LEAST_VALID {
            return Ok((count, None));
        }
        let mean = |tensor: &Tensor| tensor.mean(Kind::Double);
        let (error, logs) = (&p - &t, p.log() - t.log());
        let ratio = (&p / &t).maximum(&(&t / &p));
        let within = |power: i32| mean(&ratio.lt(1.25f64.powi(power)).to_kind(Kind::Double));
        let squared_logs = mean(&logs.square());
        let figures = Tensor::stack(
            &[
                within(1),
                within(2),
                within(3),
                mean(&(error.abs() / &t)),
                mean(&(error.square() / &t)),
                mean(&error.square()).sqrt(),
                squared_logs.sqrt(),
                mean(&(p.log10() - t.log10()).abs()),
                (&squared_logs - mean(&logs).square() * 0.5).clamp_min(0.0).sqrt(),
            ],
            0,
        );
        let figures = Vec::<f64>::try_from(figures)?;
        Ok((count, Some(figures.try_into().expect("there are nine"))))
    })
}

/// The means over images, in their order; none of no image.
pub fn mean_of_figures(images: &[DepthFigures]) -> Option<DepthFigures> {
    let sum =
        images.iter().copied().reduce(|sum, image| std::array::from_fn(|i| sum[i] + image[i]));
    sum.map(|sum| sum.map(|total| total / images.len() as f64))
}
