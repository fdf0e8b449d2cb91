//! A shared allowance of memory: who wants more than is left waits; nobody fails for want of it.
//!
//! Whoever takes of it belongs to a *party*. Half of the allowance is guaranteed to the parties that asked for a share, in
//! equal parts; the rest, and what of the shares nobody uses beyond them, is for all. So a party that gives nothing back
//! for hours never brings another one to a standstill.
//!
//! Invariants:
//! - Never more is handed out than there is, and nobody is given what is kept free for others: of each share what its
//!   party doesn't use. Only a party that comes while others hold its share waits until they give it back, before them.
//! - Within a party first come, first served. Between parties as well, but what lies within its party's share doesn't stand
//!   behind others.
//! - Who asks for more than its party's share is given less when the party holds nothing and there isn't more: it could
//!   wait as long as others like otherwise. So what is handed out counts too little then, once a party.
//! - Whoever can be served has been served whenever the lock is free.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use super::loan::Loan;

/// What one unit stands for, in bytes. Small enough for a block, so that the sums stay honest.
const UNIT: u64 = 1024;
/// So much of a budget is lent at most, one part in so many; and what is lent grows and shrinks by one in so many.
const LENT: u64 = 2;
const LOAN_STEP: u64 = 64;

/// An allowance of bytes for all who share it, in the hands of one party. Cheap to clone; a clone belongs to
/// the same party.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Party>);

/// A part of a budget; given back when it is dropped. It may outlive its party.
#[derive(Debug)]
pub struct Held {
    shared: Arc<Shared>,
    party: PartyId,
    units: u64,
}

type PartyId = u64;

/// One party of a budget. The party ends when its last handle is dropped.
#[derive(Debug)]
struct Party {
    shared: Arc<Shared>,
    id: PartyId,
    /// Rings when somebody of the party begins to wait, where nobody did before.
    short: Notify,
}

#[derive(Debug)]
struct Shared {
    /// Size of the whole budget in units. A copy of `State::total` that can be read without the lock.
    total: u64,
    state: Mutex<State>,
    /// Of what nobody uses.
    loan: OnceLock<Arc<Loan>>,
}

/// The accounts of all parties of a budget. All amounts are in units.
#[derive(Debug, Default)]
struct State {
    total: u64,
    used: u64,
    /// Number of parties that have a share.
    sharers: u64,
    accounts: BTreeMap<PartyId, Account>,
    /// Last number that was given to a party or a waiter.
    numbers: u64,
}

#[derive(Debug, Default)]
struct Account {
    used: u64,
    has_share: bool,
    /// The party has ended. Its account goes when everything that it holds is given back.
    ended: bool,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    /// Number of the request. It grows with every waiter of any party, so that the first can be found.
    turn: u64,
    /// Units that were asked for. The waiter may be given fewer: what can be had changes as parties come and
    /// go.
    units: u64,
    answer: oneshot::Sender<Held>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn account(&mut self, id: PartyId) -> &mut Account {
        self.accounts.get_mut(&id).expect("it stays while the party has a handle or holds something")
    }

    fn enter(&mut self, has_share: bool) -> PartyId {
        let id = self.number();
        self.sharers += u64::from(has_share);
        self.accounts.insert(id, Account { has_share, ..Account::default() });
        id
    }

    fn leave(&mut self, id: PartyId) {
        let account = self.account(id);
        debug_assert!(account.queue.is_empty(), "who waits has a handle");
        account.ended = true;
        let had = std::mem::take(&mut account.has_share);
        self.sharers -= u64::from(had);
        self.forget(id);
    }

    fn forget(&mut self, id: PartyId) {
        let account = self.account(id);
        if account.ended && account.used == 0 {
            self.accounts.remove(&id);
        }
    }

    /// Returns the units that each party with a share may count on.
    fn share(&self) -> u64 {
        self.total / (2 * self.sharers).max(1)
    }

    /// Returns the units that this party may take now: neither used nor kept for other parties' shares.
    fn free_for(&self, id: PartyId) -> u64 {
        let share = self.share();
        let others = self.accounts.iter().filter(|(other, account)| **other != id && account.has_share);
        let kept: u64 = others.map(|(_, account)| share.saturating_sub(account.used)).sum();
        (self.total - self.used).saturating_sub(kept)
    }

    /// Returns how many units are given to a party that asks for `units`, or `None` if the request can't be
    /// served now. `behind`: a waiter of another party came first.
    fn allows(&self, id: PartyId, units: u64, behind: bool) -> Option<u64> {
        let Account { used, has_share, .. } = self.accounts[&id];
        let own = if has_share { self.share() } else { 0 };
        // A request above all that the party can ever have waits for that: it could never be met otherwise.
        let most = self.total - self.share() * (self.sharers - u64::from(has_share));
        let units = units.min(most);
        let mut free = self.free_for(id);
        if behind {
            free = free.min(own.saturating_sub(used));
        }
        if units <= free {
            return Some(units);
        }
        // Beyond its share others may hold all for as long as they like, and nothing comes back from its own party.
        (used == 0 && own > 0 && own <= free).then_some(free)
    }

    fn hand_out(&mut self, id: PartyId, units: u64) {
        self.used += units;
        self.account(id).used += units;
    }

    fn take_back(&mut self, id: PartyId, units: u64) {
        self.used -= units;
        self.account(id).used -= units;
        self.forget(id);
    }

    /// Hands out units to a party that asks now, unless somebody who waits already must be served first.
    fn try_take(&mut self, id: PartyId, units: u64) -> Option<u64> {
        if self.is_short(id) {
            return None;
        }
        let units = self.allows(id, units, self.is_anyone_short())?;
        self.hand_out(id, units);
        Some(units)
    }

    fn is_short(&self, id: PartyId) -> bool {
        !self.accounts[&id].queue.is_empty()
    }

    fn is_anyone_short(&self) -> bool {
        self.accounts.values().any(|account| !account.queue.is_empty())
    }

    /// Serves the first waiter of all that can be served now. Returns the answer's sender, the party, and the
    /// units given.
    fn serve(&mut self) -> Option<(oneshot::Sender<Held>, PartyId, u64)> {
        let first = |(id, account): (&PartyId, &Account)| {
            account.queue.front().map(|waiter| (waiter.turn, *id, waiter.units))
        };
        let mut firsts: Vec<(u64, PartyId, u64)> = self.accounts.iter().filter_map(first).collect();
        firsts.sort_unstable();
        let mut firsts = firsts.into_iter().enumerate();
        let (id, units) =
            firsts.find_map(|(n, (_, id, units))| Some((id, self.allows(id, units, n > 0)?)))?;
        let waiter = self.account(id).queue.pop_front().expect("it was just seen");
        self.hand_out(id, units);
        Some((waiter.answer, id, units))
    }

    /// What is lent of what nobody uses.
    fn spare(&self) -> u64 {
        let step = (self.total / LOAN_STEP).max(1);
        (self.total - self.used).min(self.total / LENT) / step * step
    }

    /// The waiter, unless it has been served.
    fn give_up(&mut self, id: PartyId, turn: u64) -> Option<Waiter> {
        let queue = &mut self.account(id).queue;
        let at = queue.binary_search_by_key(&turn, |waiter| waiter.turn).ok()?;
        queue.remove(at)
    }
}

impl Shared {
    /// Serves all who can be served after a change. They are told outside of the lock: what they drop may take it again.
    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut served = Vec::new();
        while let Some(one) = state.serve() {
            served.push(one);
        }
        self.release(state);
        for (answer, party, units) in served {
            // Who gave up in this very moment gives it back.
            drop(answer.send(Held { shared: self.clone(), party, units }));
        }
    }

    /// Ends a change: returns when what was lent, and is not any more, has come back.
    fn release(&self, state: MutexGuard<'_, State>) {
        let Some(loan) = self.loan.get() else { return };
        // Under the lock: what is lent follows the changes in their order.
        let is_less = loan.set(state.spare() * UNIT);
        drop(state);
        if is_less {
            loan.collect();
        }
    }

    fn take_back(self: &Arc<Self>, id: PartyId, units: u64) {
        if units > 0 {
            let mut state = self.state.lock();
            state.take_back(id, units);
            self.settle(state);
        }
    }
}

impl Party {
    fn holds(&self, units: u64) -> Held {
        Held { shared: self.shared.clone(), party: self.id, units }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.leave(self.id);
        self.shared.settle(state);
    }
}

impl Budget {
    /// Makes a budget of so many bytes, in the hands of a party without a share of its own.
    pub fn new(bytes: u64) -> Budget {
        let total = (bytes / UNIT).max(1);
        let state = Mutex::new(State { total, ..State::default() });
        Budget::enter(Arc::new(Shared { total, state, loan: OnceLock::new() }), false)
    }

    /// What nobody uses of it, half of it at most, as memory for one who gives it back at once (`loan`).
    pub fn lend(&self) -> Arc<Loan> {
        let shared = &self.0.shared;
        let loan = shared.loan.get_or_init(Arc::default).clone();
        shared.release(shared.state.lock());
        loan
    }

    /// Returns this budget in the hands of a new party, which has a share: half of the budget divided by the
    /// number of such parties. The party ends with its last handle; what it holds still counts until it is
    /// given back.
    pub fn party(&self) -> Budget {
        Budget::enter(self.0.shared.clone(), true)
    }

    fn enter(shared: Arc<Shared>, has_share: bool) -> Budget {
        let mut state = shared.state.lock();
        let id = state.enter(has_share);
        // Requests above all that their parties can ever have wait for less now.
        shared.settle(state);
        Budget(Arc::new(Party { shared, id, short: Notify::new() }))
    }

    /// Returns the size of the whole budget, in bytes.
    pub fn total(&self) -> u64 {
        self.0.shared.total * UNIT
    }

    /// Returns how many bytes all parties hold.
    pub fn used(&self) -> u64 {
        self.0.shared.state.lock().used * UNIT
    }

    /// Returns how many bytes this party holds.
    pub fn used_here(&self) -> u64 {
        self.0.shared.state.lock().accounts[&self.0.id].used * UNIT
    }

    /// Returns how many bytes this party could take now if nobody were waiting.
    pub fn room(&self) -> u64 {
        self.0.shared.state.lock().free_for(self.0.id) * UNIT
    }

    /// Tells whether somebody of this party waits for memory. Holders of the same party may then hurry to
    /// give theirs back.
    pub fn is_short(&self) -> bool {
        self.0.shared.state.lock().is_short(self.0.id)
    }

    /// Tells whether somebody of any party waits for memory.
    pub fn is_anyone_short(&self) -> bool {
        self.0.shared.state.lock().is_anyone_short()
    }

    /// Returns when somebody of this party begins to wait where nobody did. Enable it before `is_short` is asked: then no
    /// shortage is missed.
    pub fn shortage(&self) -> Notified<'_> {
        self.0.short.notified()
    }

    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        let mut state = self.0.shared.state.lock();
        let units = state.try_take(self.0.id, bytes.div_ceil(UNIT))?;
        self.0.shared.release(state);
        Some(self.0.holds(units))
    }

    /// Waits until so much is free for the party. A holder must never wait for more of the same budget.
    pub async fn take(&self, bytes: u64) -> Held {
        match self.ask(bytes) {
            Ok(held) => held,
            Err(mut place) => (&mut place.answer).await.expect("it is answered before its sender is dropped"),
        }
    }

    /// Takes the memory at once, or enters the queue and returns the place in it.
    fn ask(&self, bytes: u64) -> Result<Held, Place<'_>> {
        let (party, units) = (&*self.0, bytes.div_ceil(UNIT));
        let mut state = party.shared.state.lock();
        if let Some(units) = state.try_take(party.id, units) {
            party.shared.release(state);
            return Ok(party.holds(units));
        }
        let begins = !state.is_short(party.id);
        let (turn, (sender, answer)) = (state.number(), oneshot::channel());
        state.account(party.id).queue.push_back(Waiter { turn, units, answer: sender });
        drop(state);
        if begins {
            party.short.notify_waiters();
        }
        Err(Place { party, turn, answer })
    }
}

/// A place in the queue of those who wait for memory. Dropping it gives the place up. Memory that was granted
/// and that nobody took goes back when the answer is dropped.
struct Place<'a> {
    party: &'a Party,
    turn: u64,
    answer: oneshot::Receiver<Held>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.party.shared.state.lock();
        // Dropped outside of the lock, as it wakes.
        let Some(_waiter) = state.give_up(self.party.id, self.turn) else { return };
        self.party.shared.settle(state);
    }
}

impl Held {
    /// Returns the bytes that are held. They are fewer than were asked for if the party could never have had
    /// so many.
    pub fn bytes(&self) -> u64 {
        self.units * UNIT
    }

    /// Joins two parts of the budget into one. Both must be of one party: otherwise the other party's bytes
    /// would be given back to the wrong one.
    pub fn join(&mut self, mut other: Held) {
        let same = Arc::ptr_eq(&self.shared, &other.shared) && self.party == other.party;
        assert!(same, "only what one party holds becomes one");
        self.units += std::mem::take(&mut other.units);
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let above = self.units.saturating_sub(bytes.div_ceil(UNIT));
        self.units -= above;
        self.shared.take_back(self.party, above);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.take_back(self.party, self.units);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use proptest::prelude::*;

    use super::*;

    type Wait = BoxFuture<'static, Held>;

    /// Makes a budget of 100 units.
    fn hundred() -> Budget {
        Budget::new(100 * UNIT)
    }

    fn try_take(budget: &Budget, units: u64) -> Option<Held> {
        budget.try_take(units * UNIT)
    }

    /// Asks at once.
    fn wait(budget: &Budget, units: u64) -> Wait {
        let budget = budget.clone();
        let mut wait = async move { budget.take(units * UNIT).await }.boxed();
        assert!((&mut wait).now_or_never().is_none(), "it need not wait");
        wait
    }

    /// The units, if it is served.
    fn served(wait: &mut Wait) -> Option<(u64, Held)> {
        wait.now_or_never().map(|held| (held.units, held))
    }

    #[tokio::test]
    async fn who_wants_too_much_waits_for_all_and_gets_it() {
        let budget = Budget::new(10 * 1024);
        let mut a = budget.take(4096).await;
        assert_eq!(budget.used(), 4096);
        let mut b = Box::pin(budget.take(1 << 40));
        assert!((&mut b).now_or_never().is_none());
        assert!(budget.is_short());
        a.shrink(1000);
        assert_eq!(a.bytes(), 1024);
        drop(a);
        let b = b.await;
        assert_eq!((b.bytes(), budget.used()), (10 * 1024, 10 * 1024));
        assert!(!budget.is_short() && budget.try_take(1).is_none());
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_guaranteed_to_others_stays_free() {
        let all = hundred();
        let (a, b) = (all.party(), all.party());
        assert_eq!((all.room(), a.room()), (50 * UNIT, 75 * UNIT));
        let most = try_take(&a, 75).unwrap();
        assert!(try_take(&a, 1).is_none() && try_take(&all, 1).is_none());
        assert_eq!((a.room(), b.room(), all.room()), (0, 25 * UNIT, 0));
        let mut more = wait(&a, 10);
        assert!(a.is_short() && !b.is_short() && b.is_anyone_short());
        let first = try_take(&b, 20).unwrap();
        assert!(try_take(&b, 6).is_none(), "beyond its share it stands behind");
        drop((first, try_take(&b, 5).unwrap()));
        // What never fits its share: as much as there is, while it holds nothing.
        let large = try_take(&b, 60).unwrap();
        assert_eq!((large.units, all.used()), (25, 100 * UNIT));
        let mut next = wait(&b, 60);
        drop(large);
        assert_eq!(served(&mut next).unwrap().0, 25);
        drop(most);
        assert_eq!(served(&mut more).unwrap().0, 10);
        assert_eq!(all.used(), 0);
    }

    #[test]
    fn who_waits_is_not_overtaken() {
        let all = hundred();
        let (a, b) = (all.party(), all.party());
        let (one, two) = (try_take(&a, 30).unwrap(), try_take(&a, 45).unwrap());
        let mut large = wait(&a, 50);
        let mut small = wait(&a, 1);
        let mut own = try_take(&b, 25).unwrap();
        let mut beyond = wait(&b, 2);
        drop(one);
        assert!(served(&mut large).is_none(), "30 are free");
        assert!(served(&mut small).is_none() && try_take(&a, 1).is_none(), "of the same party");
        assert!(served(&mut beyond).is_none() && try_take(&all, 1).is_none(), "of others");
        own.shrink(10 * UNIT);
        let (_, beyond) = served(&mut beyond).expect("it fits its share now");
        drop(two);
        let (units, large) = served(&mut large).unwrap();
        assert_eq!((units, served(&mut small).unwrap().0), (50, 1));
        drop((own, beyond, large));
        assert_eq!(all.used(), 0);
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let all = hundred();
        let a = all.party();
        let most = try_take(&a, 60).unwrap();
        let large = wait(&a, 70);
        let (mut small, mut last) = (wait(&a, 30), wait(&a, 20));
        drop(large);
        let (_, small) = served(&mut small).unwrap();
        assert!(served(&mut last).is_none() && a.is_short());
        // Served, and dropped before it knew.
        let mut later = wait(&a, 90);
        drop(small);
        assert_eq!(all.used(), 80 * UNIT);
        drop(last);
        assert_eq!(all.used(), 60 * UNIT);
        assert!(served(&mut later).is_none());
        drop(most);
        assert_eq!(served(&mut later).unwrap().0, 90);
        assert!(!a.is_short() && all.used() == 0);
    }

    #[test]
    fn parties_come_and_go() {
        let all = hundred();
        let mut most = try_take(&all, 100).unwrap();
        let mut first = wait(&all, 5);
        let a = all.party();
        let mut own = wait(&a, 30);
        most.shrink(80 * UNIT);
        assert!(served(&mut first).is_none() && served(&mut own).is_none());
        most.shrink(70 * UNIT);
        let (_, own_held) = served(&mut own).expect("its share is filled first");
        assert!(served(&mut first).is_none());
        drop((a, own));
        most.shrink(65 * UNIT);
        let (_, first) = served(&mut first).expect("no share is kept free any more");
        assert_eq!(all.used(), 100 * UNIT, "what was held counts on");
        drop((own_held, first));
        most.shrink(10 * UNIT);
        // The most that it could have grows while it waits.
        let (a, b) = (all.party(), all.party());
        let mut large = wait(&all, 80);
        drop(a);
        assert!(served(&mut large).is_none());
        drop(b);
        assert_eq!(served(&mut large).unwrap().0, 80);
        drop(most);
        assert_eq!((all.used(), all.0.shared.state.lock().accounts.len()), (0, 1));
    }

    #[test]
    fn a_shortage_wakes_its_own_party() {
        let all = hundred();
        let (a, b) = (all.party(), all.party());
        let (mut for_a, mut for_b) = (Box::pin(a.shortage()), Box::pin(b.shortage()));
        assert!(for_a.as_mut().now_or_never().is_none() && for_b.as_mut().now_or_never().is_none());
        let held = try_take(&a, 75).unwrap();
        let waits = (wait(&a, 1), wait(&a, 1));
        assert!(for_a.as_mut().now_or_never().is_some() && for_b.as_mut().now_or_never().is_none());
        assert!(a.shortage().now_or_never().is_none(), "one that goes on is asked for");
        drop((waits, held));
        assert!(!all.is_anyone_short());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(usize, u64),
        GiveBack(usize),
        Shrink(usize, u64),
        GiveUp(usize),
        Come,
        Go(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (any::<usize>(), 0u64..120).prop_map(|(who, units)| Step::Take(who, units)),
            8 => (any::<usize>(), 0u64..20).prop_map(|(who, units)| Step::Take(who, units)),
            8 => any::<usize>().prop_map(Step::GiveBack),
            4 => (any::<usize>(), 0u64..40).prop_map(|(which, units)| Step::Shrink(which, units)),
            4 => any::<usize>().prop_map(Step::GiveUp),
            1 => Just(Step::Come),
            1 => any::<usize>().prop_map(Step::Go),
        ]
    }

    struct World {
        /// The first has no share.
        parties: Vec<Budget>,
        held: Vec<Held>,
        /// Requests that wait, in order of arrival.
        waiting: Vec<(Budget, Wait)>,
        /// No party has come or gone since all was free.
        calm: bool,
        sharers: u64,
    }

    impl World {
        fn step(&mut self, step: Step) {
            let (parties, held, waiting) = (self.parties.len(), self.held.len(), self.waiting.len());
            match step {
                Step::Take(who, units) => {
                    let (mine, budget) =
                        (self.parties[who % parties].clone(), self.parties[who % parties].clone());
                    self.waiting.push((mine, async move { budget.take(units * UNIT).await }.boxed()));
                }
                Step::GiveBack(which) if held > 0 => drop(self.held.swap_remove(which % held)),
                Step::Shrink(which, units) if held > 0 => self.held[which % held].shrink(units * UNIT),
                Step::GiveUp(which) if waiting > 0 => drop(self.waiting.remove(which % waiting)),
                Step::Come => {
                    self.calm = false;
                    self.parties.push(self.parties[0].party());
                }
                Step::Go(which) if parties > 1 => {
                    drop(self.parties.swap_remove(1 + which % (parties - 1)));
                }
                _ => {}
            }
        }

        fn poll(&mut self) {
            let (mut still, mut done): (Vec<(Budget, Wait)>, Vec<Budget>) = Default::default();
            for (budget, mut wait) in self.waiting.drain(..) {
                let Some(held) = (&mut wait).now_or_never() else {
                    still.push((budget, wait));
                    continue;
                };
                assert!(
                    still.iter().all(|(other, _)| other.0.id != held.party),
                    "overtaken by its own party"
                );
                self.held.push(held);
                done.push(budget);
            }
            self.waiting = still;
            // A party may end with one of these, and others be served.
            if !done.is_empty() {
                drop(done);
                self.poll();
            }
        }

        fn check(&mut self) {
            let shared = self.parties[0].0.shared.clone();
            let mut state = shared.state.lock();
            assert!(state.used <= state.total && state.serve().is_none());
            assert_eq!(state.used, self.held.iter().map(|h| h.units).sum::<u64>());
            for (id, account) in &state.accounts {
                let held = self.held.iter().filter(|h| h.party == *id);
                assert_eq!(account.used, held.map(|h| h.units).sum::<u64>());
                assert_eq!(account.queue.len(), self.waiting.iter().filter(|(it, _)| it.0.id == *id).count());
            }
            self.calm = state.used == 0 || self.calm && self.sharers == state.sharers;
            self.sharers = state.sharers;
            if self.calm && state.share() > 0 {
                let share = state.share();
                let counts = |a: &Account| if a.has_share { a.used.max(share) } else { a.used };
                assert!(state.accounts.values().map(counts).sum::<u64>() <= state.total);
                let moves = |a: &Account| !a.has_share || a.queue.is_empty() || a.used > 0;
                assert!(state.accounts.values().all(moves), "who holds nothing waits");
            }
        }
    }

    proptest! {
        /// Whatever is taken, given back and given up, and whichever parties come and go.
        #[test]
        fn nothing_is_lost_and_all_are_served(steps in prop::collection::vec(step(), 1..150)) {
            let all = hundred();
            let parties = vec![all.clone(), all.party(), all.party()];
            let mut world =
                World { parties, held: Vec::new(), waiting: Vec::new(), calm: true, sharers: 2 };
            for step in steps {
                world.step(step);
                world.poll();
                world.check();
            }
            while !world.waiting.is_empty() {
                prop_assert!(!world.held.is_empty(), "who waits, waits for somebody");
                world.held.clear();
                world.poll();
                world.check();
            }
            drop(world);
            prop_assert_eq!((all.used(), all.0.shared.state.lock().accounts.len()), (0, 1));
            prop_assert!(try_take(&all, 100).is_some());
        }
    }
}
