//! Whether all of a data set decodes.

use anyhow::{Error, Result};
use rayon::prelude::*;

use super::dataset::{Dataset, SampleLocation, Scratch};

impl Dataset {
    /// Decodes all fields of every sample once, in parallel, and gives the bad ones in order with
    /// the reason. `progress` is called after each sample.
    pub fn check(&self, progress: &(dyn Fn() + Sync)) -> Vec<(String, Error)> {
        let try_one = |scratch: &mut Scratch, sample| {
            let bad = match self.location(sample) {
                Ok(location) => {
                    let checked = self.check_sample(scratch, &location);
                    checked.err().map(|error| (self.describe(&location), error))
                }
                Err(error) => Some((format!("sample {sample}"), error)),
            };
            progress();
            bad
        };
        let samples = (0..self.catalogue.samples()).into_par_iter();
        samples.map_init(Default::default, try_one).flatten_iter().collect()
    }

    fn check_sample(&self, scratch: &mut Scratch, location: &SampleLocation) -> Result<()> {
        self.check_sizes(location)?;
        let Scratch { encoded, decoder } = scratch;
        let mut size = None;
        for (field, range) in location.fields().enumerate() {
            self.read(location, range, encoded)?;
            size = Some(decoder.check_field(self.plan(), field, size, encoded)?);
        }
        Ok(())
    }
}
