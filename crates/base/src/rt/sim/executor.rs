//! The executor: tasks, processes, virtual time.
//!
//! One step polls one ready task, chosen by the seed, or fires the next timer when no task is ready (seldom, also
//! when one is: a host may be slow). Processes are groups of tasks that a kill drops together, between two steps:
//! at any await. What was already handed to a device (`World::after`) survives its process, as packets do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::super::{Instant, Rt, Runtime};
use super::random::Random;

/// Reasons why a run can't go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stall {
    /// No task is ready and no timer is set.
    Deadlock { tasks: usize },
    /// More steps than allowed: a livelock, or a run that is too long.
    Steps(u64),
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stall::Deadlock { tasks } => write!(f, "deadlock: {tasks} tasks wait and no timer is set"),
            Stall::Steps(n) => write!(f, "no end after {n} steps"),
        }
    }
}

/// Longest time that a host may seem to stand still while tasks are ready.
const HICCUP_MAX: Duration = Duration::from_millis(500);

/// Largest error of a simulated host's wall clock.
const SKEW_MAX_MS: u64 = 7_200_000;

type Job = Box<dyn FnOnce() + Send>;
type TimerKey = (Instant, u64, u64);

enum Action {
    Wake(Waker),
    Run(Job),
}

#[derive(Default)]
struct Clock {
    now: Instant,
    timers: BTreeMap<TimerKey, Action>,
    made: u64,
}

impl Clock {
    /// Tells whether the next timer is so near that a slow host may reach it with work left to do. A longer
    /// freeze would be another fault: every deadline passes at once.
    fn soon(&self) -> bool {
        self.timers.first_key_value().is_some_and(|((at, ..), _)| at.since(self.now) <= HICCUP_MAX)
    }
}

struct TaskWaker {
    slot: usize,
    process: usize,
    /// Number of the task, in the order in which tasks were started.
    number: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<Arc<TaskWaker>>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            let ready = self.ready.clone();
            ready.lock().push(self);
        }
    }
}

struct Slot {
    waker: Arc<TaskWaker>,
    process: usize,
    /// The task; absent while it is polled.
    future: Option<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Tasks {
    started: u64,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    dead: Vec<bool>,
    by_step: BTreeMap<u64, Vec<Job>>,
}

struct Core {
    ready: Arc<Mutex<Vec<Arc<TaskWaker>>>>,
    clock: Mutex<Clock>,
    tasks: Mutex<Tasks>,
    /// Processes of which no task runs for now.
    frozen: Mutex<BTreeSet<usize>>,
    random: Mutex<Random>,
    steps: AtomicU64,
    steps_max: AtomicU64,
}

/// A handle on the simulated world for its devices and for the scenario; cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Core>);

/// The owner of a run: dropping it drops every task and timer.
#[derive(Debug)]
pub struct Sim(World);

/// A group of tasks that die together: one daemon's life.
#[derive(Clone, Debug)]
pub struct Process {
    world: World,
    id: usize,
    skew_ms: Arc<AtomicU64>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl std::ops::Deref for Sim {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks hold runtimes that hold the core: break the circle.
        let tasks = std::mem::take(&mut *self.0.0.tasks.lock());
        let timers = std::mem::take(&mut self.0.0.clock.lock().timers);
        drop((tasks, timers));
        self.0.0.ready.lock().clear();
        *self.0.0.tasks.lock() = Tasks::default();
    }
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        let core = Core {
            ready: Arc::default(),
            clock: Mutex::default(),
            tasks: Mutex::new(Tasks { dead: vec![false], ..Tasks::default() }),
            frozen: Mutex::default(),
            random: Mutex::new(Random::new(seed)),
            steps: AtomicU64::new(0),
            steps_max: AtomicU64::new(5_000_000),
        };
        Sim(World(Arc::new(core)))
    }

    /// Runs until `main` ends; everything else stays as it is then.
    pub fn run<T: Send + 'static>(&self, main: impl Future<Output = T> + Send + 'static) -> Result<T, Stall> {
        let out = Arc::new(Mutex::new(None));
        let sink = out.clone();
        self.0.0.spawn(0, async move { *sink.lock() = Some(main.await) }.boxed());
        loop {
            if let Some(out) = out.lock().take() {
                return Ok(out);
            }
            self.0.0.step()?;
        }
    }
}

impl World {
    /// Returns a runtime that no kill reaches: the scenario's own.
    pub fn rt(&self) -> Rt {
        Rt::new(Arc::new(SimRuntime { core: self.0.clone(), process: 0, skew_ms: Arc::default() }))
    }

    pub fn process(&self) -> Process {
        // Clocks on different hosts disagree.
        let skew_ms = Arc::new(self.below(SKEW_MAX_MS).into());
        let mut tasks = self.0.tasks.lock();
        tasks.dead.push(false);
        Process { world: self.clone(), id: tasks.dead.len() - 1, skew_ms }
    }

    /// Runs `job` at a later time, whatever happens to processes until then: what devices are made of.
    pub fn after(&self, d: Duration, job: impl FnOnce() + Send + 'static) {
        let at = self.0.clock.lock().now + d;
        self.0.set_timer(at, Action::Run(Box::new(job)));
    }

    /// Runs `job` between two steps, `n` steps from now. Steps are finer than time: a kill here may hit any await.
    pub fn after_steps(&self, n: u64, job: impl FnOnce() + Send + 'static) {
        let at = self.steps() + n;
        self.0.tasks.lock().by_step.entry(at).or_default().push(Box::new(job));
    }

    pub fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    pub fn limit_steps(&self, n: u64) {
        self.0.steps_max.store(n, Ordering::Relaxed);
    }

    pub fn now(&self) -> Instant {
        self.0.clock.lock().now
    }

    pub fn random(&self) -> u64 {
        self.0.random.lock().next()
    }

    /// Returns a random number below `n` (n > 0).
    pub fn below(&self, n: u64) -> u64 {
        self.0.random.lock().below(n)
    }

    /// Returns true in `n` of 1000 cases.
    pub fn per_mille(&self, n: u32) -> bool {
        n > 0 && self.below(1000) < u64::from(n)
    }

    /// Draws a duration from `min` up to `max`: mostly near `min`, seldom far out, as latencies are.
    pub fn latency(&self, min: Duration, max: Duration) -> Duration {
        let span = max.saturating_sub(min).as_nanos() as u64 + 1;
        let span = if self.below(16) == 0 { span } else { span / 8 + 1 };
        min + Duration::from_nanos(self.below(span))
    }
}

impl Process {
    pub fn rt(&self) -> Rt {
        let (core, skew_ms) = (self.world.0.clone(), self.skew_ms.clone());
        Rt::new(Arc::new(SimRuntime { core, process: self.id, skew_ms }))
    }

    /// Sets the host's clock to another time, before or after.
    pub fn jump_clock(&self) {
        self.skew_ms.store(self.world.below(SKEW_MAX_MS), Ordering::Relaxed);
    }

    /// Sets the host's clock ahead by so much.
    pub fn clock_ahead(&self, by: Duration) {
        self.skew_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Sets the host's clock back by so much, after `clock_ahead`.
    pub fn clock_back(&self, by: Duration) {
        self.skew_ms.fetch_sub(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Stops all tasks of the process for so long. Then it finds that time has passed and others have acted.
    pub fn freeze(&self, d: Duration) {
        let (world, id) = (self.world.clone(), self.id);
        world.0.frozen.lock().insert(id);
        self.world.after(d, move || {
            world.0.frozen.lock().remove(&id);
        });
    }

    /// Drops all its tasks; none starts any more.
    pub fn kill(&self) {
        let mut dropped = Vec::new();
        {
            let mut tasks = self.world.0.tasks.lock();
            tasks.dead[self.id] = true;
            for at in 0..tasks.slots.len() {
                let ours = |s: &Slot| s.process == self.id && s.future.is_some();
                if tasks.slots[at].as_ref().is_some_and(ours) {
                    dropped.extend(tasks.slots[at].take());
                    tasks.free.push(at);
                }
            }
        }
        // Their destructors wake others and ask for the lock.
        drop(dropped);
    }

    pub fn alive(&self) -> bool {
        !self.world.0.tasks.lock().dead[self.id]
    }
}

impl Core {
    fn spawn(&self, process: usize, future: BoxFuture<'static, ()>) {
        let mut tasks = self.tasks.lock();
        if tasks.dead.get(process).is_none_or(|dead| *dead) {
            drop(tasks);
            drop(future);
            return;
        }
        let at = tasks.free.pop().unwrap_or_else(|| {
            tasks.slots.push(None);
            tasks.slots.len() - 1
        });
        tasks.started += 1;
        let (number, ready) = (tasks.started, self.ready.clone());
        let waker = Arc::new(TaskWaker { slot: at, process, number, queued: AtomicBool::new(false), ready });
        tasks.slots[at] = Some(Slot { waker: waker.clone(), process, future: Some(future) });
        waker.wake();
    }

    fn set_timer(&self, at: Instant, action: Action) -> TimerKey {
        let tie = self.random.lock().next();
        let mut clock = self.clock.lock();
        clock.made += 1;
        let key = (at, tie, clock.made);
        clock.timers.insert(key, action);
        key
    }

    fn step(&self) -> Result<(), Stall> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if step >= self.steps_max.load(Ordering::Relaxed) {
            return Err(Stall::Steps(step));
        }
        self.run_due_at(step);
        match self.pick() {
            Some(task) => {
                self.poll(task);
                Ok(())
            }
            None if self.fire() => Ok(()),
            None if self.ready.lock().is_empty() => {
                Err(Stall::Deadlock { tasks: self.tasks.lock().slots.iter().flatten().count() })
            }
            None => Ok(()),
        }
    }

    fn run_due_at(&self, step: u64) {
        loop {
            let jobs = {
                let mut tasks = self.tasks.lock();
                let due = tasks.by_step.first_entry().filter(|e| *e.key() <= step);
                let Some(due) = due else { return };
                due.remove()
            };
            for job in jobs {
                job();
            }
        }
    }

    /// Picks a ready task by the seed. `None`: there is none, or time shall pass first.
    fn pick(&self) -> Option<Arc<TaskWaker>> {
        let next = self.clock.lock().soon();
        let mut ready = self.ready.lock();
        let mut random = self.random.lock();
        if ready.is_empty() || next && random.below(512) == 0 {
            return None;
        }
        // By a draw over the tasks' numbers: in which order they were woken must not matter, since tokio's `watch`
        // wakes its waiters in a random one.
        let salt = random.next() | 1;
        let frozen = self.frozen.lock();
        let runs = |at: &usize| !frozen.contains(&ready[*at].process);
        let at = (0..ready.len()).filter(runs).min_by_key(|at| ready[*at].number.wrapping_mul(salt))?;
        Some(ready.swap_remove(at))
    }

    fn poll(&self, task: Arc<TaskWaker>) {
        let at = task.slot;
        task.queued.store(false, Ordering::Relaxed);
        let taken = {
            let mut tasks = self.tasks.lock();
            let slot = tasks.slots[at].as_mut().filter(|s| Arc::ptr_eq(&s.waker, &task));
            slot.and_then(|s| s.future.take())
        };
        let Some(mut future) = taken else { return };
        let waker = Waker::from(task);
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut tasks = self.tasks.lock();
        let process = tasks.slots[at].as_ref().map_or(0, |s| s.process);
        if done || tasks.dead[process] {
            tasks.slots[at] = None;
            tasks.free.push(at);
            drop(tasks);
            drop(future);
        } else if let Some(slot) = &mut tasks.slots[at] {
            slot.future = Some(future);
        }
    }

    /// Advances to the next timer and fires it; false when there is none.
    fn fire(&self) -> bool {
        let action = {
            let mut clock = self.clock.lock();
            let Some(((at, _, _), action)) = clock.timers.pop_first() else { return false };
            clock.now = clock.now.max(at);
            action
        };
        match action {
            Action::Wake(waker) => waker.wake(),
            Action::Run(job) => job(),
        }
        true
    }
}

/// One process's view of the world.
struct SimRuntime {
    core: Arc<Core>,
    process: usize,
    skew_ms: Arc<AtomicU64>,
}

impl Runtime for SimRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.core.spawn(self.process, task);
    }
    fn cpu(&self, job: Job) {
        job();
    }
    fn give_way(&self) -> BoxFuture<'static, ()> {
        let mut turn = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut turn, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .boxed()
    }
    fn sleep(&self, d: Duration) -> BoxFuture<'static, ()> {
        let at = self.now() + d;
        Sleep { core: self.core.clone(), at, timer: None }.boxed()
    }
    fn now(&self) -> Instant {
        self.core.clock.lock().now
    }
    fn wall_ms(&self) -> u64 {
        // It may be behind, too.
        let skewed = 1_700_000_000_000u64.wrapping_add(self.skew_ms.load(Ordering::Relaxed));
        skewed + self.now().0.as_millis() as u64
    }
    fn random(&self) -> u64 {
        self.core.random.lock().next()
    }
}

struct Sleep {
    core: Arc<Core>,
    at: Instant,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.cancel();
        if self.core.clock.lock().now >= self.at {
            return Poll::Ready(());
        }
        self.timer = Some(self.core.set_timer(self.at, Action::Wake(cx.waker().clone())));
        Poll::Pending
    }
}

impl Sleep {
    fn cancel(&mut self) {
        if let Some(key) = self.timer.take() {
            let removed = self.core.clock.lock().timers.remove(&key);
            drop(removed);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_of(seed: u64) -> Vec<u32> {
        let sim = Sim::new(seed);
        let rt = sim.rt();
        let trace = Arc::new(Mutex::new(Vec::new()));
        let seen = trace.clone();
        sim.run(async move {
            let tasks = (0..8).map(|n| {
                let (rt, trace) = (rt.clone(), trace.clone());
                rt.clone().spawn(async move {
                    for round in 0..4 {
                        rt.sleep(Duration::from_micros(rt.below(3))).await;
                        trace.lock().push(n * 10 + round);
                    }
                })
            });
            futures::future::join_all(tasks.collect::<Vec<_>>()).await;
        })
        .unwrap();
        let seen = seen.lock();
        seen.clone()
    }

    #[test]
    fn a_run_is_its_seed() {
        assert_eq!(trace_of(1), trace_of(1));
        assert_ne!(trace_of(1), trace_of(2));
    }

    #[test]
    fn time_is_virtual_and_timeouts_work() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        let took = sim.run(async move {
            let begun = rt.now();
            assert!(rt.timeout(Duration::from_secs(60), std::future::pending::<()>()).await.is_none());
            assert_eq!(rt.timeout(Duration::from_secs(60), async { 7 }).await, Some(7));
            assert_eq!(rt.cpu(|| 8).await.unwrap(), 8);
            rt.now().since(begun)
        });
        assert_eq!(took, Ok(Duration::from_secs(60)));
    }

    #[test]
    fn deadlock_and_livelock_are_told() {
        let sim = Sim::new(1);
        assert!(matches!(sim.run(std::future::pending::<()>()), Err(Stall::Deadlock { .. })));
        let sim = Sim::new(1);
        sim.limit_steps(1000);
        let rt = sim.rt();
        let spin = async move {
            loop {
                rt.sleep(Duration::from_secs(1)).await;
            }
        };
        assert_eq!(sim.run(spin), Err(Stall::Steps(1000)));
    }

    #[test]
    fn a_frozen_process_goes_on_later_by_another_clock() {
        let sim = Sim::new(1);
        let (process, rt) = (sim.process(), sim.rt());
        let own = process.rt();
        let sleeper = own.clone().spawn(async move {
            own.sleep(Duration::from_secs(1)).await;
            (own.now().0, own.wall_ms())
        });
        let wall_ms = process.rt().wall_ms();
        sim.after(Duration::from_millis(500), move || {
            process.freeze(Duration::from_secs(5));
            process.jump_clock();
        });
        let (woken, later_ms) = sim
            .run(async move {
                rt.sleep(Duration::from_secs(60)).await;
                sleeper.await.unwrap()
            })
            .unwrap();
        assert_eq!(woken, Duration::from_millis(5_500));
        assert_ne!(later_ms, wall_ms + woken.as_millis() as u64);
    }

    #[test]
    fn a_kill_drops_tasks_at_an_await_and_none_starts_later() {
        for seed in 0..50 {
            let sim = Sim::new(seed);
            let (process, world, rt) = (sim.process(), sim.rt(), sim.process().rt());
            let victim = process.rt();
            let count = Arc::new(AtomicU64::new(0));
            let counted = count.clone();
            let own = victim.clone();
            victim
                .spawn(async move {
                    loop {
                        own.sleep(Duration::from_millis(1)).await;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .detach();
            let killed = process.clone();
            sim.after_steps(20, move || killed.kill());
            let other = rt.spawn(async { 5 });
            sim.run(async move {
                world.sleep(Duration::from_secs(1)).await;
                assert_eq!(other.await.unwrap(), 5);
                assert!(victim.spawn(async {}).await.is_err());
            })
            .unwrap();
            assert!(!process.alive());
            assert!(count.load(Ordering::Relaxed) <= 20);
        }
    }
}
