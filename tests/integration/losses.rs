//! The terms of the distillation loss: golden values and gradients by plain PyTorch.

use distill::tasks::distill::{Distance, LossConfig, TokenPair};
use tch::{Kind, Tensor};

use crate::device::device;
use crate::golden::{Tensors, cases, read};

/// Class tokens of the golden tokens.
const CLASS_TOKENS: i64 = 2;

#[track_caller]
fn assert_near(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let found = found.to_device(expected.device()).to_kind(Kind::Float);
    let error = (found - expected).abs().max().double_value(&[]);
    assert!(error <= 1e-5, "{what}: off by {error:.2e}");
}

/// Terms, total and gradient of a loss are PyTorch's, for a student that sees all patches and one that
/// sees some (`tests/golden/make_losses.py`).
#[track_caller]
fn assert_golden(name: &str, config: &LossConfig) {
    let folders = cases(&["losses.safetensors"]);
    assert!(!folders.is_empty(), "no losses in the golden folder");
    for folder in folders {
        assert_golden_in(&read(folder.join("losses.safetensors")), name, config);
    }
}

#[track_caller]
fn assert_golden_in(golden: &Tensors, name: &str, config: &LossConfig) {
    let teacher = golden["teacher"].to_device(device());
    let keep = golden["keep"].to_device(device());
    for (sight, keep) in [("whole", None), ("masked", Some(&keep))] {
        let student =
            golden[&format!("{sight}.student")].to_device(device()).set_requires_grad(true);
        let losses = config.compare(&TokenPair::new(&student, &teacher, CLASS_TOKENS, keep));
        let prefix = format!("{sight}.{name}.");
        let mut expected: Vec<&str> = golden
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix))
            .filter(|what| !["total", "gradient"].contains(what))
            .collect();
        expected.sort_unstable();
        let mut found: Vec<&str> = losses.terms.iter().map(|(term, _)| *term).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{prefix}");
        for (term, value) in &losses.terms {
            let key = format!("{prefix}{term}");
            assert_near(value, &golden[&key], &key);
        }
        assert_near(&losses.total, &golden[&format!("{prefix}total")], &format!("{prefix}total"));
        losses.total.backward();
        let key = format!("{prefix}gradient");
        assert_near(&student.grad(), &golden[&key], &key);
    }
}

/// Smooth L1 over class and patch tokens, and over patch tokens alone.
#[test]
fn golden_loss_smooth_l1() {
    let both = LossConfig {
        class: Distance::SmoothL1,
        patch: Distance::SmoothL1,
        ..LossConfig::default()
    };
    assert_golden("smooth_l1", &both);
    assert_golden("smooth_l1_patch", &LossConfig { class: Distance::None, ..both });
}
