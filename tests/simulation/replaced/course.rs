//! What happens, one thing after another, and what clients are told then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windlass_base::rt::Task;
use windlass_base::rt::sim::World;
use windlass_base::{Epoch, Kind, Name, VolumeId};
use windlass_volume::{
    FlushMode, OpenMode, SnapshotId, SnapshotView, Volume, VolumeSettings, rename, snapshot_group,
};

use super::hosts::{Copies, Daemon, Stores, is_refused, name};
use super::truth::{BLOCK, BLOCKS, Blocks, Owner, SIZE, Truth, block, look, tags};
use crate::seeds::is_replay;

const ROUNDS: u64 = 60;
const CLIENTS_MAX: usize = 6;
/// Time within which a host hears that it was shut out, once its clients ask for something.
const NOTICES: Duration = Duration::from_secs(5);

/// A client's claim as the next daemon is told: the epochs that it was shown, or why it has failed.
type Held = Result<Option<Vec<Epoch>>, String>;

/// A client of host A, which stays connected.
struct Client {
    volume: VolumeId,
    /// The volume's name when the client was told of it last.
    called: Name,
    handle: Arc<Volume>,
    /// The client must not go on: others have had the volume, or what it wrote may be gone.
    shut_out: bool,
    /// The client has been told that it was shut out.
    noticed: bool,
}

/// A client that reads a snapshot.
struct Reader {
    volume: VolumeId,
    called: Name,
    snapshot: SnapshotId,
    shows: Blocks,
    view: Arc<SnapshotView>,
    gone: bool,
}

struct Course {
    world: World,
    stores: Stores,
    others: Stores,
    a: Daemon,
    b: Daemon,
    flush: FlushMode,
    volumes: BTreeMap<VolumeId, Truth>,
    clients: Vec<Client>,
    readers: Vec<Reader>,
    backup: Option<(Copies, BTreeMap<VolumeId, Truth>)>,
    /// B's tries to open what A has.
    knocks: Vec<Task<()>>,
    tag: u32,
    names: u32,
    hosts: u128,
}

pub async fn run(world: World) {
    let (stores, others) = (Stores::new(&world, "s"), Stores::new(&world, "o"));
    Daemon::new(&world, 9).found(&others).await;
    let mut a = Daemon::new(&world, 1);
    a.found(&stores).await;
    let mut b = Daemon::new(&world, 2);
    b.start(&stores).await;
    let flush = [FlushMode::Local, FlushMode::Pool][world.below(2) as usize];
    let mut course = Course {
        world,
        stores,
        others,
        a,
        b,
        flush,
        volumes: BTreeMap::new(),
        clients: Vec::new(),
        readers: Vec::new(),
        backup: None,
        knocks: Vec::new(),
        tag: 0,
        names: 0,
        hosts: 2,
    };
    course.create(name("v")).await;
    for _ in 0..ROUNDS {
        course.happens().await;
        let pause = Duration::from_millis(1 << course.world.below(14));
        course.world.rt().sleep(pause).await;
    }
    course.settle().await;
}

impl Course {
    fn note(&self, what: impl FnOnce() -> String) {
        if is_replay() {
            eprintln!("{:>14?} {}", self.world.now().0, what());
        }
    }

    fn pick(&self, n: usize) -> usize {
        self.world.below(n as u64) as usize
    }

    fn chance(&self, one_in: u64) -> bool {
        self.world.below(one_in) == 0
    }

    fn fresh_tag(&mut self) -> u32 {
        self.tag += 1;
        self.tag
    }

    /// Picks a volume that exists, and returns its name and owner too.
    fn some_volume(&self) -> Option<(VolumeId, Name, Owner)> {
        let all: Vec<_> = self
            .volumes
            .iter()
            .filter_map(|(id, truth)| Some((*id, truth.name.clone()?, truth.owner)))
            .collect();
        (!all.is_empty()).then(|| all[self.pick(all.len())].clone())
    }

    fn truth(&mut self, id: VolumeId) -> &mut Truth {
        self.volumes.get_mut(&id).unwrap()
    }

    fn shut_out(&mut self, id: VolumeId) {
        self.clients
            .iter_mut()
            .filter(|client| client.volume == id)
            .for_each(|client| client.shut_out = true);
    }

    async fn create(&mut self, called: Name) {
        let settings = VolumeSettings {
            flush: self.flush,
            journal_size: VolumeSettings::JOURNAL_MIN,
            ..VolumeSettings::default()
        };
        self.b.volumes().create(&called, SIZE, settings).await.unwrap();
        let id = self.b.volumes().open(&called, OpenMode::Normal).await.unwrap().id();
        self.volumes.insert(id, Truth::new(called));
    }

    async fn happens(&mut self) {
        match self.world.below(100) {
            0..40 => self.client_asks().await,
            40..48 => self.client_comes().await,
            48..52 => self.a_releases().await,
            52..60 => self.b_uses().await,
            60..64 => self.b_forces().await,
            64..68 => self.b_renames().await,
            68..70 => self.b_removes().await,
            70..76 => self.snapshots().await,
            76..90 => self.a_is_replaced().await,
            90..93 => self.a_is_killed().await,
            93..96 => self.backs_up().await,
            _ => self.is_put_back().await,
        }
    }

    async fn client_comes(&mut self) {
        let Some((id, called, owner)) = self.some_volume() else { return };
        let opened = self.a.volumes().open(&called, OpenMode::Attach).await;
        self.note(|| format!("a client comes to {called}, of {owner:?}: {:?}", opened.as_ref().err()));
        if owner == Owner::B {
            return is_refused(opened, "it is another host's");
        }
        let handle = opened.unwrap();
        assert_eq!(handle.id(), id);
        assert_eq!(look(&handle).await.unwrap(), self.truth(id).now(), "who comes sees all");
        if self.clients.len() < CLIENTS_MAX {
            let (volume, shut_out, noticed) = (id, false, false);
            self.clients.push(Client { volume, called, handle, shut_out, noticed });
        }
    }

    async fn client_asks(&mut self) {
        if self.clients.is_empty() {
            return self.client_comes().await;
        }
        let at = self.pick(self.clients.len());
        let (id, shut_out) = (self.clients[at].volume, self.clients[at].shut_out);
        let handle = self.clients[at].handle.clone();
        let (place, tag) = (self.pick(BLOCKS), self.fresh_tag());
        let what = self.world.below(3);
        self.note(|| format!("client {at} of {id}, shut out {shut_out}, asks {what}, tag {tag} at {place}"));
        let done = match what {
            0 => match handle.write(place as u64 * BLOCK, block(tag)).await {
                Ok(()) => handle.keep().await,
                failed => failed,
            },
            1 => handle.flush().await,
            _ => look(&handle).await.map(|seen| {
                assert!(shut_out || seen == self.truth(id).now(), "{seen:?}, not {:?}", self.truth(id).now());
            }),
        };
        if shut_out {
            assert!(
                !self.clients[at].noticed || done.is_err(),
                "who was told that it is over is answered again"
            );
            self.clients[at].noticed |= done.is_err();
            return;
        }
        done.unwrap_or_else(|e| panic!("client {at} has all, and is refused: {e}"));
        match what {
            0 => {
                self.truth(id).written(place, tag);
                self.truth(id).owner = Owner::A;
            }
            // On its own disk alone it may be lost to who takes the volume over.
            1 if self.flush == FlushMode::Pool => self.truth(id).flushed(),
            _ => {}
        }
    }

    async fn a_releases(&mut self) {
        let Some((id, called, Owner::A)) = self.some_volume() else { return };
        self.note(|| format!("A releases {called}"));
        self.a.volumes().release(&called).await.unwrap();
        let truth = self.truth(id);
        truth.flushed();
        truth.owner = Owner::Nobody;
    }

    /// Opens a volume on B without force: another host's volume is refused.
    async fn b_uses(&mut self) {
        let Some((id, called, owner)) = self.some_volume() else { return };
        self.b_uses_one(id, &called, owner).await;
    }

    async fn b_uses_one(&mut self, id: VolumeId, called: &Name, owner: Owner) {
        let opened = self.b.volumes().open(called, OpenMode::Normal).await;
        self.note(|| format!("B opens {called}, of {owner:?}: {:?}", opened.as_ref().err()));
        if owner == Owner::A {
            return is_refused(opened, "its owner's clients are there");
        }
        let volume = opened.unwrap();
        assert_eq!(look(&volume).await.unwrap(), self.truth(id).now());
        self.b_writes(id, &volume).await;
        if self.chance(2) {
            self.b.volumes().release(called).await.unwrap();
            self.truth(id).owner = Owner::Nobody;
        }
    }

    async fn b_writes(&mut self, id: VolumeId, volume: &Volume) {
        let (place, tag) = (self.pick(BLOCKS), self.fresh_tag());
        volume.write(place as u64 * BLOCK, block(tag)).await.unwrap();
        volume.flush().await.unwrap();
        let truth = self.truth(id);
        truth.written(place, tag);
        truth.flushed();
        truth.owner = Owner::B;
        self.shut_out(id);
    }

    async fn b_forces(&mut self) {
        let Some((id, called, Owner::A)) = self.some_volume() else { return };
        self.note(|| format!("B takes {called} over"));
        // Clients of A come again and again: they must not be in its way.
        let (volumes, knocker, rt) = (self.a.volumes().clone(), called.clone(), self.a.rt.clone());
        let knocks = self.a.rt.spawn(async move {
            for _ in 0..100 {
                let _ = volumes.open(&knocker, OpenMode::Attach).await;
                rt.sleep(Duration::from_millis(20)).await;
            }
        });
        self.b.volumes().take_over(&called, false).await.unwrap();
        let volume = self.b.volumes().open(&called, OpenMode::Normal).await.unwrap();
        let seen = look(&volume).await.unwrap();
        self.truth(id).shown(seen, false);
        let reads = self.clients.iter().position(|client| client.volume == id && !client.shut_out);
        self.b_writes(id, &volume).await;
        knocks.await.unwrap();
        if let Some(at) = reads {
            self.hears_of_it(at).await;
        }
    }

    /// Waits until a client that only reads is told as well. Until then it may be answered from what was
    /// there before.
    async fn hears_of_it(&mut self, at: usize) {
        let (handle, rt) = (self.clients[at].handle.clone(), self.world.rt());
        let began = rt.now();
        while handle.read(0, BLOCK).await.is_ok() {
            let took = rt.now().since(began);
            assert!(took < NOTICES, "a former owner's reads are answered for {took:?}");
            rt.sleep(Duration::from_millis(200)).await;
        }
        self.clients[at].noticed = true;
    }

    async fn b_renames(&mut self) {
        let Some((id, called, _)) = self.some_volume() else { return };
        self.names += 1;
        let to = name(&format!("r{}", self.names));
        self.note(|| format!("B renames {called} to {to}, and makes another"));
        rename(self.b.volumes(), &called, &to).await.unwrap();
        self.truth(id).name = Some(to);
        self.create_another(called).await;
    }

    async fn create_another(&mut self, called: Name) {
        // Who opens it by its name while B lets go of it has it then.
        self.end_knocks().await;
        if self.volumes.values().filter(|truth| truth.name.is_some()).count() < 4 {
            self.create(called.clone()).await;
            let (id, _) = self.volumes.iter().find(|(_, t)| t.name.as_ref() == Some(&called)).unwrap();
            let id = *id;
            let volume = self.b.volumes().open(&called, OpenMode::Normal).await.unwrap();
            self.b_writes(id, &volume).await;
            self.b.volumes().release(&called).await.unwrap();
            self.truth(id).owner = Owner::Nobody;
        }
    }

    async fn b_removes(&mut self) {
        let Some((id, called, Owner::Nobody)) = self.some_volume() else { return };
        if self.readers.iter().any(|reader| reader.volume == id) {
            return;
        }
        self.note(|| format!("B removes {called}, and makes another"));
        self.b.volumes().remove(&called).await.unwrap();
        self.truth(id).name = None;
        self.shut_out(id);
        self.create_another(called).await;
    }

    /// Makes a snapshot; one that has the name already is removed first.
    async fn snapshots(&mut self) {
        let Some(at) = self.clients.iter().position(|client| !client.shut_out) else { return };
        let (id, handle) = (self.clients[at].volume, self.clients[at].handle.clone());
        let Some(called) = self.truth(id).name.clone() else { return };
        let which = name("s");
        self.note(|| format!("snapshot s of {called}"));
        let volumes = self.a.volumes().clone();
        if volumes.snapshot_names(&called).await.unwrap().contains(&which) {
            volumes.remove_snapshot(&called, &which).await.unwrap();
            self.readers.iter_mut().filter(|r| r.volume == id).for_each(|reader| reader.gone = true);
        }
        snapshot_group(&[(handle, which.clone())], true).await.unwrap();
        self.truth(id).owner = Owner::A;
        let view = volumes.open_snapshot(&called, &which).await.unwrap();
        let (volume, snapshot, shows, gone) = (id, view.id(), self.truth(id).now(), false);
        self.readers.push(Reader { volume, called, snapshot, shows, view, gone });
    }

    async fn a_is_replaced(&mut self) {
        let stays = self.chance(5);
        self.note(|| format!("A's daemon is replaced, in vain: {stays}"));
        self.b_knocks();
        self.a.volumes().leave().await;
        let told: Vec<Held> =
            self.clients.iter().map(|c| c.handle.held().map_err(|e| e.to_string())).collect();
        if stays {
            self.a.volumes().stay();
        } else {
            self.a.volumes().engine().pool.close().await;
            self.a.kill();
            if self.chance(3) {
                self.between_two_daemons().await;
            }
            if self.chance(4) {
                self.a.refuses(&self.others).await;
            }
            self.a.start(&self.stores).await;
        }
        if self.chance(2) {
            self.a_opens_what_it_had().await;
        }
        self.clients_again(told).await;
        self.readers_again().await;
        self.end_knocks().await;
    }

    async fn between_two_daemons(&mut self) {
        match self.world.below(4) {
            0 => self.b_renames().await,
            1 => self.b_removes().await,
            2 => self.b_uses().await,
            _ => {
                let Some((id, called, Owner::A)) = self.some_volume() else { return };
                self.end_knocks().await;
                self.note(|| format!("B takes {called} over in between"));
                self.b.volumes().take_over(&called, false).await.unwrap();
                let volume = self.b.volumes().open(&called, OpenMode::Normal).await.unwrap();
                let seen = look(&volume).await.unwrap();
                self.truth(id).shown(seen, false);
                self.b_writes(id, &volume).await;
                if self.chance(2) {
                    self.b.volumes().release(&called).await.unwrap();
                    self.truth(id).owner = Owner::Nobody;
                }
            }
        }
    }

    /// Has B try to open what A owns, again and again: those volumes stay A's, whatever happens to the rest.
    fn b_knocks(&mut self) {
        let owned = self.volumes.values().filter(|truth| truth.owner == Owner::A);
        let names: Vec<Name> = owned.filter_map(|truth| truth.name.clone()).collect();
        if !self.chance(2) {
            return;
        }
        let knock = |called: Name| {
            let (volumes, rt) = (self.b.volumes().clone(), self.b.rt.clone());
            self.b.rt.spawn(async move {
                for _ in 0..40 {
                    if let Ok(opened) = volumes.open(&called, OpenMode::Normal).await {
                        // One that has come by the name since, or that B has by force, is not claimed by looking.
                        let is_free = volumes.info(&called).await.is_ok_and(|info| {
                            info.released || info.owner_id == Some(volumes.engine().host.id)
                        });
                        assert!(is_free, "{} is let in", opened.title());
                    }
                    rt.sleep(Duration::from_millis(15)).await;
                }
            })
        };
        self.knocks = names.into_iter().map(knock).collect();
    }

    async fn end_knocks(&mut self) {
        for knock in std::mem::take(&mut self.knocks) {
            knock.await.unwrap();
        }
    }

    /// Opens on A what it owned, as a daemon does before its clients are back.
    async fn a_opens_what_it_had(&mut self) {
        let owned: Vec<_> = self.volumes.values().filter(|t| t.owner == Owner::A).cloned().collect();
        for truth in owned {
            if let Some(called) = &truth.name {
                self.a.volumes().open(called, OpenMode::Normal).await.unwrap();
            }
        }
    }

    async fn clients_again(&mut self, told: Vec<Held>) {
        let mut coming: Vec<_> = std::mem::take(&mut self.clients).into_iter().zip(told).collect();
        while !coming.is_empty() {
            let (mut client, held) = coming.swap_remove(self.pick(coming.len()));
            let (id, called) = (client.volume, client.called.clone());
            let again = match &held {
                Ok(held) => self.a.volumes().open_again(id, &called, held.as_deref()).await,
                Err(why) => Err(windlass_base::Error::new(Kind::Fenced, why.clone())),
            };
            self.note(|| format!("a client of {called} again, {held:?}: {:?}", again.as_ref().err()));
            if client.shut_out {
                is_refused(again, "it was shut out, and goes on");
                continue;
            }
            client.handle = again.unwrap_or_else(|e| panic!("it has all, and is not let in again: {e}"));
            assert_eq!(client.handle.id(), id, "it is on another disk");
            assert_eq!(look(&client.handle).await.unwrap(), self.truth(id).now());
            client.called = self.truth(id).name.clone().unwrap();
            self.clients.push(client);
        }
    }

    async fn readers_again(&mut self) {
        for mut reader in std::mem::take(&mut self.readers) {
            let names = (&reader.called, &name("s"));
            let again = self.a.volumes().open_snapshot_again(reader.volume, &reader.snapshot, names).await;
            if reader.gone {
                is_refused(again, "it is another snapshot");
                continue;
            }
            reader.view = again.unwrap();
            assert_eq!(tags(&reader.view.read(0, SIZE).await.unwrap()), reader.shows);
            self.readers.push(reader);
        }
    }

    /// Kills A's daemon and starts it anew. Its clients are gone with it, but what they wrote is not.
    async fn a_is_killed(&mut self) {
        self.note(|| "A is killed".to_owned());
        self.clients.clear();
        self.readers.clear();
        self.a.kill();
        self.a.start(&self.stores).await;
        self.a_opens_what_it_had().await;
    }

    async fn backs_up(&mut self) {
        if self.volumes.values().any(|truth| truth.name.is_some() && truth.owner != Owner::Nobody) {
            return;
        }
        self.note(|| "a backup is made".to_owned());
        // What was chosen a moment ago is brought to all stores.
        self.world.rt().sleep(Duration::from_secs(3)).await;
        self.backup = Some((self.stores.copies().await, self.volumes.clone()));
    }

    /// Puts all stores back from the backup. Daemons run on, with all that they know of what is gone.
    async fn is_put_back(&mut self) {
        let Some((copies, then)) = self.backup.take() else { return };
        let left = self.chance(2);
        self.note(|| format!("the stores are put back, newer left: {left}"));
        self.readers.clear();
        if self.chance(2) {
            self.one_misses_writes().await;
        }
        self.stores.put_back(&self.world.rt(), &copies, left).await;
        self.volumes = then;
        if left {
            // A volume that was made since keeps its clients.
            let volumes = &self.volumes;
            self.clients.retain(|client| volumes.contains_key(&client.volume));
        }
        let known: Vec<VolumeId> = self.volumes.keys().copied().collect();
        self.hosts += 1;
        let mut heir = Daemon::new(&self.world, self.hosts);
        heir.start(&self.stores).await;
        let mut former = std::mem::replace(&mut self.b, heir);
        for id in known.clone() {
            let Some(called) = self.truth(id).name.clone() else { continue };
            self.nobody_is_asked(&called).await;
            self.b_uses_one(id, &called, Owner::Nobody).await;
            self.shut_out(id);
        }
        self.clients.iter_mut().for_each(|client| client.shut_out = true);
        for _ in 0..8 {
            self.client_asks_of_what_is_gone().await;
        }
        // In an outage a host goes by what it has seen; that one is over.
        self.world.rt().sleep(NOTICES).await;
        self.former_hosts_get_nothing(&former).await;
        let told: Vec<Held> =
            self.clients.iter().map(|c| c.handle.held().map_err(|e| e.to_string())).collect();
        self.a.kill();
        self.a.start(&self.stores).await;
        self.clients_again(told).await;
        self.clients.clear();
        self.hosts += 1;
        self.a.kill();
        self.a = Daemon::new(&self.world, self.hosts);
        self.a.start(&self.stores).await;
        former.kill();
        for id in known {
            let Some(called) = self.truth(id).name.clone() else { continue };
            if self.truth(id).owner == Owner::B {
                self.b.volumes().release(&called).await.unwrap();
                self.truth(id).owner = Owner::Nobody;
            }
            self.nobody_is_asked(&called).await;
        }
    }

    /// Lets one store miss writes. Whoever wrote them brings them there as soon as the store is back.
    async fn one_misses_writes(&mut self) {
        let store = self.pick(3);
        self.note(|| format!("store {store} is away"));
        self.stores.is_away(store);
        // Until whoever asks it hears of that.
        self.world.rt().sleep(NOTICES).await;
        for _ in 0..4 {
            self.client_asks().await;
        }
        self.b_uses().await;
    }

    /// Checks that running daemons have brought nothing of what is gone to any store. A host that knows
    /// nothing opens a volume without being asked which history is right.
    async fn nobody_is_asked(&mut self, called: &Name) {
        self.hosts += 1;
        let mut host = Daemon::new(&self.world, self.hosts);
        host.start(&self.stores).await;
        let opened = host.volumes().open(called, OpenMode::Normal).await;
        host.kill();
        if let Err(why) = opened {
            assert!(why.is(Kind::Owned), "{called}: {why}");
        }
    }

    async fn client_asks_of_what_is_gone(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.pick(self.clients.len());
        let (handle, place, tag) = (self.clients[at].handle.clone(), self.pick(BLOCKS), self.fresh_tag());
        // It may wait for a head that is as new as what this host has seen.
        let asks = async {
            handle.write(place as u64 * BLOCK, block(tag)).await?;
            handle.flush().await
        };
        let done = self.world.rt().timeout(Duration::from_secs(3), asks).await;
        self.note(|| format!("client {at} of what is gone writes {tag}: {done:?}"));
        self.world.rt().sleep(Duration::from_millis(self.world.below(3_000))).await;
    }

    /// Checks that former hosts get nothing of the lost history. They may open what is released, if they take
    /// its head for no older one; then they see what it holds.
    async fn former_hosts_get_nothing(&mut self, former: &Daemon) {
        let all: Vec<_> = self.volumes.values().filter(|truth| truth.name.is_some()).cloned().collect();
        for truth in all {
            let called = truth.name.clone().unwrap();
            for host in [&self.a, former] {
                let opened = host.volumes().open(&called, OpenMode::Normal).await;
                match opened {
                    Ok(volume) if truth.owner == Owner::Nobody => {
                        assert_eq!(look(&volume).await.unwrap(), truth.now(), "a lost history shows");
                    }
                    opened => is_refused(opened, "a lost history's host has it"),
                }
            }
        }
    }

    /// Checks that everything acknowledged is there, wherever it is looked for.
    async fn settle(mut self) {
        self.note(|| "all is over".to_owned());
        self.clients.clear();
        self.a.kill();
        self.a.start(&self.stores).await;
        let all: Vec<_> = self.volumes.iter().map(|(id, truth)| (*id, truth.clone())).collect();
        for (_, truth) in all {
            let Some(called) = truth.name.clone() else { continue };
            let host = if truth.owner == Owner::B { &self.b } else { &self.a };
            let volume = host.volumes().open(&called, OpenMode::Normal).await.unwrap();
            assert_eq!(look(&volume).await.unwrap(), truth.now());
            volume.release().await.unwrap();
            let check = host.volumes().check(&called).await.unwrap();
            assert!(check.wrong.is_empty(), "{check:?}");
        }
    }
}
