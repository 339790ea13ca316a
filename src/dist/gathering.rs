//! Rows that each process has some of, put together.

use std::ops::Range;

use anyhow::{Result, anyhow};
use tch::{Device, Tensor};

use super::process_group::ProcessGroup;
use crate::native::guard;

/// Bytes of a process that travel at a time.
const BLOCK_BYTES: i64 = 1 << 26;

impl ProcessGroup {
    /// Which of so many things this process looks after: a stretch, those of the ranks one after another.
    pub fn share_of(&self, count: u64) -> Range<u64> {
        let (rank, ranks) = (self.rank() as u64, self.world_size() as u64);
        count * rank / ranks..count * (rank + 1) / ranks
    }

    /// The rows `part` `[N, …]` of all processes, rank after rank, on the host. Processes may have different
    /// numbers of rows, also none, but of one width and kind; a bounded part travels at a time.
    ///
    /// # Errors
    /// Another process failed, or there is no memory left.
    pub fn gather_rows(&self, part: &Tensor) -> Result<Tensor> {
        if self.world_size() == 1 {
            return guard(|| Ok(part.to_device(Device::Cpu)));
        }
        let rows = part.size()[0];
        let counts = guard(|| Ok(Tensor::from_slice(&[rows]).to_device(self.device())))?;
        let counts = guard(|| Ok(Vec::<i64>::try_from(self.gather(&counts)?)?))?;
        let mut shape = part.size();
        shape[0] = counts.iter().sum();
        let whole = guard(|| Ok(Tensor::empty(&shape, (part.kind(), Device::Cpu))))?;
        let row_bytes = shape[1..].iter().product::<i64>() * part.kind().elt_size_in_bytes() as i64;
        let block = (BLOCK_BYTES / row_bytes.max(1)).max(1);
        for first in (0..counts.iter().copied().max().unwrap_or(0)).step_by(block as usize) {
            self.gather_block(part, &counts, first, block, &whole)?;
        }
        Ok(whole)
    }

    /// Gathers the rows from `first` on of each process, at most `block`, into their places in `whole`.
    fn gather_block(
        &self,
        part: &Tensor,
        counts: &[i64],
        first: i64,
        block: i64,
        whole: &Tensor,
    ) -> Result<()> {
        let own = |rows: i64| (rows - first).clamp(0, block);
        let most = counts.iter().map(|&rows| own(rows)).max().unwrap_or(0);
        let padded = guard(|| {
            let mut shape = part.size();
            shape[0] = most;
            let padded = Tensor::zeros(&shape, (part.kind(), self.device()));
            let rows = own(part.size()[0]);
            if rows > 0 {
                padded.narrow(0, 0, rows).copy_(&part.narrow(0, first, rows));
            }
            Ok(padded.flatten(0, -1))
        })?;
        let all = self.gather(&padded)?;
        guard(|| {
            let mut shape = part.size();
            shape[0] = most * counts.len() as i64;
            let all = all.view(shape.as_slice());
            let mut offset = 0;
            for (rank, &rows) in (0i64..).zip(counts) {
                if own(rows) > 0 {
                    let mut place = whole.narrow(0, offset + first, own(rows));
                    place.copy_(&all.narrow(0, rank * most, own(rows)));
                }
                offset += rows;
            }
            Ok(())
        })
    }

    /// Whether any process says `yes`: a collective, which all take part in.
    ///
    /// # Errors
    /// Another process failed.
    pub fn any(&self, yes: bool) -> Result<bool> {
        if self.world_size() == 1 {
            return Ok(yes);
        }
        let said = [f32::from(u8::from(yes))];
        let said = guard(|| Ok(Tensor::from_slice(&said).to_device(self.device())))?;
        self.max(&said)?;
        self.synchronize()?;
        guard(|| Ok(said.double_value(&[0]) > 0.0))
    }

    /// The sums over all processes of some whole numbers.
    ///
    /// # Errors
    /// Another process failed.
    pub fn sum_counts<const N: usize>(&self, counts: [i64; N]) -> Result<[i64; N]> {
        if self.world_size() == 1 {
            return Ok(counts);
        }
        let sums = guard(|| Ok(Tensor::from_slice(&counts).to_device(self.device())))?;
        self.sum(&sums)?;
        self.synchronize()?;
        let sums = guard(|| Ok(Vec::<i64>::try_from(sums)?))?;
        sums.try_into().map_err(|_| anyhow!("a sum has another length"))
    }

    /// Calls `compute` with those of `0..count` that are this process's, which gives N numbers of each; the
    /// numbers of all, which every process then has.
    ///
    /// # Errors
    /// Those of `compute`, or another process failed.
    pub fn divide<const N: usize>(
        &self,
        count: usize,
        compute: impl FnOnce(&[usize]) -> Result<Vec<[f64; N]>>,
    ) -> Result<Vec<[f64; N]>> {
        let own: Vec<usize> = (self.rank()..count).step_by(self.world_size()).collect();
        let found = compute(&own)?;
        if self.world_size() == 1 {
            return Ok(found);
        }
        let mut all = vec![[0.0; N]; count];
        own.into_iter().zip(found).for_each(|(number, found)| all[number] = found);
        // A sum with zeros is exact.
        let sums = guard(|| Ok(Tensor::from_slice(all.as_flattened()).to_device(self.device())))?;
        self.sum(&sums)?;
        self.synchronize()?;
        let sums = guard(|| Ok(Vec::<f64>::try_from(sums)?))?;
        let (sums, _) = sums.as_chunks::<N>();
        Ok(sums.to_vec())
    }

    /// The numbers of all processes, rank after rank.
    ///
    /// # Errors
    /// Another process failed.
    pub fn gather_numbers(&self, numbers: &[i64]) -> Result<Vec<i64>> {
        let part = guard(|| Ok(Tensor::from_slice(numbers)))?;
        let all = self.gather_rows(&part)?;
        guard(|| Ok(Vec::<i64>::try_from(all)?))
    }
}
