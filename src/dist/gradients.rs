//! The exchange of one model's gradients, which become sums over all processes.
//!
//! The sum, not the mean: a process scales its loss by its share of the global batch, so that shares
//! may differ by an image and the result does not depend on how many processes there are.

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use super::process_group::ProcessGroup;
use crate::native::c10d::{ExchangeOptions, ExchangeStatistics, Reducer, Work};
use crate::native::{DeviceEvent, guard, trim_heap};

/// Consecutive numbers of one parameter whose optimizer state this process holds.
pub struct Share {
    /// Index of the parameter.
    pub parameter: usize,
    /// Its numbers, in the flattened tensor.
    pub range: Range<i64>,
    /// A view of these numbers.
    pub weights: Tensor,
    /// All processes hold it: too few numbers to be divided.
    pub common: bool,
}

/// The weights of the parameters whose gradients travel together, in one piece of memory.
struct FlatWeights {
    /// 1-D, all parameters of the bucket one after the other.
    weights: Tensor,
    /// Numbers of each process; what is left over after all of them is held by all.
    share: i64,
}

/// Exchanges the gradients of one model with the other processes during its backward pass.
///
/// With `scatter`, a process gets only its share of the sums, updates these weights, and all gather
/// them (ZeRO stage 1, Rajbhandari et al., 2020): optimizer state is then divided by the number of
/// processes, and over NCCL as many bytes travel as in an all-reduce. (Gloo's sums go to all.)
#[derive(Default)]
pub struct GradientExchange {
    reducer: Option<Reducer>,
    flat: Vec<FlatWeights>,
    gathering: Vec<Work>,
    /// The event after which the device has the gathered weights.
    arrived: Option<DeviceEvent>,
}

impl GradientExchange {
    /// An exchange of the gradients of `parameters`; all processes must make it at the same time.
    pub fn new(
        group: &ProcessGroup,
        parameters: &[Tensor],
        options: ExchangeOptions,
    ) -> Result<Self> {
        let Some(collectives) = group.collectives() else {
            return Ok(Self::default());
        };
        // It compares bucket orders with the other processes.
        let reducer =
            Reducer::new(collectives, parameters, options).map_err(|error| group.blame(error))?;
        Ok(Self { reducer: Some(reducer), ..Self::default() })
    }

    /// Announces the step's last backward pass, whose gradients are exchanged as they come.
    pub fn expect(&self) -> Result<()> {
        self.reducer.as_ref().map_or(Ok(()), Reducer::expect)
    }

    /// Waits for the gradients: on a GPU its stream does, and the host goes on.
    pub fn finish(&self, group: &ProcessGroup) -> Result<()> {
        let Some(reducer) = &self.reducer else { return Ok(()) };
        group.wait_for_collective("the sums of gradients", |poll| reducer.is_done_within(poll))
    }

    /// What was sent since the beginning; zeros in a process that trains alone.
    pub fn statistics(&self) -> ExchangeStatistics {
        self.reducer.as_ref().map_or_else(ExchangeStatistics::default, Reducer::statistics)
    }

    /// Divides `parameters`, those given to [`Self::new`], among the processes, and gives this
    /// one's shares. The parameters keep their values, and from here on lie bucket by bucket in
    /// memory.
    pub fn divide(
        &mut self,
        group: &ProcessGroup,
        parameters: &[Tensor],
    ) -> Result<Option<Vec<Share>>> {
        let Some(reducer) = &self.reducer else { return Ok(None) };
        let (rank, size) = (group.rank() as i64, group.world_size() as i64);
        let mut buckets: Vec<Vec<usize>> = Vec::new();
        let layout = reducer.layout()?;
        for slot in &layout {
            buckets.resize(buckets.len().max(slot.bucket + 1), Vec::new());
        }
        for (parameter, slot) in layout.iter().enumerate() {
            let members = &mut buckets[slot.bucket];
            members.resize(members.len().max(slot.position + 1), 0);
            members[slot.position] = parameter;
        }
        let mut shares = Vec::new();
        for members in &buckets {
            let flat = flatten(members, parameters)?;
            let share = flat.size()[0] / size;
            let common = share * size..flat.size()[0];
            let own = share * rank..share * (rank + 1);
            for (range, common) in [(own, false), (common, true)] {
                shares.extend(pieces(members, parameters, &flat, &range, common)?);
            }
            self.flat.push(FlatWeights { weights: flat, share });
        }
        // Where the parameters lay before.
        trim_heap();
        Ok(Some(shares))
    }

    /// Begins the all-gather of the updated shares.
    pub fn begin_gathering(&mut self, group: &ProcessGroup) -> Result<()> {
        let Some(collectives) = group.collectives() else { return Ok(()) };
        for FlatWeights { weights, share } in self.flat.iter().filter(|flat| flat.share > 0) {
            let (whole, own) = guard(|| {
                let whole = weights.narrow(0, 0, share * group.world_size() as i64);
                let own = whole.narrow(0, share * group.rank() as i64, *share);
                Ok((whole, own))
            })?;
            let work = collectives.all_gather(&whole, &own).map_err(|error| group.blame(error))?;
            self.gathering.push(work);
        }
        Ok(())
    }

    /// Waits until all shares of the others have arrived.
    pub fn finish_gathering(&mut self, group: &ProcessGroup) -> Result<()> {
        if self.gathering.is_empty() {
            return Ok(());
        }
        // One that is not waited for to its end, because the step is given up, stays.
        while let Some(work) = self.gathering.first() {
            group.wait_for_collective("updated weights", |poll| work.is_done_within(poll))?;
            self.gathering.remove(0);
        }
        self.arrived = Some(DeviceEvent::record(group.device())?);
        Ok(())
    }

    /// Waits until the device holds the weights of the last all-gather. It may be under way when a later
    /// collective is given up.
    pub fn settle_weights(&mut self, group: &ProcessGroup) -> Result<()> {
        self.finish_gathering(group)?;
        self.arrived.take().map_or(Ok(()), |event| group.wait_event(&event))
    }
}

/// Moves parameters into one piece of memory, in this order.
fn flatten(members: &[usize], parameters: &[Tensor]) -> Result<Tensor> {
    guard(|| {
        let members = || members.iter().map(|&index| &parameters[index]);
        let flat = Tensor::cat(&members().map(|p| p.detach().reshape([-1])).collect::<Vec<_>>(), 0);
        let mut start = 0;
        for parameter in members() {
            let length = parameter.numel() as i64;
            let view = flat.narrow(0, start, length).view(parameter.size().as_slice());
            parameter.shallow_clone().set_data(&view);
            start += length;
        }
        Ok(flat)
    })
}

/// The parts of the parameters that lie in `range` of the bucket.
fn pieces(
    members: &[usize],
    parameters: &[Tensor],
    flat: &Tensor,
    range: &Range<i64>,
    common: bool,
) -> Result<Vec<Share>> {
    let (mut shares, mut start) = (Vec::new(), 0);
    for &parameter in members {
        let end = start + parameters[parameter].numel() as i64;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            let weights = guard(|| Ok(flat.narrow(0, from, to - from)))?;
            shares.push(Share { parameter, range: from - start..to - start, weights, common });
        }
        start = end;
    }
    Ok(shares)
}
