//! The protocol of trainer and worker over a Unix socket: frames of a length and a
//! postcard-encoded message. First, with the shared memory, what is made of every sample
//! ([`SamplePlan`](crate::image::SamplePlan)); then jobs one way and replies the other.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::image::ImageStats;

/// What the worker program is called; it lies beside the program that starts it.
pub const PROGRAM: &str = "distill-worker";

/// No message is near this long; a longer one is not from our trainer.
const MOST_BYTES: u32 = 1 << 20;

/// One sample to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Position in the stream of samples; a random crop is drawn by it.
    pub position: u64,
    /// The fields of the sample: its image, and the dense targets of the plan.
    pub fields: Vec<FieldJob>,
}

/// A field of a sample to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldJob {
    /// Where it goes: first byte in the shared memory.
    pub slot: u64,
    /// Its bytes, in the order of the segments.
    pub segments: Vec<FileSegment>,
}

/// A byte range of a local file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSegment {
    /// The path as the system has it, which need not be text.
    pub path: Vec<u8>,
    pub offset: u64,
    pub length: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// All fields are in their slots; the image is this.
    Done(ImageStats),
    /// A field does not decode, and why.
    BadSample(String),
    /// The bytes could not be read, and why.
    Unreadable { message: String, file_is_gone: bool },
}

/// Adds one message to what is going to be written to the socket at once.
pub fn add(outgoing: &mut Vec<u8>, message: &impl Serialize) -> Result<()> {
    let start = outgoing.len();
    outgoing.extend([0; 4]);
    let mut frame = postcard::to_extend(message, std::mem::take(outgoing))?;
    let length = u32::try_from(frame.len() - start - 4)?;
    frame[start..start + 4].copy_from_slice(&length.to_le_bytes());
    *outgoing = frame;
    Ok(())
}

/// Writes what was added, and forgets it.
pub fn flush(mut socket: &UnixStream, outgoing: &mut Vec<u8>) -> Result<()> {
    let written = socket.write_all(outgoing);
    outgoing.clear();
    Ok(written?)
}

/// Receives one message, or `None` when the other side is gone.
///
/// # Errors
/// What comes is no message.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>> {
    let mut length = [0; 4];
    if let Err(error) = from.read_exact(&mut length) {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => Ok(None),
            _ => Err(error.into()),
        };
    }
    let length = u32::from_le_bytes(length);
    ensure!(length <= MOST_BYTES, "a message of {length} bytes");
    let mut body = vec![0; length as usize];
    match from.read_exact(&mut body) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        read => {
            read?;
            Ok(Some(postcard::from_bytes(&body)?))
        }
    }
}

/// Sends an open file.
pub fn send_file(socket: &UnixStream, file: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&files)), "no room for one file");
    // Ancillary data needs a byte to travel with.
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives what [`send_file`] sent.
///
/// # Errors
/// The other side is gone or sent something else.
pub fn receive_file(socket: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let buffers = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    file.context("no shared memory was sent")
}
