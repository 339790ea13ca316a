//! A student: an encoder, and what stands between its tokens and the comparisons with the teacher's.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Kind, Tensor};

use super::config::{DistillConfig, TargetForm};
use super::losses::TokenPair;
use super::statistics::TargetStatistics;
use super::teacher::Targets;
use super::terms::{Term, terms_of};
use crate::encoders::{Encoder, Input, Tokens};
use crate::nn::{Parameters, Projector, Storage};
use crate::tasks::masked_encoder::{EncoderPass, MaskedEncoder};
use crate::tasks::trainee::TraineeConfig;
use crate::train::objective::Losses;

/// An encoder with its projectors to the teacher's width.
pub struct Student {
    pub(super) encoder: MaskedEncoder,
    terms: Vec<Compared>,
    /// Of the teacher's blocks that it is compared with, where targets are standardised.
    statistics: BTreeMap<usize, TargetStatistics>,
    /// Blocks whose tokens are taken beside those after the final norm, ascending.
    taps: Vec<usize>,
    last: usize,
}

/// A comparison with a projector for each of its pairs.
struct Compared {
    term: Term,
    projectors: Vec<Projector>,
}

impl Student {
    /// Builds the student and its parameters: encoder, projectors in the order of the comparisons, statistics.
    ///
    /// # Panics
    /// If the configuration does not say how it is compared, which its checks refuse.
    pub fn new(
        storage: Storage,
        config: &DistillConfig,
        student: &TraineeConfig,
        rng_stream: u64,
    ) -> (Self, Parameters) {
        let mut parameters = Parameters::new(storage);
        let grid_size = student.model.grid_size(config.train.data.input_size);
        let encoder = MaskedEncoder::new(&mut parameters, student, grid_size, rng_stream);
        let widths = (student.model.dim as i64, config.teacher.model.dim as i64);
        let terms =
            terms_of(config, student).unwrap_or_else(|(key, message)| panic!("{key}: {message}"));
        let build = |term: Term| {
            let of_pair = |pair| {
                let scope = match &term.name {
                    None => Projector::SCOPE.to_string(),
                    Some(name) => format!("{}.terms.{name}.{pair}", Projector::SCOPE),
                };
                Projector::new(&mut parameters, &scope, term.projector, widths)
            };
            let projectors = (0..term.pairs.len()).map(of_pair).collect();
            Compared { term, projectors }
        };
        let terms: Vec<Compared> = terms.into_iter().map(build).collect();
        let last = student.model.depth - 1;
        let pairs =
            terms.iter().flat_map(|one| one.term.pairs.iter().map(|pair| (&one.term, pair)));
        let taps: BTreeSet<usize> = pairs
            .clone()
            .filter(|(term, [own, _])| *own != last || !term.norm)
            .map(|(_, [own, _])| *own)
            .collect();
        let targets: BTreeSet<usize> = pairs.map(|(_, [_, teachers])| *teachers).collect();
        let mut statistics = BTreeMap::new();
        if config.teacher.targets == TargetForm::Standardised {
            for block in targets {
                let own = TargetStatistics::new(&mut parameters, block, widths.1);
                statistics.insert(block, own);
            }
        }
        let taps = taps.into_iter().collect();
        (Self { encoder, terms, statistics, taps, last }, parameters)
    }

    /// Its encoder alone.
    pub fn encoder(&self) -> &dyn Encoder {
        self.encoder.encoder()
    }

    /// Blocks after which its comparisons need tokens: what [`Input::taps`] of its passes has to say.
    pub fn taps(&self) -> &[usize] {
        &self.taps
    }

    /// Blocks of the teacher that it is compared with.
    pub(super) fn target_blocks(&self) -> impl Iterator<Item = usize> {
        self.terms.iter().flat_map(|one| one.term.pairs.iter().map(|[_, teachers]| *teachers))
    }

    /// What its targets are standardised by, of each of the teacher's blocks.
    pub(super) fn statistics(&self) -> &BTreeMap<usize, TargetStatistics> {
        &self.statistics
    }

    /// A forward pass that gradients will come back through.
    pub fn forward<'a>(&'a self, input: &'a Input, compute: Kind) -> EncoderPass<'a> {
        self.encoder.forward(input, compute)
    }

    /// The tokens of a pass as they are compared, pair by pair of each comparison, the output's first: in the
    /// teacher's width, or in the student's where no projector is asked for.
    ///
    /// # Panics
    /// If the pass was made without [`Self::taps`].
    pub fn projected(&self, pass: &EncoderPass) -> Vec<Tokens> {
        let project = |term: &Term, own: usize, projector: &Projector| {
            let after = self.tokens_after(pass, own, term.norm);
            let Tokens { class_tokens, prefix_tokens, grid, .. } = pass.tokens;
            let all = projector.forward(&after);
            Tokens { all, class_tokens, prefix_tokens, grid, taps: Vec::new() }
        };
        let mut tokens = Vec::new();
        for Compared { term, projectors } in &self.terms {
            for ([own, _], projector) in term.pairs.iter().zip(projectors) {
                tokens.push(project(term, *own, projector));
            }
        }
        tokens
    }

    /// All tokens after a block, with or without the final norm, in the kind of matrix products.
    fn tokens_after(&self, pass: &EncoderPass, block: usize, norm: bool) -> Tensor {
        let output = &pass.tokens;
        if block == self.last && norm {
            return output.all.shallow_clone();
        }
        let place = self.taps.iter().position(|tap| *tap == block).expect("the block is tapped");
        let all = output.taps[place].shallow_clone();
        let tokens = Tokens { all, taps: Vec::new(), ..output.shallow_clone() };
        let tokens = if norm { self.encoder().normalise(tokens) } else { tokens };
        tokens.all.to_kind(output.all.kind())
    }

    /// Its losses, given its [`Self::projected`] tokens, the targets, and the patches `keep` `[B, K]` that it sees,
    /// or all. Of a comparison of several pairs values are means over these.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn compare(
        &self,
        projected: &[Tokens],
        targets: &Targets,
        keep: Option<&Tensor>,
    ) -> Losses {
        let mut projected = projected.iter();
        let mut losses: Option<Losses> = None;
        for Compared { term, .. } in &self.terms {
            let of_pairs: Vec<Losses> = term
                .pairs
                .iter()
                .zip(&mut projected)
                .map(|([_, block], tokens)| {
                    let mut pair = TokenPair::new(tokens, targets.after(*block), keep);
                    if let Some(statistics) = self.statistics.get(block) {
                        pair.teacher = statistics.standardise(pair.teacher);
                    }
                    term.comparison.compare(&pair)
                })
                .collect();
            let own = named(mean(of_pairs), term);
            losses = Some(match losses {
                None => own,
                Some(sum) => Losses {
                    total: sum.total + own.total,
                    terms: sum.terms.into_iter().chain(own.terms).collect(),
                },
            });
        }
        losses.expect("a student is compared with its teacher")
    }
}

/// The mean of losses with the same terms, of which there is at least one.
fn mean(losses: Vec<Losses>) -> Losses {
    let count = losses.len() as f64;
    let sum = losses.into_iter().reduce(|sum, other| Losses {
        total: sum.total + other.total,
        terms: sum
            .terms
            .into_iter()
            .zip(other.terms)
            .map(|((name, sum), (_, other))| (name, sum + other))
            .collect(),
    });
    let sum = sum.expect("a term compares some pair");
    if count == 1.0 {
        return sum;
    }
    let terms = sum.terms.into_iter().map(|(name, value)| (name, value / count));
    Losses { total: sum.total / count, terms: terms.collect() }
}

/// Losses with their share of the total, terms under the name of the comparison.
fn named(losses: Losses, term: &Term) -> Losses {
    let total = if term.weight == 1.0 { losses.total } else { losses.total * term.weight };
    let Some(name) = &term.name else { return Losses { total, ..losses } };
    let terms = losses.terms.into_iter();
    let terms = terms.map(|(part, value)| (format!("{name}_{part}").into(), value));
    Losses { total, terms: terms.collect() }
}
