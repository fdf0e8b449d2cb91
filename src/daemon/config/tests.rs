//! Files that are wrong, and what is said of each; the reference and the example against the types.

use std::path::Path;

use proptest::prelude::*;

use super::effective::Origin;
use super::section_macro::Preset;
use super::sections::OUTLINES;
use super::*;
use windlass_base::units::GIB;
use windlass_base::{Kind, Name};

/// Files, each with the line and key of its one error, and a part of the cure.
const BAD: &[(&str, usize, &str, &str)] = &[
    // Words.
    ("memroy = '1G'", 1, "memroy", "did you mean `memory`?"),
    ("Memory = '1G'", 1, "Memory", "did you mean `memory`?"),
    ("# a\n\ncahce = '1G'", 3, "cahce", "did you mean `cache`?"),
    ("metric = ['h:1']", 1, "metric", "did you mean `metrics`?"),
    ("nbds = ['h:1']", 1, "nbds", "did you mean `nbd`?"),
    (
        "zzzzzzzzzz = 1",
        1,
        "zzzzzzzzzz",
        "use one of memory, cache, nbd, allow, metrics, metrics_users, mirror, mirror_listen, mirror_key, tls, log, traces, alert, limits, store, pool, replica, volume, mount",
    ),
    ("endpoint = 'http://h'", 1, "endpoint", "it belongs below [store.NAME]"),
    ("options = ['ro']", 1, "options", "it belongs below [mount.\"/FOLDER\"]"),
    ("[stroe.a]\nurl = 's3://b'", 1, "stroe", "did you mean `store`?"),
    ("[pools.tank]", 1, "pools", "did you mean `pool`?"),
    ("[mounts.'/a']\nurl = 's3://b'", 1, "mounts", "did you mean `mount`?"),
    ("[log]\nlevl = 'info'", 2, "log.levl", "did you mean `level`?"),
    ("[log]\nmemory = '1G'", 2, "log.memory", "it stands above all sections"),
    ("[limits]\ndrian = '5s'", 2, "limits.drian", "did you mean `drain`?"),
    ("[store.a]\nurl = 's3://b'\nreigon = 'r'", 3, "store.a.reigon", "did you mean `region`?"),
    ("[store.a]\nurl = 's3://b'\npath-style = true", 3, "store.a.path-style", "did you mean `path_style`?"),
    ("[store.a]\nurl = 's3://b'\npasswdfile = '/f'", 3, "store.a.passwdfile", "did you mean `passwd_file`?"),
    (
        "[store.a]\nurl = 's3://b'\nstorage_clas = 'X'",
        3,
        "store.a.storage_clas",
        "did you mean `storage_class`?",
    ),
    (
        "[store.a]\nurl = 's3://b'\naccess_key = 'X'",
        3,
        "store.a.access_key",
        "use one of url, zone, endpoint",
    ),
    ("[store.'a.b']\nurl = 's3://b'\n[store.'a.b'.sub]", 3, "store.\"a.b\".sub", "use one of url"),
    ("[pool.tank]\nstore = ['s3://b']", 2, "pool.tank.store", "did you mean `stores`?"),
    ("[pool.tank]\nscrub-rate = '1M'", 2, "pool.tank.scrub-rate", "did you mean `scrub_rate`?"),
    ("[mount.'/a']\nurl = 's3://b'\noption = ['ro']", 3, "mount.\"/a\".option", "did you mean `options`?"),
    (
        "[mount.'/a']\nurl = 's3://b'\nread_only = true",
        3,
        "mount.\"/a\".read_only",
        "use one of url, options",
    ),
    ("[log]\nlevel = 'inof'", 2, "log.level", "did you mean `info`?"),
    ("[log]\nlevel = 'INFO'", 2, "log.level", "did you mean `info`?"),
    ("[log]\nformat = 'xml'", 2, "log.format", "use one of text, json"),
    // Types.
    ("memory = true", 1, "memory", "write it as \"2G\""),
    ("memory = 1.5", 1, "memory", "not a fraction: write it as \"2G\""),
    ("memory = ['1G']", 1, "memory", "not a list: write it as \"2G\""),
    ("cache = 2026-01-01", 1, "cache", "not a date: write it as \"2G\""),
    ("nbd = 'unix:/x'", 1, "nbd", "write it as [\"127.0.0.1:10809\"]"),
    ("nbd = [\n  'unix:/x',\n  10809,\n]", 3, "nbd", "write it as \"127.0.0.1:10809\""),
    ("[nbd]\nlisten = 'h:1'", 1, "nbd", "not a section: write it as [\"127.0.0.1:10809\"]"),
    ("[metrics]", 1, "metrics", "not a section: write it as"),
    ("log = 'debug'", 1, "log", "write [log], and its keys below"),
    ("limits = 3", 1, "limits", "write [limits]"),
    ("store = 's3://b'", 1, "store", "write [store.NAME] for each"),
    ("[[pool]]\nserve = true", 1, "pool", "write [pool.NAME] for each"),
    ("[store]\nurl = 's3://b'", 2, "store.url", "write [store.NAME]"),
    ("[store]\na = 's3://b'", 2, "store.a", "write [store.NAME], and its keys below"),
    ("[mount]\n'/a' = 's3://b'", 2, "mount.\"/a\"", "write [mount.\"/FOLDER\"]"),
    ("[store.a]\nurl = 7", 2, "store.a.url", "write it as \"TEXT\""),
    ("[store.a]\nurl = 's3://b'\npath_style = 'true'", 3, "store.a.path_style", "true (without quotes)"),
    ("[store.a]\nurl = 's3://b'\nanonymous = 1", 3, "store.a.anonymous", "true (without quotes)"),
    (
        "[store.a]\nurl = 's3://b'\nrequester_pays = 'no'",
        3,
        "store.a.requester_pays",
        "true (without quotes)",
    ),
    ("[store.a]\nurl = 's3://b'\nregion = ['r']", 3, "store.a.region", "write it as \"TEXT\""),
    ("[pool.tank]\nstores = 's3://b'", 2, "pool.tank.stores", "write it as [\"TEXT\", \"TEXT\"]"),
    ("[pool.tank]\nserve = 'yes'", 2, "pool.tank.serve", "true (without quotes)"),
    ("[pool.tank]\nscrub = 7", 2, "pool.tank.scrub", "write it as \"7d\""),
    (
        "[mount.'/a']\nurl = 's3://b'\noptions = 'ro'",
        3,
        "mount.\"/a\".options",
        "write it as [\"TEXT\", \"TEXT\"]",
    ),
    // Values.
    ("memory = '10X'", 1, "memory", "write a number with K, M, G or T"),
    ("memory = '2 GB'", 1, "memory", "write a number with K, M, G or T"),
    ("memory = ''", 1, "memory", "is empty: write it as \"2G\", or leave the key out"),
    ("memory = -1", 1, "memory", "write a number with K, M, G or T"),
    ("memory = 99999999999999999999999", 1, "memory", "write a number with K, M, G or T"),
    ("memory = '63M'", 1, "memory", "at least 64M"),
    ("cache = 1000", 1, "cache", "at least 64M, or 0 for none"),
    ("nbd = []", 1, "nbd", "name an address, or leave the key out"),
    ("nbd = ['localhost']", 1, "nbd", "give HOST:PORT or unix:PATH"),
    ("nbd = ['unix:']", 1, "nbd", "unix: needs a path"),
    ("nbd = ['h:1',\n'h:99999']", 2, "nbd", "give HOST:PORT or unix:PATH"),
    ("nbd = ['h:1',\n\n'h:1']", 3, "nbd", "remove one"),
    ("metrics = [':9420']", 1, "metrics", "give HOST:PORT or unix:PATH"),
    ("nbd = ['tls:h:1']", 1, "nbd", "write [tls] with `cert` and `key` below"),
    ("nbd = ['tls:h']", 1, "nbd", "tls:HOST:PORT"),
    ("nbd = ['unix:/n,mod=0660']", 1, "nbd", "did you mean `mode`?"),
    ("nbd = ['unix:/n,mode=9']", 1, "nbd", "write mode=0660, say"),
    ("metrics = ['tls:h:1']", 1, "metrics", "give HOST:PORT or unix:PATH"),
    ("nbd = ['tcp:1']", 1, "nbd", "give HOST:PORT or unix:PATH"),
    ("nbd = ['127.0.0.1:9']\nmetrics = ['localhost:9']", 2, "metrics", "is taken by `nbd` of this file"),
    ("metrics = ['unix:/m']\nnbd = ['unix:/m']", 1, "metrics", "give another port or path"),
    ("mirror_listen = '0.0.0.0:9'\nnbd = ['h:9']", 1, "mirror_listen", "is taken by `nbd`"),
    ("allow = []", 1, "allow", "add a rule, or leave the key out"),
    ("allow = ['web']", 1, "allow", "a rule is written as { cn = "),
    ("allow = [{ exports = ['*'] },\n{ cn = 'w' }]", 2, "allow", "write exports = "),
    ("allow = [{ cn = 'w', user = 1, exports = ['*'] }]", 1, "allow", "write a rule for each"),
    ("allow = [{ cn = 'w', export = ['*'] }]", 1, "allow", "did you mean `exports`?"),
    ("allow = [{ user = 1.5, exports = ['*'] }]", 1, "allow", "write it as \"kvm\" or 64055"),
    ("[tls]\ncert = '/c'", 2, "tls.cert", "add `key`"),
    ("[tls]\nkey = '/k'", 2, "tls.key", "add `cert`"),
    ("[tls]\nclient_certificates = 'optional'", 2, "tls.client_certificates", "add `client_ca`"),
    ("[tls]\nclient_certificates = 'never'", 2, "tls.client_certificates", "use one of required, optional"),
    ("[traces]\ncollector = 'h:4318'", 2, "traces.collector", "write it as \"http://127.0.0.1:4318\""),
    ("[traces]\ncollector = 'http://u:p@h'", 2, "traces.collector", "without a user"),
    ("[traces]\nsample = '1%'", 2, "traces.sample", "add `collector`"),
    ("[traces]\ncollector = 'http://h'\nsample = '1'", 3, "traces.sample", "write it as \"1%\""),
    ("[traces]\ncollector = 'http://h'\nsample = '0%'", 3, "traces.sample", "above 0"),
    ("[traces]\ncollector = 'http://h'\nsample = 1", 3, "traces.sample", "wants a share, not a number"),
    ("[log]\nslow = '0ms'", 2, "log.slow", "at least 1ms"),
    ("[log]\naudit = 'audit.log'", 2, "log.audit", "begin it with /"),
    (
        "[alert]\nurl = 'hooks.example.com/x'",
        2,
        "alert.url",
        "write it as \"https://hooks.example.com/T0/B0/secret\"",
    ),
    ("[alert]\nafter = '1m'", 2, "alert.after", "add `command` or `url`"),
    ("[traces]\ncolector = 'http://h'", 2, "traces.colector", "did you mean `collector`?"),
    ("[limits]\ndrain = '10'", 2, "limits.drain", "write 250ms, 5s, 2m, 1h or 1d"),
    ("[limits]\ndrain = '100ms'", 2, "limits.drain", "give 1s to 1h"),
    ("[limits]\ndrain = '2h'", 2, "limits.drain", "give 1s to 1h"),
    ("[store.a]\nregion = 'r'", 1, "store.a", "add url = \"s3://BUCKET/PREFIX\""),
    ("[store.a]\nurl = 'b/p'", 2, "store.a.url", "write s3://BUCKET/PREFIX"),
    ("[store.a]\nurl = 's3://'", 2, "store.a.url", "write s3://BUCKET/PREFIX"),
    ("[store.a]\nurl = 'file://x'", 2, "store.a.url", "must be an absolute path"),
    ("[store.a]\nurl = 'mem:x'", 2, "store.a.url", "write s3://BUCKET/PREFIX or file:///FOLDER"),
    ("[store.a]\nurl = 's3://b,zone=z'", 2, "store.a.url", "write zone = \"z\" on the next line"),
    ("[store.a]\nurl = 's3://b'\nzone = 'a b'", 3, "store.a.zone", "must be 1 to 63 letters"),
    (
        "[store.a]\nurl = 's3://b'\nendpoint = 'h:9000'",
        3,
        "store.a.endpoint",
        "not a http:// or https:// address",
    ),
    ("[store.a]\nurl = 's3://b'\nsse = 'aes'", 3, "store.a.sse", "use s3, kms, kms:KEYID or c:/KEY/FILE"),
    ("[store.a]\nurl = 's3://b'\nca = 'x.pem'", 3, "store.a.ca", "must be an absolute path"),
    ("[store.a]\nurl = 's3://b'\npasswd_file = 'x'", 3, "store.a.passwd_file", "must be an absolute path"),
    ("[store.a]\nurl = 'file:///x'\nregion = 'r'", 3, "store.a.region", "leave it out"),
    (
        "[store.a]\nurl = 's3://b'\npasswd_file = '/f'\nanonymous = true",
        3,
        "store.a.passwd_file",
        "leave out this key, or `anonymous`",
    ),
    ("[store.'a,b']\nurl = 's3://b'", 1, "store.\"a,b\"", "as [store.fast]"),
    ("[pool.Tank]", 1, "pool.Tank", "use 1 to 63 of a-z, 0-9"),
    ("[pool.tank]\nstores = []", 2, "pool.tank.stores", "name the pool's stores, or leave the key out"),
    (
        "[store.fast]\nurl = 's3://b'\n[pool.tank]\nstores = [\n  'file:///a',\n  'fats',\n]",
        6,
        "pool.tank.stores",
        "did you mean `fast`?",
    ),
    ("[pool.tank]\nstores = ['fast']", 2, "pool.tank.stores", "nor a [store.fast] section"),
    ("[pool.tank]\nstores = ['ftp://x']", 2, "pool.tank.stores", "write s3://BUCKET/PREFIX"),
    ("[pool.tank]\nstores = ['file:///a', 'file:///a']", 2, "pool.tank.stores", "remove one"),
    ("[pool.tank]\nscrub = '1w'", 2, "pool.tank.scrub", "write 250ms, 5s, 2m, 1h or 1d"),
    ("[pool.tank]\nscrub = '5m'", 2, "pool.tank.scrub", "at least 1h"),
    ("[pool.tank]\nscrub = 'weekly'", 2, "pool.tank.scrub", "1h"),
    ("[pool.tank]\nscrub = '7d'\nscrub_rate = 100", 3, "pool.tank.scrub_rate", "at least 64K a second"),
    ("mirror = '10.0.0.2'", 1, "mirror", "as \"10.0.0.2:10810\""),
    ("mirror_listen = 'unix:/run/x'", 1, "mirror_listen", "HOST:PORT"),
    ("[mount.'/a']\noptions = ['ro']", 1, "mount.\"/a\"", "add url = "),
    ("[mount.data]\nurl = 's3://b'", 1, "mount.data", "as [mount.\"/mnt/data\"]"),
    ("[mount.'/a/']\nurl = 's3://b'", 1, "mount.\"/a/\"", "without a slash at its end"),
    ("[mount.'/a']\nurl = 'fast'", 2, "mount.\"/a\".url", "nor a [store.fast] section"),
    ("[mount.'/a']\nurl = 's3://b,zone=z'", 2, "mount.\"/a\".url", "write url = \"s3://b\""),
    (
        "[mount.'/a']\nurl = 's3://b'\noptions = [\n'ro',\n'alow_other']",
        5,
        "mount.\"/a\".options",
        "did you mean `allow_other`?",
    ),
    (
        "[mount.'/a']\nurl = 's3://b'\noptions = ['uid=no-such-user']",
        3,
        "mount.\"/a\".options",
        "as in uid=1000",
    ),
    (
        "[mount.'/a']\nurl = 's3://b'\noptions = ['flush=never']",
        3,
        "mount.\"/a\".options",
        "write flush=bucket",
    ),
    ("[mount.'/a']\nurl = 's3://b'\noptions = ['remount']", 3, "mount.\"/a\".options", "leave it out"),
    ("[mount.'/a']\nurl = 's3://b'\noptions = ['sse=x']", 3, "mount.\"/a\".options", "use s3, kms"),
    // What is no TOML.
    ("memory = 2G", 1, "memory", "write memory = \"2G\""),
    ("cache = ", 1, "cache", "write cache = VALUE, or remove the line"),
    ("memory = \"2G", 1, "memory", "end the text with a quote"),
    ("memory", 1, "memory", "write KEY = VALUE"),
    ("include conf.d", 1, "include conf.d", "write KEY = VALUE"),
    ("memory = '1G'\n\nmemory = '2G'", 3, "memory", "keep one of the two"),
    ("[store.a]\nurl = 's3://b'\n[store.a]\nregion = 'r'", 3, "store.a", "keep one of the two"),
    ("[store.a]\nurl = 's3://b'\npath_style = yes", 3, "store.a.path_style", "write path_style = true"),
    ("[store.a]\nurl = 's3://b'\nanonymous = off", 3, "store.a.anonymous", "write anonymous = false"),
    ("[store.a]\nurl = 's3://b'\nanonymous = False", 3, "store.a.anonymous", "write"),
    ("[store.a\nurl = 's3://b'", 1, "store.a", "end the section's heading with ]"),
    ("[mount./mnt]\nurl = 's3://b'", 1, "mount./mnt", "put the name in quotes"),
    ("nbd = ['h:1' 'h:2']", 1, "nbd", "put a comma between"),
    ("memory = '1G'\nnbd = [\n", 2, "nbd", "end the list with ]"),
    ("memory = '2G' cache = '1G'", 1, "memory", "a line of its own"),
    ("[store.a]\nurl = \"s3://b\\p\"", 2, "store.a.url", "in single quotes"),
    ("memory = 007", 1, "memory", "without zeros in front"),
    ("= 3", 1, "", "write a name there"),
    ("memory = “2G”", 1, "memory", "write memory = \"2G\""),
];

#[test]
fn what_is_wrong_is_told_by_line_and_key_with_a_cure() {
    assert!(BAD.len() >= 80);
    let mut bad = Vec::new();
    for (text, line, key, cure) in BAD {
        let wrong = Config::parse(text).expect_err(text);
        let fine = |told: &Wrong| (told.line, told.key.as_str()) == (*line, *key) && told.what.contains(cure);
        if wrong.len() != 1 || !fine(&wrong[0]) || wrong[0].what.contains('\n') {
            bad.push(format!("{text}\n  wanted line {line}, {key}: {cure}\n  {wrong:?}"));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "memroy = '1G'\ncache = 5x\nnbd = ['h', 'h:1', 7]\n[store.a]\nreigon = 'r'\n[pool.p]\nstores = ['b']\n";
    let wrong = Config::parse(text).unwrap_err();
    let told: Vec<_> = wrong.iter().map(|w| (w.line, w.key.as_str())).collect();
    let wanted = [
        (1, "memroy"),
        (2, "cache"),
        (3, "nbd"),
        (3, "nbd"),
        (4, "store.a"),
        (5, "store.a.reigon"),
        (7, "pool.p.stores"),
    ];
    assert_eq!(told, wanted, "{wrong:#?}");
}

#[tokio::test]
async fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, file) = (windlass_base::rt::RealDisk::start(), dir.path().join("windlass.toml"));
    let load = |named| Config::load(&*disk, &file, named);
    assert!(load(false).await.unwrap().path.is_none());
    assert_eq!(load(true).await.unwrap_err().kind(), Kind::Usage);
    for (bytes, wanted) in [
        (&b"a = 1\nmemory = 1.5"[..], "windlass.toml, line 2: memory: wants a size"),
        (b"memory = '1G'\n# \xff", "windlass.toml, line 2: the file: is not UTF-8"),
    ] {
        disk.write_atomic(&file, bytes::Bytes::copy_from_slice(bytes)).await.unwrap();
        let why = load(true).await.unwrap_err();
        assert!(why.to_string().contains(wanted), "{why}");
    }
    disk.write_atomic(&file, bytes::Bytes::from_static(b"memory = '1G'")).await.unwrap();
    assert_eq!(load(false).await.unwrap().path.as_deref(), Some(file.as_path()));
}

#[test]
fn stores_by_name_become_urls() {
    let text = "memory = '1G'\n[store.a]\nurl = 's3://b/p'\nendpoint = 'http://h:1'\npath_style = true\nzone = 'z'\n";
    let config = Config::parse(text).unwrap();
    assert_eq!(config.store_url("a").unwrap(), "s3://b/p?endpoint=http://h:1&path_style=true,zone=z");
    assert_eq!(config.store_url("a,zone=y").unwrap(), "s3://b/p?endpoint=http://h:1&path_style=true,zone=y");
    assert_eq!(config.store_url("file:///d,zone=y").unwrap(), "file:///d,zone=y");
    assert_eq!(config.store_url("b").unwrap_err().kind(), Kind::Usage);
    assert_eq!(config.memory(Some(1 << 30)).unwrap(), GIB);
    assert!(config.memory(Some(1)).is_err());
    let dir = Path::new("/nowhere/at/all");
    assert_eq!((config.cache(Some(GIB), dir).unwrap(), config.cache(Some(0), dir).unwrap()), (GIB, 0));
    assert!(config.cache(Some(1), dir).is_err() && config.cache(None, dir).unwrap() <= 10 * GIB);
}

#[test]
fn what_is_written_holds() {
    let text = "nbd = ['unix:/n', 'h:1']\n[log]\nlevel = 'warn'\nformat = 'json'\n[limits]\ndrain = '5s'\n\
        [store.a]\nurl = 'file:///a'\n[pool.tank]\nstores = ['a', 's3://b,zone=z']\nserve = false\nscrub = '1d'\n\
        [mount.'/m']\nurl = 'a'\noptions = ['ro', 'uid=7']\n";
    let config = Config::parse(text).unwrap();
    assert_eq!((config.log_level(), config.log_format()), (Level::Warn, LogFormat::Json));
    assert_eq!(config.drain().as_secs(), 5);
    let name = |text: &str| text.parse::<Name>().unwrap();
    assert!(!config.serves(&name("tank")) && config.serves(&name("other")));
    let plan = config.scrub_plan(&name("tank"), false).unwrap();
    assert_eq!((plan.every.as_secs(), plan.rate, plan.after.as_secs()), (86_400, 100 << 20, 0));
    assert_eq!(config.scrub_plan(&name("other"), false), None);
    let stores = vec!["file:///a".to_owned(), "s3://b,zone=z".to_owned()];
    assert_eq!(config.pools_to_find(), [(name("tank"), stores)]);
    let mount = config.mount_at("/m").unwrap();
    assert_eq!(mount, ("a".to_owned(), vec!["ro".to_owned(), "uid=7".to_owned()]));
    assert_eq!(config.mount_at("/n"), None);
}

#[test]
fn each_value_is_shown_with_its_origin() {
    let config = Config::parse("cache = '1G'\n[store.'a.b']\nurl = 's3://b'\n").unwrap();
    let rows = config.effective(&crate::daemon::StateDir::at("/s"), Some(GIB)).unwrap();
    let of = |key: &str| {
        let row = rows.iter().find(|row| row.key() == key).unwrap_or_else(|| panic!("{key}: {rows:#?}"));
        (row.value.as_str(), row.origin.clone())
    };
    assert_eq!(of("memory"), ("\"1G\"", Origin::Flag("--memory")));
    assert_eq!(of("cache"), ("\"1G\"", Origin::File(1)));
    assert_eq!(of("nbd"), ("[\"unix:/s/nbd.sock\"]", Origin::Default));
    assert_eq!(of("limits.drain"), ("\"30s\"", Origin::Default));
    assert_eq!(of("store.\"a.b\".url"), ("\"s3://b\"", Origin::File(3)));
}

/// Checks that what a table says of a default is what holds.
#[test]
fn defaults_are_as_the_reference_says() {
    let mut text = String::new();
    for outline in OUTLINES {
        text += &format!("{}\n", outline.example);
        for key in outline.keys {
            match key.preset {
                Preset::Is(value) => text += &format!("{} = {value}\n", key.name),
                _ if ["url", "stores", "scrub", "to", "key_file"].contains(&key.name) => {
                    text += &format!("{} = {}\n", key.name, key.example);
                }
                _ => {}
            }
        }
    }
    let (said, none) = (Config::parse(&text).unwrap(), Config::default());
    assert_eq!(said.log_level(), none.log_level());
    assert_eq!(said.log_format(), none.log_format());
    assert_eq!(said.drain(), none.drain());
    assert_eq!(said.log_slow(), none.log_slow());
    let after = |config: &Config| config.alert_plan().map(|plan| plan.after);
    let told = |text: &str| after(&Config::parse(&format!("[alert]\ncommand = 'true'\n{text}")).unwrap());
    assert_eq!((after(&none), told("")), (None, told("after = '1m'")));
    let tank: Name = "tank".parse().unwrap();
    assert_eq!(said.serves(&tank), none.serves(&tank));
    let without_rate = Config::parse("[pool.tank]\nscrub = '7d'").unwrap();
    assert_eq!(said.scrub_plan(&tank, false), without_rate.scrub_plan(&tank, false));
}

/// Checks that nobody's default reads what providers bill: reading folders costs nothing.
#[test]
fn pools_in_folders_are_scrubbed_weekly_unless_the_file_says_else() {
    let tank: Name = "tank".parse().unwrap();
    let plan = |text: &str, is_free| Config::parse(text).unwrap().scrub_plan(&tank, is_free);
    let weekly = plan("", true).unwrap();
    assert_eq!((weekly.every.as_secs(), weekly.rate, weekly.after.as_secs()), (7 * 86_400, 20 << 20, 3600));
    assert_eq!(plan("[pool.tank]\nscrub_rate = '1M'", true).unwrap().rate, 1 << 20);
    assert_eq!((plan("", false), plan("[pool.tank]\nscrub_rate = '1M'", false)), (None, None));
    assert_eq!(plan("[pool.tank]\nscrub = 'never'", true), None);
    assert_eq!(plan("[pool.tank]\nscrub = '1d'", false).unwrap().every.as_secs(), 86_400);
}

#[test]
fn the_example_is_a_file_without_its_comments() {
    let text = example();
    assert!(Config::parse(&text).unwrap().rows(false).is_empty(), "nothing is set");
    let set = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).map(str::to_owned)
    };
    let bare: String = text.lines().filter_map(set).map(|line| line + "\n").collect();
    let config = Config::parse(&bare).unwrap_or_else(|wrong| panic!("{wrong:#?}\n{bare}"));
    let keys: usize = OUTLINES.iter().map(|outline| outline.keys.len()).sum();
    assert_eq!(config.rows(false).len(), keys, "each key is there once");
    let url = config.store_url("fast").unwrap();
    for key in OUTLINES.iter().find(|o| o.title == "[store.NAME]").unwrap().keys {
        assert!(key.name == "url" || url.contains(&format!("{}=", key.name)), "{}: {url}", key.name);
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120), "lines that fit a terminal");
}

#[test]
fn reference_md_says_what_the_types_say() {
    const BEGIN: &str = "<!-- from src/daemon/config/sections.rs: WRITE_DOCS=1 cargo test --lib config -->\n";
    const END: &str = "<!-- end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the beginning of the part");
    let (_, after) = rest.split_once(END).expect("its end");
    let wanted = format!("{before}{BEGIN}\n{}{END}{after}", reference());
    if std::env::var_os("WRITE_DOCS").is_some() {
        let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, wanted.as_bytes()).unwrap();
    } else {
        assert!(page == wanted, "docs/reference.md is behind {BEGIN}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in ".{0,200}") {
        let _ = Config::parse(&text);
    }

    #[test]
    fn no_mended_example_breaks_the_reader(cut in 0usize..6000, len in 0usize..40, new in ".{0,8}") {
        let mut text = example().replace("\n#", "\n");
        let edge = |text: &str, at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let (from, to) = (edge(&text, cut), edge(&text, cut + len));
        text.replace_range(from..to, &new);
        if let Err(wrong) = Config::parse(&text) {
            let lines = text.lines().count().max(1);
            prop_assert!(wrong.iter().all(|w| w.line >= 1 && w.line <= lines && !w.what.is_empty()), "{wrong:?}");
        }
    }
}
