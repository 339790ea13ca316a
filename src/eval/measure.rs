//! Several evaluations of several encoders at once: each set of images is gone over once.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tracing::warn;

use super::evaluation::{FeatureConsumer, ImageSet, SetImages, Subject};
use super::extract::{
    DenseBatch, DenseTaker, Encoder, Features, ImageSource, LeftOut, Progress, features, hash,
};
use super::tables::NamedEvaluation;
use crate::artifacts::Measurement;
use crate::config::DataConfig;
use crate::data::pairs::{PairSet, PairSource};
use crate::data::{Dataset, EvaluationPass, ShardProgress};
use crate::dist::ProcessGroup;
use crate::native::guard;

/// How images are seen, whatever their shards.
pub struct Source<'a> {
    /// Input size, normalisation, batch size and workers; its shards and curation are not used.
    pub data: &'a DataConfig,
    /// Where the settings were given, for errors.
    pub given: Given,
    pub observer: &'a dyn Observer,
}

/// Where a user gave an evaluation's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    InConfig,
    OnCommandLine,
}

impl Given {
    /// What the user calls the setting `field` of the evaluation `name`.
    pub fn key(self, name: &str, field: &str) -> String {
        match self {
            Self::InConfig => format!("evaluation.{name}.{field}"),
            Self::OnCommandLine => format!("--{}", field.replace('_', "-")),
        }
    }

    /// What the user calls the evaluation `name`.
    fn table(self, name: &str) -> String {
        match self {
            Self::InConfig => format!("evaluation.{name}"),
            Self::OnCommandLine => format!("eval {name}"),
        }
    }
}

/// Shows what is being done, and may ask for an end.
pub trait Observer {
    /// Calls `open`, which opens the shards of `set`, and shows how it gets on.
    fn open(
        &self,
        set: &ImageSet,
        open: &dyn Fn(ShardProgress<'_>) -> Result<Dataset>,
    ) -> Result<Dataset>;

    /// Calls `extract`, which goes over the images of `set`, and shows how it gets on.
    ///
    /// # Errors
    /// Those of `extract`.
    fn extract(
        &self,
        set: &ImageSet,
        extract: &mut dyn FnMut(Progress<'_>) -> Result<Vec<Features>>,
    ) -> Result<Vec<Features>>;
}

/// What one evaluation found.
pub struct Measured {
    /// The images, in the order of [`super::Evaluation::image_sets`].
    pub sets: Vec<SetFacts>,
    pub measurements: Vec<Measurement>,
    /// [`Prepared::images`] of the evaluation.
    pub images: String,
}

/// What became of a set of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFacts {
    pub title: &'static str,
    /// Images that have features.
    pub images: usize,
    /// Their classes.
    pub classes: usize,
    pub left_out: LeftOut,
    /// Of a set after the first one: images that the first one has too, pixel for pixel.
    pub also_in_first: usize,
    /// Of a set after the first one: images of classes that the first one has none of, and these classes.
    pub unknown: [usize; 2],
}

impl SetFacts {
    /// Those of a set of these features, of an evaluation whose first set is `first`.
    pub(super) fn new(title: &'static str, features: &Features, first: Option<&Features>) -> Self {
        let classes: HashSet<u32> = features.labels.iter().copied().collect();
        let (mut also_in_first, mut unknown) = (0, [0, 0]);
        if let Some(first) = first {
            let hashes: HashSet<i64> = first.hashes.iter().copied().collect();
            also_in_first = features.hashes.iter().filter(|hash| hashes.contains(hash)).count();
            let known: HashSet<u32> = first.labels.iter().copied().collect();
            let others = features.labels.iter().filter(|label| !known.contains(label));
            unknown = [others.count(), classes.difference(&known).count()];
        }
        let (images, left_out) = (features.count(), features.left_out);
        Self { title, images, classes: classes.len(), left_out, also_in_first, unknown }
    }

    /// Says what makes figures of this set other than they look, where the first set is for `first`.
    /// Images are of classes where they are `labelled`.
    pub(super) fn warn(&self, first: &str, labelled: bool) {
        let Self { title, images, also_in_first, unknown, classes: own, .. } = self;
        if labelled && *title == first && *own == 1 && *images > 1 {
            warn!("all {images} {title} images are of one class: there is nothing to tell apart");
        }
        let [of_unknown, classes] = unknown;
        if *of_unknown > 0 {
            warn!(
                "{of_unknown} of {images} {title} images are of {classes} classes that no {first} image \
                 has, and count as wrong: are both numbered alike?"
            );
        }
        if *also_in_first > 0 {
            warn!(
                "{also_in_first} of {images} {title} images are {first} images too, pixel for pixel: \
                 figures are better by that than they should be"
            );
        }
    }
}

/// Evaluations whose images are found.
pub struct Prepared<'a> {
    evaluations: &'a [NamedEvaluation],
    given: Given,
    passes: Vec<Pass>,
    datasets: Vec<Arc<Dataset>>,
    /// Whether it was said what makes figures other than they look.
    is_warned: Cell<bool>,
}

/// Finds the images of `evaluations`, and finds out what could not be measured.
///
/// # Errors
/// Images cannot be found, or are too few.
pub fn prepare<'a>(
    evaluations: &'a [NamedEvaluation],
    source: &Source<'_>,
) -> Result<Prepared<'a>> {
    let given = source.given;
    let passes = plan(evaluations, given);
    let (mut datasets, mut opened) = (Vec::new(), Vec::new());
    for pass in &passes {
        datasets.push(Arc::new(pass.open(source, &mut opened)?));
    }
    for (number, one) in evaluations.iter().enumerate() {
        let own = passes_of(&passes, number);
        require_same_classes(&own, &passes, &datasets).with_context(|| given.table(&one.name))?;
    }
    let counts: Vec<u64> = datasets.iter().map(|dataset| dataset.sample_count()).collect();
    check_counts(evaluations, &passes, &counts, given)?;
    Ok(Prepared { evaluations, given, passes, datasets, is_warned: Cell::new(false) })
}

/// # Errors
/// Class lists beside the shards of an evaluation's sets number other classes.
fn require_same_classes(
    own: &[(usize, &Use)],
    passes: &[Pass],
    datasets: &[Arc<Dataset>],
) -> Result<()> {
    let mut first: Option<(&str, Vec<String>)> = None;
    for (place, _) in own {
        let key = &passes[*place].key;
        let Some(names) = datasets[*place].class_names().with_context(|| key.clone())? else {
            continue;
        };
        let (other, known) = first.get_or_insert_with(|| (key, names.clone()));
        // Classes that only one has count as wrong, which is told; they change no number.
        let differs = |at: &usize| known[*at] != names[*at];
        if let Some(at) = (0..known.len().min(names.len())).find(differs) {
            bail!(
                "class {at} is `{}` in {other} and `{}` in {key}: number both by one list (folders by \
                 data.classes or --classes FILE, shards by distill data pack --classes FILE)",
                known[at],
                names[at]
            );
        }
    }
    Ok(())
}

/// What each of `evaluations` finds of `subjects`, which lie on the device of `group`, whose processes
/// share the work and all have the result; `worker_program` decodes.
///
/// # Errors
/// Those of [`prepare`] and [`Prepared::measure`].
pub fn measure(
    evaluations: &[NamedEvaluation],
    subjects: &[Subject<'_>],
    source: &Source<'_>,
    worker_program: &Path,
    group: &ProcessGroup,
) -> Result<Vec<Measured>> {
    prepare(evaluations, source)?.measure(subjects, source, worker_program, group)
}

impl Prepared<'_> {
    /// A checksum of the state that the images of evaluation `number` are in.
    pub fn images(&self, number: usize) -> String {
        let own = passes_of(&self.passes, number);
        own.iter().map(|(place, _)| self.datasets[*place].state()).collect::<Vec<_>>().join(" ")
    }

    /// What tells the images of evaluation `number` from any others, and stays where they are moved or touched.
    pub fn fingerprints(&self, number: usize) -> Vec<&str> {
        let own = passes_of(&self.passes, number);
        own.iter().map(|(place, _)| self.datasets[*place].fingerprint()).collect()
    }

    /// Finds out whether images that should have classes have any: meant for before training.
    ///
    /// # Errors
    /// Neither the first nor the last image of a set has one.
    pub fn check_labels(&self) -> Result<()> {
        let mut passes = self.passes.iter().zip(&self.datasets);
        passes.try_for_each(|(pass, dataset)| pass.check_labels(dataset))
    }

    /// What each evaluation finds of `subjects`: see [`measure`].
    ///
    /// # Errors
    /// Images cannot be read, the device has no memory left, another process fails or sees other images,
    /// or [`super::Interrupted`].
    pub fn measure(
        &self,
        subjects: &[Subject<'_>],
        source: &Source<'_>,
        worker_program: &Path,
        group: &ProcessGroup,
    ) -> Result<Vec<Measured>> {
        let Self { evaluations, given, passes, datasets, .. } = self;
        let mut consumers = Vec::new();
        for one in *evaluations {
            consumers.push(guard(|| one.evaluation.begin(subjects, group))?);
        }
        let encoders =
            subjects.iter().map(Subject::encoder).collect::<Result<Vec<Encoder<'_>>>>()?;
        let mut found = Vec::new();
        for (pass, dataset) in passes.iter().zip(datasets) {
            require_same_images(dataset, group).with_context(|| pass.key.clone())?;
            let config = pass.config(source);
            let images = ImageSource { dataset: dataset.clone(), config: &config, worker_program };
            let features = pass.extract(&encoders, &images, source.observer, group, &mut consumers);
            found.push(features.with_context(|| pass.key.clone())?);
            for interest in &pass.uses {
                let consumer = &mut consumers[interest.evaluation];
                guard(|| consumer.end_of_set(interest.set)).with_context(|| pass.key.clone())?;
            }
        }
        let mut measured = Vec::new();
        for (number, (one, consumer)) in evaluations.iter().zip(consumers).enumerate() {
            let own = passes_of(passes, number);
            let sets = facts(&own, &found);
            let is_to_warn = group.is_first() && !self.is_warned.get();
            if let (Some(first), true) = (sets.first(), is_to_warn) {
                // Images with maps have a class a pixel, and none themselves.
                let images = one.evaluation.image_sets();
                let labelled =
                    images.iter().all(|set| matches!(set.images, SetImages::Labelled(_)));
                sets.iter().for_each(|set| set.warn(first.title, labelled));
            }
            let pooled: Vec<&[Features]> = own.iter().map(|(pass, _)| &*found[*pass]).collect();
            let measurements = guard(|| consumer.finish(&pooled));
            let measurements = measurements.with_context(|| given.table(&one.name))?;
            measured.push(Measured { sets, measurements, images: self.images(number) });
        }
        self.is_warned.set(true);
        Ok(measured)
    }
}

/// The facts of an evaluation's sets, which are its `own` passes of all that were `found`.
fn facts(own: &[(usize, &Use)], found: &[Vec<Features>]) -> Vec<SetFacts> {
    // Images and classes are the same for every encoder.
    let of = |number: usize| own.get(number).and_then(|(pass, _)| found[*pass].first());
    let sets = own.iter().enumerate().filter_map(|(number, (_, interest))| {
        let first = if number > 0 { of(0) } else { None };
        Some(SetFacts::new(interest.title, of(number)?, first))
    });
    sets.collect()
}

/// # Errors
/// Not all processes see the same images.
fn require_same_images(dataset: &Dataset, group: &ProcessGroup) -> Result<()> {
    let all = group.gather_numbers(&[hash(dataset.fingerprint().as_bytes())])?;
    let other = all.iter().position(|one| *one != all[0]);
    ensure!(other.is_none(), "rank {} does not see the images of rank 0", other.unwrap_or(0));
    Ok(())
}

/// One time over a set of images, for all evaluations that look at it.
struct Pass {
    /// As the first of them describes it.
    set: ImageSet,
    /// What the user calls its shards.
    key: String,
    uses: Vec<Use>,
}

/// An evaluation's interest in a pass.
struct Use {
    /// Number of the evaluation.
    evaluation: usize,
    /// Number of the set in the evaluation's own order.
    set: usize,
    title: &'static str,
    is_dense: bool,
}

/// Passes that show each evaluation its sets, in its order where it takes dense features; pooled ones
/// it has when all is seen.
fn plan(evaluations: &[NamedEvaluation], given: Given) -> Vec<Pass> {
    let mut passes: Vec<Pass> = Vec::new();
    for (number, one) in evaluations.iter().enumerate() {
        let sets = one.evaluation.image_sets();
        let in_order = sets.iter().any(|set| set.is_dense);
        let mut next = 0;
        for (index, set) in sets.into_iter().enumerate() {
            let interest =
                Use { evaluation: number, set: index, title: set.title, is_dense: set.is_dense };
            let same = |pass: &Pass| (&pass.set.images, pass.set.most) == (&set.images, set.most);
            let place = (next..passes.len()).find(|&place| same(&passes[place]));
            let place = place.unwrap_or(passes.len());
            if place == passes.len() {
                let key = given.key(&one.name, set.field);
                passes.push(Pass { set, key, uses: Vec::new() });
            }
            passes[place].uses.push(interest);
            next = if in_order { place + 1 } else { 0 };
        }
    }
    passes
}

/// Passes that show evaluation number `evaluation` its sets, in its order, with what it takes there.
fn passes_of(passes: &[Pass], evaluation: usize) -> Vec<(usize, &Use)> {
    let uses = passes
        .iter()
        .enumerate()
        .flat_map(|(number, pass)| pass.uses.iter().map(move |interest| (number, interest)));
    let mut own: Vec<_> = uses.filter(|(_, of)| of.evaluation == evaluation).collect();
    own.sort_by_key(|(_, of)| of.set);
    own
}

/// Asks each evaluation whether `counts`, the images of each pass, suffice.
fn check_counts(
    evaluations: &[NamedEvaluation],
    passes: &[Pass],
    counts: &[u64],
    given: Given,
) -> Result<()> {
    for (number, one) in evaluations.iter().enumerate() {
        let own = passes_of(passes, number).into_iter().map(|(pass, _)| counts[pass]);
        let check = one.evaluation.check(&own.collect::<Vec<_>>());
        check.map_err(|(field, message)| anyhow!("{}: {message}", given.key(&one.name, &field)))?;
    }
    Ok(())
}

impl Pass {
    /// How its images are read.
    fn config(&self, source: &Source<'_>) -> DataConfig {
        let shards = match &self.set.images {
            SetImages::Labelled(shards) => shards.clone(),
            SetImages::Pairs(..) => Vec::new(),
        };
        DataConfig { shards, curation: None, targets: BTreeMap::new(), ..source.data.clone() }
    }

    /// Its images; sets of pairs are `opened` once, since all their files are looked at then.
    fn open<'a>(
        &'a self,
        source: &Source<'_>,
        opened: &mut Vec<(&'a PairSource, PairSet)>,
    ) -> Result<Dataset> {
        let config = self.config(source);
        let most_samples = self.set.most.unwrap_or(u64::MAX);
        let SetImages::Pairs(pairs, split) = &self.set.images else {
            let pass = EvaluationPass { most_samples, ..EvaluationPass::WHOLE };
            return source.observer.open(&self.set, &|progress| {
                Dataset::for_evaluation(&config, &self.key, pass, progress)
            });
        };
        let place = match opened.iter().position(|(of, _)| *of == &**pairs) {
            Some(place) => place,
            None => {
                opened.push((pairs, pairs.open().with_context(|| self.key.clone())?));
                opened.len() - 1
            }
        };
        let set = &opened[place].1;
        source.observer.open(&self.set, &|_| set.central(*split, &config, most_samples))
    }

    /// # Errors
    /// Images that should have classes have none.
    fn check_labels(&self, dataset: &Dataset) -> Result<()> {
        let SetImages::Labelled(shards) = &self.set.images else { return Ok(()) };
        let ends = [0, dataset.sample_count().saturating_sub(1)];
        let labels = ends.into_iter().map(|position| dataset.label(position));
        ensure!(
            labels.collect::<Result<Vec<_>>>()?.iter().any(Option::is_some),
            "{}: neither the first nor the last image of {shards:?} has a label: a `.cls` member with its \
             class; `distill data pack` makes labels of class folders",
            self.key
        );
        Ok(())
    }

    /// Pooled features of each of `encoders`; dense ones go to those of `consumers` that asked.
    fn extract(
        &self,
        encoders: &[Encoder<'_>],
        images: &ImageSource<'_>,
        observer: &dyn Observer,
        group: &ProcessGroup,
        consumers: &mut [Box<dyn FeatureConsumer + '_>],
    ) -> Result<Vec<Features>> {
        let mut hand_out = |batch: &DenseBatch<'_>| {
            for interest in self.uses.iter().filter(|interest| interest.is_dense) {
                consumers[interest.evaluation].take(interest.set, batch)?;
            }
            Ok(())
        };
        let is_dense = self.uses.iter().any(|interest| interest.is_dense);
        observer.extract(&self.set, &mut |progress| {
            let dense: Option<&mut DenseTaker<'_>> =
                if is_dense { Some(&mut hand_out) } else { None };
            guard(|| features(encoders, images, group, progress, dense))
        })
    }
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;
    use crate::eval::tables;

    /// Shards of each pass, and which evaluation takes it as which of its sets.
    fn planned(text: &str) -> Vec<(String, Vec<(usize, usize)>)> {
        let evaluations = tables::read(&text.parse::<Table>().unwrap()).unwrap();
        let passes = plan(&evaluations, Given::InConfig);
        let uses = |pass: &Pass| pass.uses.iter().map(|of| (of.evaluation, of.set)).collect();
        let shards = |pass: &Pass| match &pass.set.images {
            SetImages::Labelled(shards) => shards.join(" "),
            SetImages::Pairs(pairs, split) => format!("{} {}", pairs.name(), split.name()),
        };
        passes.iter().map(|pass| (shards(pass), uses(pass))).collect()
    }

    fn knn(name: &str, reference: &str, held_out: &str, more: &str) -> String {
        format!(
            "[{name}]\nkind = \"knn\"\nreference = [\"{reference}\"]\nheld_out = [\"{held_out}\"]\n\
             {more}\n"
        )
    }

    /// Evaluations share passes over the same images, whatever their order, but not of other numbers.
    #[test]
    fn the_same_images_are_gone_over_once() {
        let alike = knn("one", "a", "b", "") + &knn("two", "a", "b", "neighbours = [3]");
        let both = [("a".to_string(), vec![(0, 0), (1, 0)]), ("b".into(), vec![(0, 1), (1, 1)])];
        assert_eq!(planned(&alike), both);
        let turned = knn("one", "a", "b", "") + &knn("two", "b", "a", "");
        let turned = planned(&turned);
        let both = [("a".to_string(), vec![(0, 0), (1, 1)]), ("b".into(), vec![(0, 1), (1, 0)])];
        assert_eq!(turned, both);
        let fewer = knn("one", "a", "b", "") + &knn("two", "a", "b", "most_reference = 500");
        let shards: Vec<_> = planned(&fewer).into_iter().map(|(shards, _)| shards).collect();
        assert_eq!(shards, ["a", "b", "a"]);
        assert_eq!(planned(&knn("one", "a", "a", "")), [("a".to_string(), vec![(0, 0), (0, 1)])]);
    }
}
