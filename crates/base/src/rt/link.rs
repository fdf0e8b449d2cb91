//! A connection to another daemon as a seam: frames, whole and in order, or an error. The simulation replaces it.

use std::fmt;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;

use super::super::budget::Held;
use super::super::error::Result;

/// Most bytes of a frame. A receiver looks at a frame's length before it takes memory for it.
pub const FRAME_MAX: usize = (1 << 20) + (64 << 10);

/// A message that came in one piece.
#[derive(Debug)]
pub struct Frame {
    pub bytes: Bytes,
    /// The part of the budget that the frame's memory takes.
    pub held: Option<Held>,
}

#[async_trait]
pub trait LinkSender: Send + fmt::Debug {
    /// Sends frames, each made of its parts one after another. It returns when the network has taken them:
    /// the other side may not have them yet.
    async fn send(&mut self, frames: Vec<Vec<Bytes>>) -> io::Result<()>;
}

#[async_trait]
pub trait LinkReceiver: Send + fmt::Debug {
    /// Waits for the next frame. `None`: the other side has ended the connection. If this is dropped midway
    /// the connection is of no more use.
    async fn receive(&mut self) -> io::Result<Option<Frame>>;

    /// Tells that frames with data come from now on, where only short ones were expected.
    fn expect_data(&mut self) {}
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct Link {
    pub sender: Box<dyn LinkSender>,
    pub receiver: Box<dyn LinkReceiver>,
}

/// The way to one other daemon.
#[async_trait]
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to the daemon. Once it returns, each side knows that the other may be trusted.
    async fn dial(&self) -> Result<Link>;
    /// Names the other daemon in messages for people.
    fn place(&self) -> String;
}
