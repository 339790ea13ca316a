//! Sliding windows over an image of any size.

use tch::{Kind, Tensor};

use super::task::DenseTask;

/// A window's part that lies in the image; all in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub top: i64,
    pub left: i64,
    pub height: i64,
    pub width: i64,
}

/// The windows of `size` × `size` pixels on an image, row by row, ⌊2·size/3⌋ apart. Windows that reach
/// over an edge are not moved back.
pub fn windows(height: i64, width: i64, size: i64) -> Vec<Window> {
    let starts = |length: i64| (0..length).step_by((2 * size / 3).max(1) as usize);
    let row = |top| {
        starts(width).map(move |left| Window {
            top,
            left,
            height: size.min(height - top),
            width: size.min(width - left),
        })
    };
    starts(height).flat_map(row).collect()
}

/// Those parts of a normalised image `[3, H, W]`, each filled up at the bottom and on the right with
/// zeros, the mean colour: `[N, 3, size, size]`.
pub fn cut_windows(image: &Tensor, windows: &[Window], size: i64) -> Tensor {
    let cut = |window: &Window| {
        let Window { top, left, height, width } = *window;
        let part = image.narrow(1, top, height).narrow(2, left, width);
        part.constant_pad_nd([0, size - width, 0, size - height])
    };
    Tensor::stack(&windows.iter().map(cut).collect::<Vec<_>>(), 0)
}

/// Scores of an image's windows, put together.
pub struct Merge {
    task: DenseTask,
    /// `[K, H, W]` float32.
    sum: Tensor,
    /// Windows over each pixel, `[H, W]` float32.
    count: Tensor,
}

impl Merge {
    /// For an image of this size, nothing added yet.
    pub fn new(task: DenseTask, height: i64, width: i64, device: tch::Device) -> Self {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, device));
        Self { task, sum: zeros(&[task.outputs(), height, width]), count: zeros(&[height, width]) }
    }

    /// Adds [`DenseTask::score`] `[N, K, size, size]` of some windows, without what lies beyond the
    /// image.
    pub fn add(&mut self, windows: &[Window], scores: &Tensor) {
        for (number, window) in windows.iter().enumerate() {
            let Window { top, left, height, width } = *window;
            let part = scores.get(number as i64).narrow(1, 0, height).narrow(2, 0, width);
            let _ = self.sum.narrow(1, top, height).narrow(2, left, width).g_add_(&part);
            let _ = self.count.narrow(0, top, height).narrow(1, left, width).g_add_scalar_(1);
        }
    }

    /// Sums of the windows' scores, `[K, H, W]`.
    pub fn sums(&self) -> &Tensor {
        &self.sum
    }

    /// Metres, the mean over windows, `[H, W]` float32; or the class of the greatest sum, `[H, W]`
    /// int64.
    pub fn finish(self) -> Tensor {
        match self.task {
            DenseTask::Depth { most, .. } => self.sum.squeeze_dim(0) / self.count * most,
            DenseTask::Segmentation { .. } => self.sum.argmax(0, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts from the release's own data sets.
    #[test]
    fn windows_reach_over_the_edge() {
        for (height, width, count) in
            [(426, 560, 12), (375, 1242, 24), (256, 256, 4), (1024, 1024, 49)]
        {
            assert_eq!(windows(height, width, 256).len(), count, "{height}×{width}");
        }
        let last = *windows(1024, 1024, 256).last().unwrap();
        assert_eq!(last, Window { top: 1020, left: 1020, height: 4, width: 4 });
    }
}
