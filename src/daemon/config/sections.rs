//! What windlass.toml holds, key by key. The reference, the example and the errors are made of these declarations.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::allow_rule::Allow;
use super::listen_address::ListenAddress;
use super::section_macro::{Key, Outline, Preset, Section, section};
use super::value_types::{
    ClientCertificates, Fault, Level, List, LogFormat, Often, Raw, Setting, Share, Size, Time, Written,
};
use windlass_nbd::Address;

section! {
    /// Of the daemon as a whole. Each flag beats the environment, which beats this file.
    "", "", Top {
        /// Memory that buffers and caches may take together; at least 64M. `--memory` and WINDLASS_MEMORY beat it.
        memory: Size, Preset::Said("a quarter of the machine's, 2G at most"), "\"2G\"";
        /// Local disk for what `serve` reads, in the state folder; at least 64M, or 0 for none. `serve --cache` and WINDLASS_CACHE beat it.
        cache: Size, Preset::Said("a tenth of what is free, 10G at most"), "\"50G\"";
        /// Where NBD clients connect, `tls:HOST:PORT`, `HOST:PORT` or `unix:PATH[,mode=0660][,owner=USER][,group=GROUP]` each. `serve --nbd` beats it.
        nbd: List<ListenAddress>, Preset::Said("nbd.sock in the state folder, for its owner alone"), "[\"unix:/run/windlass/nbd.sock,mode=0660\", \"tls:0.0.0.0:10809\"]";
        /// [Who may open which exports](#who-may-connect), by a name in the client's certificate, or by the user or group of its process.
        allow: List<Allow>, Preset::Said("whoever can connect, all"), "[{ cn = \"web-*\", exports = [\"tank/web-*\"], write = true }, { group = \"kvm\", exports = [\"*\"], write = true }]";
        /// Where Prometheus reads metrics, at /metrics. `serve --metrics` beats it.
        metrics: List<Address>, Preset::Said("nowhere"), "[\"127.0.0.1:9420\"]";
        /// A file of `USER:HASH` lines, made by `htpasswd -cB FILE USER`, that others than its owner and group can't read: [metrics and the page](how-to/watch.md) ask for a password then, all but /healthz. Who is taken out of the file is out at once.
        metrics_users: String, Preset::Said("no password is asked for"), "\"/etc/windlass/metrics.users\"";
        /// The peer of this host, `HOST:PORT`: [volumes with `flush=mirror`](how-to/mirror-flushes.md) that are owned here mirror their journals there. `serve --mirror` beats it.
        mirror: String, Preset::Said("none"), "\"10.0.0.2:10810\"";
        /// Where hosts connect whose peer this one is, `HOST:PORT`. `serve --mirror-listen` beats it.
        mirror_listen: String, Preset::Said("nowhere"), "\"127.0.0.1:10810\"";
        /// A file with a secret of 16 bytes or more, readable by its owner alone, the same on both hosts. `serve --mirror-key` beats it.
        mirror_key: String, Preset::Said("none: needed by both keys above"), "\"/etc/windlass/mirror.key\"";
    }
}

section! {
    /// What addresses of NBD by TLS show and ask for, each a file in PEM form. They are read at the start and on each SIGHUP.
    "[tls]", "[tls]", Tls {
        /// The server's certificate, then those between it and its authority.
        cert: String, Preset::None, "\"/etc/windlass/tls/server-cert.pem\"";
        /// Its key, without a passphrase. Others than its owner and group must not be able to read it.
        key: String, Preset::None, "\"/etc/windlass/tls/server-key.pem\"";
        /// The authorities that sign clients' certificates. Without it clients show none: whoever reaches the address may connect.
        client_ca: String, Preset::None, "\"/etc/windlass/tls/ca-cert.pem\"";
        /// `required`, or `optional`: who shows no certificate is let in too, and who shows a wrong one is not. Only with `client_ca`.
        client_certificates: ClientCertificates, Preset::Said("`required`"), "\"required\"";
    }
}

section! {
    /// The daemon's log, on stderr.
    "[log]", "[log]", Log {
        /// What is logged. `-v` and RUST_LOG beat it.
        level: Level, Preset::Is("\"info\""), "\"info\"";
        /// `text` for people, or `json`: an object a line with `time`, `level`, `target`, `message` and the event's fields. Text has no time where systemd's journal takes it, which has its own.
        format: LogFormat, Preset::Is("\"text\""), "\"text\"";
        /// A file to which a line of JSON is added for each command that changed something, or was refused: `time`, `uid` and `pid` of who asked, `verb`, `deed` in words, `done`, and `why` not. The log has the same among all else.
        audit: String, Preset::Said("none"), "\"/var/log/windlass/audit.log\"";
        /// A client's request that takes so long is said in the log; at least 1ms.
        slow: Time, Preset::Is("\"1s\""), "\"250ms\"";
    }
}

section! {
    /// [Traces](how-to/watch.md#traces): which requests to stores a client's request led to, each with its time. They are sent by OTLP over HTTP, as OpenTelemetry's collectors take them.
    "[traces]", "[traces]", Traces {
        /// The collector's address, `http://` or `https://`, without `/v1/traces`.
        collector: String, Preset::Said("no traces are made"), "\"http://127.0.0.1:4318\"";
        /// How many of the clients' requests, and of what is stored in the background, are traced. Only with `collector`.
        sample: Share, Preset::Said("`100%`"), "\"1%\"";
    }
}

section! {
    /// [Who is told](how-to/watch.md#be-told-of-troubles) of what `status` calls a trouble, once when it has begun and once when it is over. Without it only `status`, the log and the metrics tell.
    "[alert]", "[alert]", Alert {
        /// A command, for `sh -c`, that gets a text for people on its stdin. It runs as the daemon's user, for a minute at most.
        command: String, Preset::None, "\"mail -s 'windlass' root\"";
        /// An `http://` or `https://` address that gets a POST: JSON with the same `text`, and `host`, `began`, `over`, `stand`.
        url: String, Preset::None, "\"https://hooks.example.com/T0/B0/secret\"";
        /// How long a trouble has stood before it is told, and has been gone before it is over.
        after: Time, Preset::Is("\"1m\""), "\"5m\"";
    }
}

section! {
    /// Bounds of what the daemon does.
    "[limits]", "[limits]", Limits {
        /// How long the daemon, when it ends, waits for clients and for what volumes have not stored yet; the rest stays in the journals. 1s to 1h.
        drain: Time, Preset::Is("\"30s\""), "\"30s\"";
    }
}

section! {
    /// A store with a name: `--store NAME`, `stores` of a pool and `url` of a mount take it in place of a URL.
    "[store.NAME]", "[store.fast]", Store {
        /// `s3://BUCKET/PREFIX` or `file:///FOLDER`. All keys below but `zone` are for `s3://` alone, and can stand in its URL as well.
        url: String, Preset::Required, "\"s3://bucket/prefix\"";
        /// What fails together with it: a pool spreads its shards over zones.
        zone: String, Preset::None, "\"rack-1\"";
        /// The server's address, `http://` or `https://`.
        endpoint: String, Preset::Said("AWS"), "\"https://s3.example.com\"";
        /// The region that requests are signed for.
        region: String, Preset::Said("the environment's"), "\"eu-central-1\"";
        /// The profile of ~/.aws whose keys, or role, are used.
        profile: String, Preset::Said("the environment's"), "\"example\"";
        /// A file of keys as s3fs has it, used before all others: `ACCESS:SECRET` or `BUCKET:ACCESS:SECRET` a line, readable by its owner alone. It is read when the store is opened, and on each SIGHUP.
        passwd_file: String, Preset::None, "\"/etc/passwd-s3fs\"";
        /// The bucket's name is part of the path, not of the host's name.
        path_style: bool, Preset::Said("true with an endpoint"), "true";
        /// Requests are not signed: for public buckets.
        anonymous: bool, Preset::Said("`false`"), "false";
        /// Who sends a request pays for it: for buckets that bill their readers.
        requester_pays: bool, Preset::Said("`false`"), "false";
        /// Encryption by the server: `s3`, `kms`, `kms:KEYID`, or `c:FILE` with a key of 32 bytes.
        sse: String, Preset::None, "\"s3\"";
        /// The storage class of new objects.
        storage_class: String, Preset::Said("the bucket's"), "\"STANDARD_IA\"";
        /// A PEM file of authorities to trust beside the system's.
        ca: String, Preset::None, "\"/etc/ssl/example.pem\"";
    }
}

section! {
    /// What `serve` does with a pool. Pools that this host knows and that have no section are served too.
    "[pool.NAME]", "[pool.tank]", Pool {
        /// Its stores, URLs or names, with `,zone=ZONE` behind them: while this host does not know the pool, `serve` looks for it there, as `pool add` does. A pool that is known is where its stores say.
        stores: List<String>, Preset::None, "[\"fast\", \"file:///srv/store,zone=rack-2\"]";
        /// Whether a pool that is known is opened at the start. Else the first command or client that needs it opens it.
        serve: bool, Preset::Is("true"), "true";
        /// How long after the last scrub on this host the next one begins, at least 1h; or `never`.
        scrub: Often, Preset::Said("`7d` where all stores are folders and the daemon runs for an hour; else `never`, since a scrub reads all that is stored, and providers of buckets bill that"), "\"7d\"";
        /// The most bytes a second that such a scrub reads; at least 64K, or 0 for no limit.
        scrub_rate: Size, Preset::Said("`100M`; `20M` without `scrub`"), "\"100M\"";
        /// The key of a pool that was made with one: a file that holds 32 bytes, or a line that is those in hexadecimal or base64, readable by its owner alone. The pool is then opened only where its labels and registers are signed by it.
        key_file: String, Preset::None, "\"/etc/windlass/tank.key\"";
        /// Instead of `key_file`: a command, for `sh -c`, that prints the key. It runs as the daemon's user.
        key_command: String, Preset::None, "\"vault kv get -field=key secret/tank\"";
    }
}

section! {
    /// A volume of which `serve` keeps a copy: it takes a snapshot, copies what has changed, and removes older ones of its own on both sides. The volume must be one that this host may open.
    "[replica.\"POOL/VOLUME\"]", "[replica.\"tank/vm1\"]", Replica {
        /// The copy, `POOL/VOLUME`, of another pool that this host knows; made if there is none.
        to: String, Preset::Required, "\"vault/vm1\"";
        /// How often; at least 10s.
        every: Time, Preset::Is("\"1h\""), "\"15m\"";
        /// A copy that is further behind is a trouble in `status`.
        max_lag: Time, Preset::Said("never"), "\"3h\"";
    }
}

section! {
    /// The key of an encrypted volume: the first of these three that is given. It is read when the volume is opened.
    "[volume.\"POOL/VOLUME\"]", "[volume.\"tank/vm1\"]", VolumeKeys {
        /// A file that holds a key: 32 bytes, or a line that is those in hexadecimal or base64; readable by its owner alone.
        key_file: String, Preset::None, "\"/etc/windlass/vm1.key\"";
        /// A file that holds a passphrase, a line; readable by its owner alone.
        passphrase_file: String, Preset::None, "\"/etc/windlass/vm1.passphrase\"";
        /// A command, for `sh -c`, that prints a key, as the file holds it: of a KMS, a Vault or a TPM. It runs as the daemon's user.
        key_command: String, Preset::None, "\"vault kv get -field=key secret/vm1\"";
    }
}

section! {
    /// A bucket that `serve` mounts at the folder in the section's name, and goes on trying to while its store is away.
    "[mount.\"/FOLDER\"]", "[mount.\"/mnt/data\"]", Mount {
        /// The bucket: `s3://BUCKET/PREFIX`, `file:///FOLDER`, or the name of a store.
        url: String, Preset::Required, "\"s3://bucket/data?region=eu-central-1\"";
        /// [As behind `-o`](#mount-options), each a text.
        options: List<String>, Preset::None, "[\"allow_other\", \"flush=local\", \"cache\"]";
    }
}

/// Outlines of all sections, in the order of the reference.
pub const OUTLINES: &[Outline] = &[
    Top::OUTLINE,
    Tls::OUTLINE,
    Log::OUTLINE,
    Traces::OUTLINE,
    Alert::OUTLINE,
    Limits::OUTLINE,
    Store::OUTLINE,
    Pool::OUTLINE,
    Replica::OUTLINE,
    VolumeKeys::OUTLINE,
    Mount::OUTLINE,
];

/// The file as written; a key that is not in it is None.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The file that this was read from; none if there was no file.
    pub path: Option<PathBuf>,
    pub top: Top,
    pub tls: Tls,
    pub log: Log,
    pub traces: Traces,
    pub alert: Alert,
    pub limits: Limits,
    pub store: BTreeMap<String, Written<Store>>,
    pub pool: BTreeMap<String, Written<Pool>>,
    /// Sections by the volume that is copied.
    pub replica: BTreeMap<String, Written<Replica>>,
    /// Sections by the volume whose key they give.
    pub volume: BTreeMap<String, Written<VolumeKeys>>,
    /// Sections by the folder of the mount.
    pub mount: BTreeMap<String, Written<Mount>>,
}
