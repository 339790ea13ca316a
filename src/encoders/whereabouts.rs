//! [`Whereabouts`]: where published weights are to be had.

/// Where the weights of a published encoder are to be had, and under what, as far as it is known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Their repository on the Hugging Face Hub, `owner/name`.
    pub hub: Option<&'static str>,
    pub licence: Option<&'static str>,
    /// Whether they are given to those alone who accepted conditions there.
    pub is_gated: bool,
}

/// A published encoder's name in configurations, and its repository.
pub(super) type Repository = (&'static str, &'static str);

impl Whereabouts {
    /// Of the encoder `name` among these repositories, all under one licence.
    pub(super) fn among(repositories: &[Repository], name: &str, licence: &'static str) -> Self {
        let found = repositories.iter().find(|(known, _)| *known == name);
        match found {
            Some((_, hub)) => Self { hub: Some(hub), licence: Some(licence), is_gated: false },
            None => Self::default(),
        }
    }
}
