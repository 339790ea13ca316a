//! An evaluation of features that were kept in files: no image is looked at.

use anyhow::{Context, Result, anyhow, ensure};

use super::evaluation::{SetImages, Subject};
use super::extract::Features;
use super::measure::{Given, Measured, SetFacts};
use super::tables::NamedEvaluation;
use crate::dist::ProcessGroup;
use crate::native::guard;

/// The folders that the settings of `one` name in the place of images, a list for each of its sets.
///
/// # Errors
/// It needs more than pooled features, or takes a part of its images.
pub fn folders_of(one: &NamedEvaluation, given: Given) -> Result<Vec<Vec<String>>> {
    let folders = one.evaluation.image_sets().into_iter().map(|set| match set.images {
        SetImages::Labelled(folders) if !set.is_dense => {
            let key = || given.key(&one.name, &format!("most_{}", set.field));
            ensure!(set.most.is_none(), "{} is for images: features are taken whole", key());
            Ok(folders)
        }
        _ => Err(anyhow!(
            "eval {} takes patch tokens as it goes over images: it needs an encoder",
            one.kind
        )),
    });
    folders.collect()
}

/// What `one` finds of `features`, those of each of its image sets.
///
/// # Errors
/// There are too few, or they are of different widths.
pub fn measure_stored(
    one: &NamedEvaluation,
    features: Vec<Features>,
    subject: &Subject<'_>,
    given: Given,
    group: &ProcessGroup,
) -> Result<Measured> {
    let widths: Vec<i64> = features.iter().map(|set| set.vectors.size()[1]).collect();
    ensure!(widths.windows(2).all(|pair| pair[0] == pair[1]), "features of the widths {widths:?}");
    let counts: Vec<u64> = features.iter().map(|set| set.count() as u64).collect();
    let check = one.evaluation.check(&counts);
    check.map_err(|(field, message)| anyhow!("{}: {message}", given.key(&one.name, &field)))?;
    let titles = one.evaluation.image_sets().into_iter().map(|set| set.title);
    let sets: Vec<SetFacts> = titles
        .zip(&features)
        .enumerate()
        .map(|(number, (title, set))| SetFacts::new(title, set, features[..number].first()))
        .collect();
    let first = sets.first().context("an evaluation looks at images")?.title;
    sets.iter().for_each(|set| set.warn(first, true));
    let measurements = guard(|| {
        let consumer = one.evaluation.begin(std::slice::from_ref(subject), group)?;
        let pooled: Vec<&[Features]> = features.iter().map(std::slice::from_ref).collect();
        consumer.finish(&pooled)
    })?;
    Ok(Measured { sets, measurements, images: String::new() })
}
