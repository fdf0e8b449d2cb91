//! What the text of windlass.toml alone can tell about its values: limits, URLs, names that lead nowhere.

use std::collections::BTreeSet;
use std::time::Duration;

use super::listen_address::ListenAddress;
use super::section_macro::Findings;
use super::sections::{Config, Mount, Pool, Replica, Store, VolumeKeys};
use super::value_types::{List, Size, Written, bare_or_quoted};
use crate::daemon::api::VolumePath;
use windlass_base::units::{KIB, show_size};
use windlass_base::{Error, Kind, Name, Result, nearest};
use windlass_fs::MountOptions;
use windlass_nbd::Address;
use windlass_store::{StoreSpec, StoreUrl};

/// Least budget that an engine works with, in bytes.
pub const MEMORY_MIN: u64 = 64 << 20;
/// Least block cache on disk, in bytes.
pub const CACHE_MIN: u64 = 64 << 20;
/// Least rate of a scrub, in bytes a second. A smaller one would take hours for one shard: its unit was forgotten.
const RATE_MIN: u64 = 64 * KIB;
const SCRUB_MIN: Duration = Duration::from_secs(3600);
const REPLICA_MIN: Duration = Duration::from_secs(10);
const DRAIN_MIN: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// Longest path of a unix socket that Linux takes, in bytes.
const SOCKET_PATH_MAX: usize = 107;

pub fn check(findings: &mut Findings<'_>, config: &Config) {
    let top = &config.top;
    at_least(findings, "memory", top.memory.as_ref(), MEMORY_MIN, "");
    at_least(findings, "cache", top.cache.as_ref().filter(|c| c.0 != 0), CACHE_MIN, ", or 0 for none");
    addresses(findings, "nbd", top.nbd.as_ref(), |at: &ListenAddress| &at.address);
    addresses(findings, "metrics", top.metrics.as_ref(), |address| address);
    check_shared_ports(findings, config);
    check_mirror(findings, config);
    check_tls(findings, config);
    check_traces(findings, config);
    check_alert(findings, config);
    if let Some(drain) = config.limits.drain.as_ref().filter(|d| !(DRAIN_MIN..=DRAIN_MAX).contains(&d.0)) {
        findings.add(drain.line, "limits.drain", "is out of range: give 1s to 1h");
    }
    if let Some(slow) = config.log.slow.as_ref().filter(|slow| slow.0 < Duration::from_millis(1)) {
        findings.add(slow.line, "log.slow", "is too short: give at least 1ms");
    }
    if let Some(audit) = config.log.audit.as_ref().filter(|audit| !audit.starts_with('/')) {
        findings.add(audit.line, "log.audit", "is no whole path: begin it with /");
    }
    config.store.iter().for_each(|(name, store)| check_store(findings, name, store));
    config.pool.iter().for_each(|(name, pool)| check_pool(findings, config, name, pool));
    config.replica.iter().for_each(|(volume, replica)| check_replica(findings, volume, replica));
    config.volume.iter().for_each(|(volume, keys)| check_keys(findings, volume, keys));
    config.mount.iter().for_each(|(dir, mount)| check_mount(findings, config, dir, mount));
}

fn at_least(findings: &mut Findings<'_>, key: &str, size: Option<&Written<Size>>, min: u64, or: &str) {
    if let Some(size) = size.filter(|size| size.0 < min) {
        let (is, min) = (show_size(size.0), show_size(min));
        findings.add(size.line, key, format_args!("{is} is too small: give at least {min}{or}"));
    }
}

/// Finds addresses that two kinds of clients would share: whoever listens second would find the port taken.
fn check_shared_ports(findings: &mut Findings<'_>, config: &Config) {
    let top = &config.top;
    let mut all: Vec<(&str, usize, Address)> = Vec::new();
    for one in top.nbd.iter().flat_map(|list| &list.0) {
        all.push(("nbd", findings.line(one.span().start), one.get_ref().address.clone()));
    }
    for one in top.metrics.iter().flat_map(|list| &list.0) {
        all.push(("metrics", findings.line(one.span().start), one.get_ref().clone()));
    }
    if let Some(at) = &top.mirror_listen {
        all.extend(at.value.parse().ok().map(|address| ("mirror_listen", at.line, address)));
    }
    for (i, (key, line, address)) in all.iter().enumerate() {
        // Two equal ones in one list are told with the list.
        let taken = all[..i].iter().find(|(of, _, other)| {
            address.is_taken_by(other) && !(of == key && other.to_string() == address.to_string())
        });
        if let Some((of, ..)) = taken {
            findings.add(
                *line,
                *key,
                format_args!("{address} is taken by `{of}` of this file: give another port or path"),
            );
        }
    }
}

/// Checks the addresses by which hosts that mirror volumes meet: both are TCP.
fn check_mirror(findings: &mut Findings<'_>, config: &Config) {
    let top = &config.top;
    for (key, at) in [("mirror", &top.mirror), ("mirror_listen", &top.mirror_listen)] {
        let Some(at) = at else { continue };
        if !matches!(at.value.parse(), Ok(Address::Tcp(_))) {
            findings.add(at.line, key, "is no HOST:PORT: write it as \"10.0.0.2:10810\"");
        }
    }
}

fn check_traces(findings: &mut Findings<'_>, config: &Config) {
    let traces = &config.traces;
    if let Some(collector) = traces.collector.as_ref().filter(|collector| !is_web(collector)) {
        let what = "is no http:// or https:// address without a user: write it as \"http://127.0.0.1:4318\"";
        findings.add(collector.line, "traces.collector", what);
    }
    if let Some(sample) = traces.sample.as_ref().filter(|_| traces.collector.is_none()) {
        findings.add(
            sample.line,
            "traces.sample",
            "does nothing without an address to send them to: add `collector`",
        );
    }
}

/// Tells whether the text is an address of a web server without a user.
fn is_web(address: &str) -> bool {
    let uri = address.parse::<http::Uri>();
    !address.contains('@')
        && uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

fn check_alert(findings: &mut Findings<'_>, config: &Config) {
    let alert = &config.alert;
    if let Some(url) = alert.url.as_ref().filter(|url| !is_web(url)) {
        let what = "is no http:// or https:// address without a user: write it as \"https://hooks.example.com/T0/B0/secret\"";
        findings.add(url.line, "alert.url", what);
    }
    if let Some(after) = alert.after.as_ref().filter(|_| alert.command.is_none() && alert.url.is_none()) {
        let what = "does nothing without somebody to tell: add `command` or `url`";
        findings.add(after.line, "alert.after", what);
    }
}

/// Checks what addresses by TLS need, and that there are none where TLS is not served.
fn check_tls(findings: &mut Findings<'_>, config: &Config) {
    let (top, tls) = (&config.top, &config.tls);
    let by_tls = |address: &Address| matches!(address, Address::Tls(_));
    for one in top.nbd.iter().flat_map(|list| &list.0).filter(|one| by_tls(&one.get_ref().address)) {
        if tls.cert.is_none() || tls.key.is_none() {
            let line = findings.line(one.span().start);
            findings.add(line, "nbd", "TLS needs a certificate: write [tls] with `cert` and `key` below");
        }
    }
    for one in top.metrics.iter().flat_map(|list| &list.0).filter(|one| by_tls(one.get_ref())) {
        let line = findings.line(one.span().start);
        findings.add(line, "metrics", "metrics are not served by TLS: give HOST:PORT or unix:PATH");
    }
    match (&tls.cert, &tls.key) {
        (Some(cert), None) => findings.add(cert.line, "tls.cert", "does nothing without its key: add `key`"),
        (None, Some(key)) => {
            findings.add(key.line, "tls.key", "does nothing without its certificate: add `cert`")
        }
        _ => {}
    }
    if let Some(asked) = tls.client_certificates.as_ref().filter(|_| tls.client_ca.is_none()) {
        let what = "does nothing without authorities to verify them by: add `client_ca`";
        findings.add(asked.line, "tls.client_certificates", what);
    }
    if let Some(allow) = top.allow.as_ref().filter(|allow| allow.0.is_empty()) {
        findings.add(
            allow.line,
            "allow",
            "is an empty list, which lets nobody in: add a rule, or leave the key out",
        );
    }
}

fn addresses<T>(
    findings: &mut Findings<'_>,
    key: &str,
    list: Option<&Written<List<T>>>,
    address: impl Fn(&T) -> &Address,
) {
    let Some(list) = list else { return };
    if list.0.is_empty() {
        findings.add(list.line, key, "is an empty list: name an address, or leave the key out");
    }
    let mut seen = BTreeSet::new();
    for one in &list.0 {
        let (line, address) = (findings.line(one.span().start), address(one.get_ref()));
        if let Address::Unix(path) = address
            && path.as_os_str().len() > SOCKET_PATH_MAX
        {
            findings.add(
                line,
                key,
                format_args!("the path of a socket has {SOCKET_PATH_MAX} bytes at most: use a shorter one"),
            );
        }
        if !seen.insert(address.to_string()) {
            findings.add(line, key, format_args!("{address} stands here twice: remove one"));
        }
    }
}

impl Store {
    /// Returns what the section's keys add to its URL: name, value, line.
    fn parameters(&self) -> Vec<(&'static str, String, usize)> {
        let text = |it: &Option<Written<String>>| it.as_ref().map(|it| (it.value.clone(), it.line));
        let flag = |it: &Option<Written<bool>>| it.as_ref().map(|it| (it.value.to_string(), it.line));
        let all = [
            ("endpoint", text(&self.endpoint)),
            ("region", text(&self.region)),
            ("profile", text(&self.profile)),
            ("passwd_file", text(&self.passwd_file)),
            ("path_style", flag(&self.path_style)),
            ("anonymous", flag(&self.anonymous)),
            ("requester_pays", flag(&self.requester_pays)),
            ("sse", text(&self.sse)),
            ("storage_class", text(&self.storage_class)),
            ("ca", text(&self.ca)),
        ];
        all.into_iter().filter_map(|(name, it)| it.map(|(value, line)| (name, value, line))).collect()
    }

    /// Returns the store as `URL[,zone=ZONE]`; the given zone beats the section's.
    fn spec(&self, zone: Option<&str>) -> Result<StoreSpec> {
        let url = self.url.as_ref().map(|url| url.as_str()).unwrap_or_default();
        let mut url: StoreUrl = url.parse()?;
        for (name, value, _) in self.parameters() {
            url.set(name, &value)?;
        }
        let zone = zone.or(self.zone.as_ref().map(|zone| zone.as_str()));
        zone.map_or_else(|| url.to_string(), |zone| format!("{url},zone={zone}")).parse()
    }
}

/// Tells of a section without a URL, unless its URL was already told to be wrong.
fn no_url(findings: &mut Findings<'_>, of: String, line: usize) {
    if !findings.wrong.iter().any(|wrong| wrong.key == format!("{of}.url")) {
        findings.add(line, of, "has no `url`: add url = \"s3://BUCKET/PREFIX\" or \"file:///FOLDER\"");
    }
}

fn check_store(findings: &mut Findings<'_>, name: &str, store: &Written<Store>) {
    let of = format!("store.{}", bare_or_quoted(name));
    if name.is_empty() || name.contains([':', ',', '/', ' ']) {
        findings.add(store.line, &of, "a store's name has no colon, comma, slash or space: as [store.fast]");
    }
    let Some(url) = &store.url else { return no_url(findings, of, store.line) };
    if let Some((_, zone)) = url.split_once(",zone=") {
        let what = format!("a zone is a key of its own here: write zone = \"{zone}\" on the next line");
        return findings.add(url.line, format!("{of}.url"), what);
    }
    let mut place = match place(url) {
        Ok(place) => place,
        Err(why) => return findings.add(url.line, format!("{of}.url"), why),
    };
    for (key, value, line) in store.parameters() {
        if let Err(why) = place.set(key, &value) {
            let cure = if matches!(place, StoreUrl::S3(_)) { "" } else { "; leave it out" };
            findings.add(line, format!("{of}.{key}"), format_args!("{why}{cure}"));
        }
    }
    if let Some(zone) = &store.zone
        && let Err(why) = format!("mem:x,zone={}", zone.value).parse::<StoreSpec>()
    {
        findings.add(zone.line, format!("{of}.zone"), why);
    }
    if let (StoreUrl::S3(place), Some(file)) = (&place, &store.passwd_file)
        && place.anonymous == Some(true)
    {
        let what = "anonymous requests need no keys: leave out this key, or `anonymous`";
        findings.add(file.line, format!("{of}.passwd_file"), what);
    }
}

/// Parses the URL of a place that outlives this process.
fn place(url: &str) -> Result<StoreUrl> {
    match url.parse()? {
        StoreUrl::Mem { .. } => Err(Error::new(
            Kind::Usage,
            format!("{url} is gone when the daemon ends: write s3://BUCKET/PREFIX or file:///FOLDER"),
        )),
        place => Ok(place),
    }
}

fn check_pool(findings: &mut Findings<'_>, config: &Config, name: &str, pool: &Written<Pool>) {
    let of = format!("pool.{}", bare_or_quoted(name));
    if let Err(why) = name.parse::<Name>() {
        findings.add(pool.line, &of, why);
    }
    if let Some(stores) = &pool.stores {
        if stores.0.is_empty() {
            let what = "is an empty list: name the pool's stores, or leave the key out";
            findings.add(stores.line, format!("{of}.stores"), what);
        }
        let mut seen = BTreeSet::new();
        for one in &stores.0 {
            let line = findings.line(one.span().start);
            let key = format!("{of}.stores");
            match resolved(config, one.get_ref()) {
                Ok(spec) if !seen.insert(spec.url.to_string()) => {
                    findings.add(line, key, format_args!("{} stands here twice: remove one", one.get_ref()));
                }
                Ok(_) => {}
                Err(why) => findings.add(line, key, why),
            }
        }
    }
    if let Some(scrub) = pool.scrub.as_ref().filter(|often| often.0.is_some_and(|every| every < SCRUB_MIN)) {
        findings.add(scrub.line, format!("{of}.scrub"), "is too often: give at least 1h, as \"7d\"");
    }
    if let Some(rate) = &pool.scrub_rate {
        let key = format!("{of}.scrub_rate");
        let rate = Some(rate).filter(|rate| rate.0 != 0);
        at_least(findings, &key, rate, RATE_MIN, " a second, or 0 for no limit");
    }
}

fn check_keys(findings: &mut Findings<'_>, volume: &str, keys: &Written<VolumeKeys>) {
    let of = format!("volume.{}", bare_or_quoted(volume));
    if let Err(why) = volume.parse::<VolumePath>() {
        findings.add(keys.line, &of, why);
    }
    let given = [&keys.key_file, &keys.passphrase_file, &keys.key_command];
    if given.into_iter().all(Option::is_none) {
        findings.add(keys.line, &of, "has no key: add `key_file`, `passphrase_file` or `key_command`");
    }
}

fn check_replica(findings: &mut Findings<'_>, volume: &str, replica: &Written<Replica>) {
    let of = format!("replica.{}", bare_or_quoted(volume));
    if let Err(why) = volume.parse::<VolumePath>() {
        findings.add(replica.line, &of, why);
    }
    match &replica.to {
        None if findings.wrong.iter().any(|wrong| wrong.key == format!("{of}.to")) => {}
        None => findings.add(replica.line, &of, "has no `to`: add to = \"POOL/VOLUME\", the copy"),
        Some(to) if to.as_str() == volume => {
            findings.add(to.line, format!("{of}.to"), "is the volume itself: name a copy in another pool");
        }
        Some(to) => {
            if let Err(why) = to.parse::<VolumePath>() {
                findings.add(to.line, format!("{of}.to"), why);
            }
        }
    }
    if let Some(every) = replica.every.as_ref().filter(|every| every.0 < REPLICA_MIN) {
        findings.add(every.line, format!("{of}.every"), "is too often: give at least 10s, as \"15m\"");
    }
}

/// Returns a store that is given by URL or name, with its zone. Faults of the store's own section are told there.
fn resolved(config: &Config, given: &str) -> Result<StoreSpec> {
    let (name, zone) = given.split_once(",zone=").map_or((given, None), |(name, zone)| (name, Some(zone)));
    if name.contains(':') {
        place(name)?;
        return given.parse();
    }
    let Some(section) = config.store.get(name) else {
        let names: Vec<&str> = config.store.keys().map(String::as_str).collect();
        let cure = match name.starts_with('/') {
            true => format!("; a folder is written file://{name}"),
            false => nearest(name, &names).to_string(),
        };
        return Err(Error::new(
            Kind::Usage,
            format!(
                "{name:?} is neither a store's URL (s3://…, file:///…) nor a [store.{}] section of windlass.toml{cure}",
                bare_or_quoted(name)
            ),
        ));
    };
    section.spec(zone)
}

fn check_mount(findings: &mut Findings<'_>, config: &Config, dir: &str, mount: &Written<Mount>) {
    let of = format!("mount.{}", bare_or_quoted(dir));
    if !dir.starts_with('/') || dir.len() < 2 || dir.ends_with('/') || dir.contains('\0') {
        let what =
            "a mount's folder is an absolute path without a slash at its end: as [mount.\"/mnt/data\"]";
        findings.add(mount.line, &of, what);
    }
    let Some(url) = &mount.url else { return no_url(findings, of, mount.line) };
    let mut place = None;
    match resolved(config, url) {
        Ok(spec) if url.contains(",zone=") => {
            let what = format!("a mount has no zone: write url = \"{}\"", spec.url);
            findings.add(url.line, format!("{of}.url"), what);
        }
        Ok(spec) => place = Some(spec.url),
        // The section says so itself.
        Err(_) if config.store.contains_key(url.as_str()) => {}
        Err(why) => findings.add(url.line, format!("{of}.url"), why),
    }
    for one in mount.options.iter().flat_map(|options| &options.0) {
        if let Err(why) = check_option(one.get_ref(), place.as_mut()) {
            let line = findings.line(one.span().start);
            findings.add(line, format!("{of}.options"), why);
        }
    }
}

fn check_option(option: &str, place: Option<&mut StoreUrl>) -> Result<()> {
    if option.split(',').any(|o| o == "remount") {
        return Err(Error::new(Kind::Usage, "`remount` means nothing here: leave it out"));
    }
    let (_, of_store) = MountOptions::parse(option)?;
    if let Some(place) = place {
        of_store.iter().try_for_each(|(name, value)| place.set(name, value))?;
    }
    Ok(())
}

impl Config {
    /// Returns the URL of a store as users give it: a URL, or the name of a `[store.NAME]` section; then
    /// `,zone=ZONE`.
    pub fn store_url(&self, given: &str) -> Result<String> {
        let name = given.split(",zone=").next().unwrap_or(given);
        if name.contains(':') {
            return Ok(given.to_owned());
        }
        resolved(self, given).map(|spec| spec.to_string())
    }
}
