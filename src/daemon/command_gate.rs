//! Which commands are let in: all, but while another daemon takes over. That waits for those that are under way.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::api::Verb;
use windlass_base::rt::Rt;
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Result};

/// Longest time for which a hand-over waits for commands under way, and the time between two looks.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Commands {
    under_way: u64,
    closed: bool,
}

/// Counts the commands under way and lets new ones in, or nobody while another daemon takes over. See the module.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Mutex<Commands>>);

/// A command that is under way; it counts as such until this is dropped.
#[derive(Debug)]
pub struct Admitted(Admission);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.0.lock().under_way -= 1;
    }
}

/// The closed gate: no command is let in until this is dropped.
#[derive(Debug)]
pub struct Closed(Option<Admission>);

impl Closed {
    /// Keeps the gate closed for good, also after this value is dropped.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        if let Some(admission) = &self.0 {
            admission.0.lock().closed = false;
        }
    }
}

impl Admission {
    /// Lets a command in. Returns `None` for a verb that changes nothing that a hand-over has to wait for.
    pub fn admit(&self, verb: &Verb) -> Result<Option<Admitted>> {
        match verb {
            Verb::HandOver(_) | Verb::Ping | Verb::Watch => Ok(None),
            _ => self.enter().map(Some),
        }
    }

    pub fn enter(&self) -> Result<Admitted> {
        let mut commands = self.0.lock();
        if commands.closed {
            return Err(Error::new(Kind::Unavailable, "another daemon is just taking over: try again"));
        }
        commands.under_way += 1;
        Ok(Admitted(self.clone()))
    }

    /// Lets nobody in, and waits until the commands under way have ended.
    ///
    /// # Errors
    /// `Owned`: commands do not come to an end soon, or somebody else has closed the gate.
    pub async fn close(&self, rt: &Rt) -> Result<Closed> {
        // Closed under the lock that counts commands: none can come in after the wait has begun.
        let closed = {
            let mut commands = self.0.lock();
            if std::mem::replace(&mut commands.closed, true) {
                return Err(Error::new(Kind::Owned, "another daemon is taking over already"));
            }
            Closed(Some(self.clone()))
        };
        match rt.timeout(PATIENCE, self.ended(rt)).await {
            Some(()) => Ok(closed),
            None => {
                let many = show_count(self.0.lock().under_way, "command");
                let why =
                    format!("{many} under way: wait for the end, or give up what goes on, then try again");
                Err(Error::new(Kind::Owned, why))
            }
        }
    }

    /// Lets nobody in any more, since this daemon ends and its clients wait for the next one. Waits a while for
    /// commands under way; those that last longer keep what they work on for themselves.
    pub async fn end(&self, rt: &Rt) {
        self.0.lock().closed = true;
        let _ = rt.timeout(PATIENCE, self.ended(rt)).await;
    }

    async fn ended(&self, rt: &Rt) {
        while self.0.lock().under_way > 0 {
            rt.sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn a_hand_over_waits_for_commands_and_lets_none_in() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        let scenario = async move {
            let admission = Admission::default();
            let one = admission.admit(&Verb::Status).unwrap();
            assert!(admission.admit(&Verb::Ping).unwrap().is_none());
            assert!(admission.close(&rt).await.unwrap_err().is(Kind::Owned));
            let two = admission.admit(&Verb::Status).unwrap();
            let closing = admission.close(&rt);
            let ends = async {
                rt.sleep(Duration::from_millis(50)).await;
                drop((one, two));
            };
            let closed = futures::join!(closing, ends).0.unwrap();
            assert!(admission.admit(&Verb::Status).unwrap_err().is(Kind::Unavailable));
            assert!(admission.close(&rt).await.unwrap_err().is(Kind::Owned));
            drop(closed);
            admission.admit(&Verb::Status).unwrap();
            admission.close(&rt).await.unwrap().keep();
            assert!(admission.admit(&Verb::Status).unwrap_err().is(Kind::Unavailable));
            let (admission, began) = (Admission::default(), rt.now());
            let one = admission.admit(&Verb::Status).unwrap();
            admission.end(&rt).await;
            assert!(rt.now().since(began) >= PATIENCE, "a command is under way");
            assert!(admission.admit(&Verb::Status).unwrap_err().is(Kind::Unavailable));
            drop(one);
            admission.end(&rt).await;
            assert!(admission.admit(&Verb::Ping).is_ok() && admission.close(&rt).await.is_err());
        };
        sim.run(scenario).unwrap_or_else(|stall| panic!("{stall}"));
    }
}
