//! Which products of a block add a bias, and the biases of queries, keys and values where they stand apart.

use tch::Tensor;

use super::parameters::{Init, Parameters};

/// Which products of a block add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    pub query: bool,
    pub key: bool,
    pub value: bool,
    /// Of the product behind attention.
    pub proj: bool,
    /// Of all products of the MLP.
    pub mlp: bool,
}

impl Biases {
    /// All do.
    pub const ALL: Self = Self { query: true, key: true, value: true, proj: true, mlp: true };
    /// All but the keys'.
    pub const WITHOUT_KEY: Self = Self { key: false, ..Self::ALL };
    /// Queries, keys and values have none.
    pub const WITHOUT_QKV: Self = Self { query: false, key: false, value: false, ..Self::ALL };

    /// Each by its name in configurations.
    pub fn named(self) -> [(&'static str, bool); 5] {
        let Self { query, key, value, proj, mlp } = self;
        [("query", query), ("key", key), ("value", value), ("proj", proj), ("mlp", mlp)]
    }

    /// Those of these names.
    ///
    /// # Errors
    /// The name that is none.
    pub fn from_names(names: &[String]) -> Result<Self, String> {
        let known = Self::ALL.named();
        match names.iter().find(|name| known.iter().all(|(known, _)| known != name)) {
            Some(unknown) => {
                let known = known.map(|(name, _)| format!("`{name}`")).join(", ");
                Err(format!("unknown bias `{unknown}`, expected some of {known}"))
            }
            None => {
                let has = |name: &str| names.iter().any(|one| one == name);
                Ok(Self {
                    query: has("query"),
                    key: has("key"),
                    value: has("value"),
                    proj: has("proj"),
                    mlp: has("mlp"),
                })
            }
        }
    }
}

/// Biases of queries, keys and values that are parameters of their own, `[D]` each; zeros where there is none.
pub(super) struct QkvBiases([Tensor; 3]);

impl QkvBiases {
    pub(super) fn new(parameters: &mut Parameters, dim: i64, biases: &Biases) -> Self {
        let parts = [("q_bias", biases.query), ("k_bias", biases.key), ("v_bias", biases.value)];
        Self(parts.map(|(name, is_there)| match is_there {
            true => parameters.tensor(name, &[dim], Init::Zeros),
            false => parameters.constant_zeros(&[dim]),
        }))
    }

    /// All three behind one another, `[3 · D]`.
    pub(super) fn joined(&self) -> Tensor {
        Tensor::cat(&self.0, 0)
    }
}
