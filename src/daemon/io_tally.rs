//! What clients ask of a volume and how long it takes: counted, and what takes long is said in the log.
//!
//! Each request of a client has a number in the log, which leads from it to what the stores were asked for its sake
//! (`RUST_LOG=windlass=debug`). Counted is the work on a request: not the time in which it waits for its turn where the
//! volume's rate is limited, nor the sending.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::Instrument as _;

use super::answers::IoLine;
use windlass_base::Result;
use windlass_base::latency::Latencies;
use windlass_base::rt::Rt;
use windlass_base::trace::{Side, Span, fact};

/// Least time, in ms, that a request takes to be told in the log.
static SLOW_MS: AtomicU64 = AtomicU64::new(1000);

/// Sets from which time on a request is told in the log; it holds from now on.
pub fn say_from(slow: Duration) {
    SLOW_MS.store(slow.as_millis() as u64, Ordering::Relaxed);
}

/// Kind of a client's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoVerb {
    Read,
    Write,
    /// Zeroes and trims, which are counted alike.
    Zero,
    Flush,
}

/// All kinds of requests, and what they are called.
pub const IO_VERBS: [(IoVerb, &str); 4] =
    [(IoVerb::Read, "read"), (IoVerb::Write, "write"), (IoVerb::Zero, "zero"), (IoVerb::Flush, "flush")];

/// Counts of the requests with one verb since the volume was opened.
#[derive(Clone, Debug, Default)]
pub struct IoCounts {
    pub latencies: Latencies,
    pub bytes: u64,
    pub failed: u64,
}

/// Counts of one volume, by verb.
#[derive(Debug, Default)]
pub struct IoTally([Mutex<IoCounts>; IO_VERBS.len()]);

/// A request, by what the log says of it.
#[derive(Clone, Copy, Debug)]
pub struct IoRequest<'a> {
    pub volume: &'a str,
    pub verb: IoVerb,
    pub offset: u64,
    pub bytes: u64,
}

/// Number of the next request, for the log.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl IoVerb {
    fn word(self) -> &'static str {
        IO_VERBS[self as usize].1
    }
}

impl IoTally {
    pub fn of(&self, verb: IoVerb) -> IoCounts {
        self.0[verb as usize].lock().clone()
    }

    /// Returns the counts as answers tell them.
    pub fn lines(&self) -> Vec<IoLine> {
        let ms = |d: Option<Duration>| d.unwrap_or_default().as_micros() as f64 / 1000.0;
        let line = |(verb, word): (IoVerb, &'static str)| {
            let IoCounts { latencies, bytes, failed } = self.of(verb);
            IoLine {
                verb: word.into(),
                requests: latencies.count(),
                bytes,
                failed,
                latency_ms_p50: ms(latencies.percentile(50)),
                latency_ms_p99: ms(latencies.percentile(99)),
                latency_ms_max: ms(Some(latencies.max())),
                latency_counts: latencies.counts().map(|(up_to, n)| (ms(Some(up_to)), n)).collect(),
            }
        };
        IO_VERBS.into_iter().map(line).collect()
    }

    /// Does the work of a request, and counts it. A request that is given up on the way is not counted. `work` is a
    /// reference since, held by value, it would be in this future twice.
    pub async fn counted<T>(
        &self,
        rt: &Rt,
        request: IoRequest<'_>,
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Result<T> {
        let began = rt.now();
        let IoRequest { volume, verb, offset, bytes } = request;
        let id = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let facts = || {
            vec![
                fact("volume", volume.to_owned()),
                fact("id", id as i64),
                fact("offset", offset as i64),
                fact("bytes", bytes as i64),
            ]
        };
        let span = Span::begin(Side::Served, || format!("nbd {}", verb.word()), facts);
        let numbered = tracing::debug_span!("request", id, volume, verb = verb.word(), offset, bytes);
        let work = work.instrument(numbered);
        let done = match &span {
            None => work.await,
            Some(span) => span.around(work).await,
        };
        let took = rt.now().since(began);
        if let Some(span) = span {
            span.end([], done.as_ref().err().map(|error| error as &dyn std::fmt::Display));
        }
        {
            let mut counts = self.0[verb as usize].lock();
            counts.latencies.add(took);
            match &done {
                // One trim may be of a whole disk.
                Ok(_) => counts.bytes = counts.bytes.saturating_add(bytes),
                Err(_) => counts.failed += 1,
            }
        }
        if took.as_millis() >= u128::from(SLOW_MS.load(Ordering::Relaxed)) {
            let (verb, took_ms) = (verb.word(), took.as_millis() as u64);
            tracing::warn!(volume, verb, offset, bytes, took_ms, "a client's request took long");
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    use windlass_base::rt::sim::Sim;
    use windlass_base::{Error, Kind};

    #[test]
    fn requests_are_counted_by_what_they_ask_and_how_they_end() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let tally = IoTally::default();
            let request = |verb| IoRequest { volume: "p/v", verb, offset: 0, bytes: 4096 };
            let slow = async {
                rt.sleep(Duration::from_millis(20)).await;
                Ok(())
            };
            tally.counted(&rt, request(IoVerb::Read), pin!(slow)).await.unwrap();
            let fails = async { Err::<(), _>(Error::new(Kind::Io, "no")) };
            tally.counted(&rt, request(IoVerb::Read), pin!(fails)).await.unwrap_err();
            tally.counted(&rt, request(IoVerb::Flush), pin!(async { Ok(()) })).await.unwrap();
            let read = tally.of(IoVerb::Read);
            assert_eq!((read.latencies.count(), read.bytes, read.failed), (2, 4096, 1));
            assert!(read.latencies.max() >= Duration::from_millis(20));
            assert_eq!(tally.of(IoVerb::Flush).latencies.count(), 1);
            assert_eq!(tally.of(IoVerb::Write).latencies.count(), 0);
            for (at, (verb, word)) in IO_VERBS.into_iter().enumerate() {
                assert_eq!((verb as usize, verb.word()), (at, word));
            }
        })
        .unwrap();
    }
}
