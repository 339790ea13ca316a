//! An answer under way: bytes of an object as they come in.

use std::ops::Range;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;

use super::failure::Failure;
use super::stamp::Stamp;

/// Takes bytes with their place in the object.
pub(super) type Take<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Failure> + 'a;

/// The begin of an answer, and its bytes when they come.
pub(super) struct Answer {
    /// State of the object that answered; nothing where the server does not tell its size.
    pub(super) stamp: Option<Stamp>,
    /// Which bytes of the object the body holds.
    pub(super) range: Range<u64>,
    pub(super) body: Body,
}

/// Bytes on their way.
pub(super) type Body = BoxStream<'static, Result<Bytes, Failure>>;

impl Answer {
    /// Hands the bytes of `wanted` to `take`, each piece with its place in the object, and says
    /// where the last one ended. What lies before and after is passed over.
    ///
    /// # Errors
    /// The body breaks off or does not end where it should (with how far it was good), the object
    /// is not in the state `stamp`, or `take` fails.
    pub(super) async fn deliver(
        mut self,
        stamp: Stamp,
        wanted: Range<u64>,
        take: &mut Take<'_>,
    ) -> (u64, Result<(), Failure>) {
        if self.stamp.is_some_and(|found| found != stamp) {
            let message = "the object changed since it was indexed; start again with the new one";
            return (wanted.start, Err(Failure::lasting(message)));
        }
        let mut position = self.range.start;
        let mut done = wanted.start;
        loop {
            let chunk = match self.body.try_next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if position == self.range.end => return (done, Ok(())),
                Ok(None) => {
                    let message = format!("the answer broke off at byte {position}");
                    return (done, Err(Failure::passing(message)));
                }
                Err(failure) => return (done, Err(failure)),
            };
            let end = position + chunk.len() as u64;
            if end > self.range.end {
                // Which of the bytes are right cannot be told, so none counts.
                let message = format!("the answer goes on after byte {}", self.range.end);
                return (wanted.start, Err(Failure::passing(message)));
            }
            let (from, to) = (position.max(wanted.start), end.min(wanted.end));
            if from < to {
                let kept = &chunk[(from - position) as usize..(to - position) as usize];
                if let Err(failure) = take(from, kept) {
                    return (done, Err(failure));
                }
                done = to;
            }
            position = end;
            if done == wanted.end && self.range.end > wanted.end {
                return (done, Ok(())); // the rest of a whole object is not waited for
            }
        }
    }
}
