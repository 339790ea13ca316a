//! What an encoder makes of images.

use tch::Tensor;

/// The tokens of a batch of images, in one tensor and as its parts.
#[derive(Debug)]
pub struct Tokens {
    /// All tokens of each image, prefix tokens (class tokens, registers) first: `[B, P+N, D]`, or
    /// `[B, P+K, D]` where K of the N patches are seen.
    pub all: Tensor,
    /// Number of class tokens, C, which are the first of all.
    pub class_tokens: i64,
    /// Number of prefix tokens, P.
    pub prefix_tokens: i64,
    /// Rows and columns of the grid that the images were cut into; patches stand row by row.
    pub grid: [i64; 2],
    /// All tokens after each block that the input asked for, in that order, as `all`.
    pub taps: Vec<Tensor>,
}

impl Tokens {
    /// The class tokens, `[B, C, D]`, in the memory of all.
    pub fn class(&self) -> Tensor {
        self.all.narrow(1, 0, self.class_tokens)
    }

    /// The prefix tokens, `[B, P, D]`, in the memory of all.
    pub fn prefix(&self) -> Tensor {
        self.all.narrow(1, 0, self.prefix_tokens)
    }

    /// The tokens of the patches that are seen, `[B, K, D]`, in the memory of all.
    pub fn patches(&self) -> Tensor {
        self.all.narrow(1, self.prefix_tokens, self.all.size()[1] - self.prefix_tokens)
    }

    /// These tokens with `change` done to all of them but the taps.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Tensor) -> Tensor) -> Self {
        Self { all: change(self.all), ..self }
    }

    /// The same tokens in the same memory.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        let taps = self.taps.iter().map(Tensor::shallow_clone).collect();
        Self { all: self.all.shallow_clone(), taps, ..*self }
    }
}
