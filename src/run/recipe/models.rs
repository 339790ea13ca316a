//! Teacher and students of a recipe.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::wishes::Wishes;
use crate::encoders::{EncoderSpec, EncoderWeights, FAMILIES, declared_at, located};
use crate::nn::{Parameters, Storage};
use crate::weights::Preprocessing;

/// The encoders, as their weights and names tell them.
pub struct Models {
    pub teacher: EncoderSpec,
    /// Side of the images that the teacher is for, in pixels.
    pub teacher_size: usize,
    /// Whether its weights have to be told what they are of.
    pub is_undeclared: bool,
    pub preprocessing: Preprocessing,
    pub students: Vec<(&'static str, EncoderSpec)>,
}

impl Models {
    /// Reads the teacher's shapes, and finds the students among the published encoders.
    ///
    /// # Errors
    /// The weights cannot be read, or a student is not known.
    pub fn find(wishes: &Wishes) -> Result<Self> {
        let path = Path::new(&wishes.teacher);
        let weights = EncoderWeights::open(path)
            .with_context(|| format!("the teacher's weights, {}", path.display()))?;
        let stored = weights.measure(None)?;
        let mut students: Vec<(&'static str, EncoderSpec)> = Vec::new();
        for name in &wishes.students {
            let student = student(name, &stored.spec)?;
            ensure!(
                students.iter().all(|(other, _)| *other != student.0),
                "--student names {} twice",
                student.0
            );
            students.push(student);
        }
        ensure!(!students.is_empty(), "--student names no student");
        Ok(Self {
            teacher: stored.spec,
            teacher_size: stored.image_size,
            is_undeclared: declared_at(path)?.is_none(),
            preprocessing: Preprocessing::beside(&located(path)?)?,
            students,
        })
    }

    pub fn teacher_in_words(&self) -> String {
        in_words(&self.teacher, self.teacher.name())
    }

    pub fn students_in_words(&self) -> String {
        let each = self.students.iter().map(|(name, spec)| in_words(spec, Some(name)));
        each.collect::<Vec<_>>().join(", ")
    }
}

fn in_words(spec: &EncoderSpec, name: Option<&str>) -> String {
    let mut parameters = Parameters::new(Storage::Shapes);
    spec.build(&mut parameters, 1);
    let count: usize = parameters.named().iter().map(|(_, tensor)| tensor.numel()).sum();
    let name = name.map_or_else(
        || format!("{} of width {}, depth {}", spec.family.title(), spec.dim, spec.depth),
        str::to_string,
    );
    format!("{name} ({:.1} M parameters)", count as f64 / 1e6)
}

/// The published encoder that somebody means: by its name, or by the end of it, in the teacher's family first.
fn student(wish: &str, teacher: &EncoderSpec) -> Result<(&'static str, EncoderSpec)> {
    let plain = |name: &str| {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|c| c.to_ascii_lowercase()).collect::<String>()
    };
    let own = FAMILIES.iter().filter(|family| **family == teacher.family);
    let others = FAMILIES.iter().filter(|family| **family != teacher.family);
    let published: Vec<_> = own.chain(others).flat_map(|family| family.published()).collect();
    let wanted = plain(wish);
    let is_it = |(name, _): &&(&'static str, EncoderSpec)| *name == wish;
    let ends_so = |(name, _): &&(&'static str, EncoderSpec)| {
        wanted.starts_with("vit") && plain(name).ends_with(&wanted)
    };
    let found = published.iter().find(is_it).or_else(|| published.iter().find(ends_so));
    match found {
        Some(found) => Ok(*found),
        None => {
            let names: Vec<&str> = published.iter().map(|(name, _)| *name).collect();
            bail!("there is no encoder `{wish}`; a student is one of {}", names.join(", "))
        }
    }
}
