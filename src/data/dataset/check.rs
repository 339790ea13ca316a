//! Whether all of a data set decodes.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Error, Result};
use rayon::prelude::*;

use super::dataset::{Dataset, SampleLocation, Scratch};
use crate::image::jpeg_scans::is_arithmetic;

/// What was found of all samples.
#[derive(Debug)]
pub struct Checked {
    /// Where the bad ones lie, in order, and what is wrong with them.
    pub bad: Vec<(String, Error)>,
    /// JPEGs with arithmetic coding, of which nobody can tell whether their data end early.
    pub arithmetic: u64,
}

impl Dataset {
    /// Decodes all fields of every sample once, in parallel. `progress` is called after each sample.
    pub fn check(&self, progress: &(dyn Fn() + Sync)) -> Checked {
        let arithmetic = AtomicU64::new(0);
        let try_one = |scratch: &mut Scratch, sample| {
            let bad = match self.location(sample) {
                Ok(location) => {
                    let checked = self.check_sample(scratch, &location, &arithmetic);
                    checked.err().map(|error| (self.describe(&location), error))
                }
                Err(error) => Some((format!("sample {sample}"), error)),
            };
            progress();
            bad
        };
        let samples = (0..self.catalogue.samples()).into_par_iter();
        let bad = samples.map_init(Default::default, try_one).flatten_iter().collect();
        Checked { bad, arithmetic: arithmetic.into_inner() }
    }

    fn check_sample(
        &self,
        scratch: &mut Scratch,
        location: &SampleLocation,
        arithmetic: &AtomicU64,
    ) -> Result<()> {
        self.check_sizes(location)?;
        let Scratch { encoded, decoder } = scratch;
        let mut size = None;
        for (field, range) in location.fields().enumerate() {
            self.read(location, range, encoded)?;
            arithmetic.fetch_add(u64::from(is_arithmetic(encoded)), Ordering::Relaxed);
            size = Some(decoder.check_field(self.plan(), field, size, encoded)?);
        }
        Ok(())
    }
}
