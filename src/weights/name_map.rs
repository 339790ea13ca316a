//! [`NameMap`]: how files of one layout call the parameters of a model.

use std::collections::BTreeMap;

/// The names of one layout. A family of encoders hands it to [`super::WeightFile::renamed`].
pub trait NameMap: Sync {
    /// What messages call it, such as `Hugging Face layout`.
    fn layout(&self) -> &'static str;

    /// Prefixes that a larger model puts before every name, each with its dot.
    fn wrappers(&self) -> &'static [&'static str];

    /// Where the tensor that a file calls `name` belongs; nowhere if it is no part of such a model.
    fn place(&self, name: &str) -> Option<Place>;

    /// The parameters that the tensor which a file calls `name` holds behind one another along its first dimension,
    /// in equal parts; none for a part that is no parameter. Empty for a tensor that has one [`Self::place`].
    fn parameters_in(&self, _name: &str) -> Vec<Option<String>> {
        Vec::new()
    }

    /// What a file calls the parameter `name`: several names for one that is stored in parts, which
    /// are stacked along their first dimension; none for what is no part of such a model.
    fn stored_names(&self, name: &str) -> Vec<String>;

    /// Numbers of a whole model, by the shapes of its parameters, that explain many differences at
    /// once: as many for any model, each in words and
    /// as such, `("width 768", 768)`, 0 where no shape tells it.
    fn numbers(&self, shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)>;
}

/// Where a stored tensor belongs.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The parameter.
    pub name: String,
    /// Which part of it, where it is stored in parts.
    pub part: Option<usize>,
}
