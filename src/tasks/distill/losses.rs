//! Feature matching between student and teacher tokens.

use tch::{Kind, Reduction, Tensor};

use super::config::{Distance, Fuse, LossConfig};
use crate::train::objective::Losses;

/// Compares `student` with `teacher`, both `[B, C+K, D]` with `class_tokens` = C, in float32.
///
/// A distance of `none` leaves the other as the whole loss.
///
/// # Panics
/// If both are `none`, which no configuration has.
pub fn feature_losses(
    student: &Tensor,
    teacher: &Tensor,
    class_tokens: i64,
    config: &LossConfig,
) -> Losses {
    let tokens = student.size()[1];
    let sizes = [class_tokens, tokens - class_tokens];
    let parts = |tensor: &Tensor| tensor.to_kind(Kind::Float).split_with_sizes(sizes, 1);
    let (student, teacher) = (parts(student), parts(teacher));
    let class = distance(config.class, &student[0], &teacher[0]);
    let patch = distance(config.patch, &student[1], &teacher[1]);
    let total = match (&class, &patch, config.fuse) {
        (None, None, _) => panic!("the loss compares nothing"),
        (None, Some(only), _) | (Some(only), None, _) => only.shallow_clone(),
        (Some(class), Some(patch), Fuse::Avg) => (class + patch) / 2.0,
        (Some(class), Some(patch), Fuse::Sum) => {
            let share = class_tokens as f64 / tokens as f64;
            class * share + patch * (1.0 - share)
        }
    };
    Losses { total, class, patch }
}

/// A scalar distance between `[B, T, D]` tensors, averaged over everything.
fn distance(kind: Distance, student: &Tensor, teacher: &Tensor) -> Option<Tensor> {
    Some(match kind {
        Distance::None => return None,
        Distance::Cosine => {
            1.0 - Tensor::cosine_similarity(student, teacher, -1, 1e-8).mean(Kind::Float)
        }
        Distance::L1 => student.l1_loss(teacher, Reduction::Mean),
        Distance::Mse => student.mse_loss(teacher, Reduction::Mean),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn losses(class: Distance, patch: Distance, fuse: Fuse) -> [f64; 3] {
        // One class token off by 1 in each of 2 numbers, three patch tokens off by 3.
        let teacher = Tensor::ones([1, 4, 2], (Kind::Float, Device::Cpu));
        let student = &teacher + Tensor::from_slice(&[1f32, 3., 3., 3.]).view([1, 4, 1]);
        let config = LossConfig { class, patch, fuse };
        let Losses { total, class, patch } = feature_losses(&student, &teacher, 1, &config);
        [Some(total), class, patch].map(|value| value.map_or(0.0, |value| value.double_value(&[])))
    }

    #[test]
    fn fuses_by_average_or_by_share_of_tokens() {
        assert_eq!(losses(Distance::L1, Distance::L1, Fuse::Avg), [2.0, 1.0, 3.0]);
        assert_eq!(losses(Distance::L1, Distance::Mse, Fuse::Sum), [7.0, 1.0, 9.0]);
        let parallel = losses(Distance::Cosine, Distance::L1, Fuse::Avg);
        assert!(parallel[1].abs() < 1e-6, "tokens that point the same way: {parallel:?}");
    }

    #[test]
    fn no_class_loss_leaves_the_patch_loss_whole() {
        for fuse in [Fuse::Avg, Fuse::Sum] {
            assert_eq!(losses(Distance::None, Distance::Mse, fuse), [9.0, 0.0, 9.0]);
        }
    }
}
