//! Where the serving of a connection begins and how it may end, when several processes serve it one after the other.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::decoder::Intake;
use super::export::Holding;
use super::handover_state::Entered;
use super::output::Output;
use super::receive_buffer::Window;
use windlass_base::Result;

/// The state in which the serving of a connection begins: empty, or as another process has left it.
pub struct Begun {
    pub window: Window,
    pub intake: Intake,
    pub output: Output,
}

impl Default for Begun {
    fn default() -> Begun {
        Begun { window: Window::new(), intake: Intake::default(), output: Output::default() }
    }
}

impl Begun {
    pub fn again(unsent: Vec<u8>, entered: &Entered) -> Result<Begun> {
        let intake = match (&entered.passed_over, entered.resumed) {
            (Some(passed_over), _) => passed_over.intake()?,
            (None, Some(resumed)) => Intake::resuming(resumed),
            (None, None) => Intake::default(),
        };
        Ok(Begun { intake, output: Output::beginning(unsent), ..Begun::default() })
    }
}

/// The tokens that end the serving of a connection.
#[derive(Clone, Debug)]
pub struct Until {
    /// Cancelled when the server stops.
    pub stop: CancellationToken,
    /// Cancelled when another process is to go on with the connection.
    pub pause: CancellationToken,
}

/// A connection between two requests, as it goes to another process.
pub struct Paused<S> {
    pub stream: S,
    pub entered: Entered,
    pub holding: Arc<dyn Holding>,
    pub unread: Vec<u8>,
    pub unsent: Vec<u8>,
}
