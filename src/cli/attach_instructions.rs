//! `windlass attach`: what to type or paste so that a volume of the running daemon becomes a disk.
//!
//! A restart of the daemon, as by an upgrade, is a pause for the guest and no error: clients are told to connect again, and a
//! guest whose disk fails in spite of that stops until somebody looks.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::attachments::DeviceOf;
use super::{Global, output, reach_engine};
use crate::daemon::answers::{EngineStatus, SnapshotLine, VolumeAnswer};
use crate::daemon::api::{SnapshotPath, Verb, VolumePath};
use crate::daemon::shell_command::shell_word;
use windlass_base::{Error, HostId, Kind, Result, StateId};
use windlass_nbd::Address;
use windlass_volume::VolumeInfo;

/// Seconds for which a client goes on trying to reach a daemon that is gone.
pub const RECONNECT: u64 = 300;
/// Most bytes of a virtio disk's serial number.
const SERIAL_MAX: usize = 20;
/// Number of connections of one client. With more than one, requests can overtake each other.
pub const CONNECTIONS: usize = 4;
/// Name of the client's certificate among QEMU's objects.
const TLS_OBJECT: &str = "windlass-tls";

#[derive(Args, Debug)]
pub struct Attach {
    /// POOL/VOLUME, or POOL/VOLUME@SNAPSHOT to read
    #[arg(value_name = "POOL/VOLUME")]
    path: String,
    /// For whom (default: qemu)
    #[arg(long = "as", value_name = "CLIENT")]
    client: Option<ClientKind>,
    /// Which of the daemon's addresses is used, `unix:PATH`, `tls:HOST:PORT` or `HOST:PORT` (default: a socket of this host,
    /// where there is one)
    #[arg(long, value_name = "ADDR")]
    address: Option<Address>,
    /// For TLS: where the client has ca-cert.pem, client-cert.pem and client-key.pem
    #[arg(long, value_name = "DIR", default_value = "/etc/pki/windlass")]
    certificates: String,
    /// Without --as: make it a device of this host's kernel, that one or the first that is free; root's, `detach` undoes it.
    /// With --as: the disk's name, the kernel's for `nbd` and `systemd` (default: /dev/nbd0), the guest's for `libvirt` (vda)
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    device: Option<Option<String>>,
    /// Make it this file, by FUSE: an empty one, or one that is not there yet. For loop devices, programs that want a file, and
    /// where the kernel knows no NBD; `detach FILE` undoes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["client", "device"])]
    pub file: Option<PathBuf>,
    /// Nobody can write through it, though the volume could be written
    #[arg(long)]
    read_only: bool,
    /// Set for the process that stays behind: it keeps the device connected.
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum ClientKind {
    /// Arguments of qemu-system-…
    Qemu,
    /// A disk element of libvirt's XML
    Libvirt,
    /// A line of nbd-client, for the Linux kernel
    Nbd,
    /// A systemd unit that does the same at boot
    Systemd,
    /// The URI that nbdcopy, nbdfuse and others take
    Uri,
}

impl Attach {
    /// Tells whether the volume is to become a device of this host, and of which number, if one was named.
    pub fn makes_device(&self) -> Result<Option<Option<u32>>> {
        match (self.client, &self.device) {
            (None, Some(device)) => Ok(Some(device.as_deref().map(kernel_number).transpose()?)),
            _ => Ok(None),
        }
    }
}

/// The facts on a disk that a client needs to know.
pub struct Disk {
    pub address: Address,
    /// The client's folder of certificates, for TLS.
    certificates: String,
    pub export: String,
    pub read_only: bool,
    pub serial: String,
    /// Identity of the disk, which stays when its name comes to mean another one.
    pub shows: DeviceOf,
}

#[derive(Serialize)]
struct Printed {
    export: String,
    address: String,
    uri: String,
    read_only: bool,
    serial: String,
    text: String,
}

pub async fn run(global: &Global, args: Attach) -> Result<ExitCode> {
    let disk = look(global, &args).await?;
    let device = args.device.as_ref().and_then(|device| device.as_deref());
    let text = disk.text(args.client.unwrap_or(ClientKind::Qemu), device)?;
    if global.json {
        let uri = disk.uri();
        let Disk { address, export, read_only, serial, .. } = disk;
        let address = address.to_string();
        let printed = Printed { export, address, uri, read_only, serial, text };
        output::line(&json!(printed).to_string());
    } else {
        output::line(text.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds the volume or snapshot, and where the daemon serves it.
pub async fn look(global: &Global, args: &Attach) -> Result<Disk> {
    let snapshot = match args.path.contains('@') {
        true => Some(args.path.parse::<SnapshotPath>()?),
        false => None,
    };
    let volume: VolumePath = match &snapshot {
        Some(snapshot) => snapshot.volume.clone(),
        None => args.path.parse()?,
    };
    let status: EngineStatus = reach_engine::ask(global, Verb::Status).await?.answer()?;
    let (info, snapshot) = found(global, &volume, snapshot.as_ref()).await?;
    let shows = DeviceOf { host: status.host_id, volume: info.id, snapshot, export: args.path.clone() };
    Ok(Disk {
        address: choose(&status.nbd, args.address.as_ref())?,
        certificates: args.certificates.clone(),
        export: args.path.clone(),
        read_only: args.read_only || snapshot.is_some() || info.template,
        serial: serial(&info),
        shows,
    })
}

/// Finds a volume, and the number of a snapshot of it.
async fn found(
    global: &Global,
    volume: &VolumePath,
    snapshot: Option<&SnapshotPath>,
) -> Result<(VolumeInfo, Option<StateId>)> {
    let info = Verb::VolumeInfo { path: volume.clone(), walk: false };
    let info: VolumeAnswer = reach_engine::ask(global, info).await?.answer()?;
    let Some(snapshot) = snapshot else { return Ok((info.info, None)) };
    let listed = Verb::SnapshotList { path: volume.clone(), from: None };
    let listed: Vec<SnapshotLine> = reach_engine::ask(global, listed).await?.answer()?;
    let found = listed.iter().find(|line| line.info.name == snapshot.snapshot);
    let absent = || Error::new(Kind::NotFound, format!("there is no snapshot {snapshot}"));
    Ok((info.info, Some(found.ok_or_else(absent)?.info.id)))
}

/// Returns what the name of an export stands for now.
pub async fn shown(global: &Global, host: HostId, export: &str) -> Result<DeviceOf> {
    let snapshot = export.contains('@').then(|| export.parse::<SnapshotPath>()).transpose()?;
    let volume = match &snapshot {
        Some(snapshot) => snapshot.volume.clone(),
        None => export.parse()?,
    };
    let (info, snapshot) = found(global, &volume, snapshot.as_ref()).await?;
    Ok(DeviceOf { host, volume: info.id, snapshot, export: export.to_owned() })
}

/// Returns the serial number by which a disk is told from another one of its name.
pub fn serial(volume: &VolumeInfo) -> String {
    let id = volume.id.to_string();
    id[..SERIAL_MAX.min(id.len())].to_owned()
}

/// Chooses the address that a client connects to: the wanted one, else a socket of this host before addresses
/// of the network.
fn choose(listening: &[String], wanted: Option<&Address>) -> Result<Address> {
    let all = listening.iter().map(|text| text.parse()).collect::<Result<Vec<Address>>>()?;
    let found = match wanted {
        Some(wanted) => all.iter().find(|address| *address == wanted),
        None => all.iter().find(|a| matches!(a, Address::Unix(_))).or(all.first()),
    };
    found.cloned().map(reachable).ok_or_else(|| match (wanted, all.is_empty()) {
        (Some(wanted), false) => {
            let why = format!("the daemon does not listen on {wanted}, but on {}", listening.join(", "));
            Error::new(Kind::Usage, why)
        }
        _ => Error::new(Kind::Closed, "no daemon serves volumes here: start it by `windlass serve`"),
    })
}

/// Returns the address by which a listener is reached. One that listens on all of a host's addresses is
/// reached by the host's name.
fn reachable(address: Address) -> Address {
    let named = |at: &str| {
        let bound = at.parse::<std::net::SocketAddr>().ok().filter(|bound| bound.ip().is_unspecified())?;
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Some(format!("{name}:{}", bound.port()))
    };
    match &address {
        Address::Tcp(at) => named(at).map_or(address.clone(), Address::Tcp),
        Address::Tls(at) => named(at).map_or(address.clone(), Address::Tls),
        Address::Unix(_) => address,
    }
}

impl Disk {
    fn text(&self, client: ClientKind, device: Option<&str>) -> Result<String> {
        match client {
            ClientKind::Qemu | ClientKind::Uri if device.is_some() => {
                let why = "--device names a disk for `--as nbd`, `systemd` and `libvirt`, or without --as makes it one of this host";
                Err(Error::new(Kind::Usage, why))
            }
            ClientKind::Qemu => self.qemu(),
            ClientKind::Libvirt => self.libvirt(device.unwrap_or("vda")),
            ClientKind::Nbd => self.nbd_client(kernel_device(device)?),
            ClientKind::Systemd => self.unit(kernel_device(device)?),
            ClientKind::Uri => Ok(self.uri()),
        }
    }

    /// Returns the export's URI. With TLS it says where the certificates are, in the form that libnbd takes.
    fn uri(&self) -> String {
        let uri = self.address.uri(&self.export);
        match self.by_tls() {
            true => format!("{uri}?tls-certificates={}", self.certificates),
            false => uri,
        }
    }

    fn by_tls(&self) -> bool {
        matches!(self.address, Address::Tls(_))
    }

    fn qemu(&self) -> Result<String> {
        let server = match &self.address {
            Address::Unix(path) => json!({ "type": "unix", "path": path }),
            Address::Tcp(at) | Address::Tls(at) => {
                let (host, port) = host_and_port(at)?;
                json!({ "type": "inet", "host": host, "port": port })
            }
        };
        // The name of a node begins with a letter.
        let node = format!("w{}", self.serial);
        let mut disk = json!({
            "driver": "nbd",
            "node-name": node,
            "server": server,
            "export": self.export,
            "reconnect-delay": RECONNECT,
            "cache": { "direct": true },
        });
        if self.read_only {
            disk["read-only"] = Value::Bool(true);
        } else {
            disk["discard"] = "unmap".into();
            disk["detect-zeroes"] = "unmap".into();
        }
        let mut object = String::new();
        if self.by_tls() {
            disk["tls-creds"] = TLS_OBJECT.into();
            let creds = format!("tls-creds-x509,id={TLS_OBJECT},endpoint=client,dir={}", self.certificates);
            object = format!("-object {} \\\n", shell_word(&creds));
        }
        let on_error = "werror=stop,rerror=stop";
        let device = format!("virtio-blk-pci,drive={node},serial={},{on_error}", self.serial);
        Ok(format!("{object}-blockdev {} \\\n-device {device}", shell_word(&disk.to_string())))
    }

    fn libvirt(&self, device: &str) -> Result<String> {
        let host = match &self.address {
            Address::Unix(path) => format!("transport='unix' socket='{}'", xml(&path.to_string_lossy())),
            Address::Tcp(at) | Address::Tls(at) => {
                let (host, port) = host_and_port(at)?;
                format!("name='{}' port='{port}'", xml(&host))
            }
        };
        // The certificates are where qemu.conf says, as `nbd_tls_x509_cert_dir`.
        let tls = if self.by_tls() { " tls='yes'" } else { "" };
        let (discards, read_only) = match self.read_only {
            true => ("", "\n  <readonly/>"),
            false => (" discard='unmap' detect_zeroes='unmap'", ""),
        };
        Ok(format!(
            "<disk type='network' device='disk'>\n  <driver name='qemu' type='raw' cache='none' error_policy='stop' \
             rerror_policy='stop'{discards}/>\n  <source protocol='nbd' name='{}'{tls}>\n    <host {host}/>\n    <reconnect \
             delay='{RECONNECT}'/>\n  </source>\n  <target dev='{}' bus='virtio'/>\n  <serial>{}</serial>{read_only}\n</disk>",
            xml(&self.export),
            xml(device),
            self.serial
        ))
    }

    /// Returns what to type for nbd-client. With `-persist` the kernel waits for a new connection as long as
    /// `nbd-client` runs to make it; `-timeout` would make errors of a pause.
    fn nbd_client(&self, device: &str) -> Result<String> {
        Ok(format!("modprobe nbd\n{}", self.nbd_client_line(device, shell_word)?))
    }

    fn nbd_client_line(&self, device: &str, quoted: fn(&str) -> String) -> Result<String> {
        let server = match &self.address {
            Address::Unix(path) => format!("-unix {}", quoted(&path.to_string_lossy())),
            Address::Tcp(at) | Address::Tls(at) => {
                let (host, port) = host_and_port(at)?;
                format!("{} {port}", quoted(&host))
            }
        };
        let file = |name: &str| quoted(&format!("{}/{name}", self.certificates));
        let tls = match self.by_tls() {
            true => format!(
                " -enable-tls -cacertfile {} -certfile {} -keyfile {}",
                file("ca-cert.pem"),
                file("client-cert.pem"),
                file("client-key.pem")
            ),
            false => String::new(),
        };
        let read_only = if self.read_only { " -readonly" } else { "" };
        Ok(format!(
            "nbd-client {server} {} -name {} -connections {CONNECTIONS} -persist{read_only}{tls}",
            quoted(device),
            quoted(&self.export)
        ))
    }

    fn unit(&self, device: &str) -> Result<String> {
        let line = self.nbd_client_line(device, unit_word)?;
        let device_word = unit_word(device);
        let local = match self.address {
            Address::Unix(_) => "Wants=windlass.service\nAfter=windlass.service\n",
            Address::Tcp(_) | Address::Tls(_) => "Wants=network-online.target\nAfter=network-online.target\n",
        };
        Ok(format!(
            "# /etc/systemd/system/windlass-disk-{}.service\n[Unit]\nDescription={} as {device}\n{local}Before=remote-fs-pre.target\n\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStartPre=/sbin/modprobe nbd\nExecStart=/usr/sbin/{line}\n\
             ExecStop=/usr/sbin/nbd-client -d {device_word}\n\n[Install]\nWantedBy=multi-user.target remote-fs.target",
            self.serial,
            self.export.replace('%', "%%"),
        ))
    }
}

/// Returns the kernel's device, `/dev/nbd0` unless another is named.
fn kernel_device(named: Option<&str>) -> Result<&str> {
    let device = named.unwrap_or("/dev/nbd0");
    kernel_number(device).map(|_| device)
}

/// Returns the number in `/dev/nbdN`.
pub fn kernel_number(device: &str) -> Result<u32> {
    let number = device.strip_prefix("/dev/nbd").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let wrong = || Error::new(Kind::Usage, format!("{device:?} is no device of NBD: write /dev/nbd0, say"));
    number.and_then(|n| n.parse().ok()).ok_or_else(wrong)
}

fn host_and_port(at: &str) -> Result<(String, String)> {
    let (host, port) = at
        .rsplit_once(':')
        .ok_or_else(|| Error::new(Kind::Internal, format!("{at} is no address of the network")))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.to_owned()))
}

/// Quotes a word for a line of a systemd unit.
fn unit_word(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if text.contains([' ', '\t', '\'', '"', ';']) { format!("\"{text}\"") } else { text }
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(address: &str, read_only: bool) -> Disk {
        Disk {
            address: address.parse().unwrap(),
            certificates: "/etc/pki/w".into(),
            export: "tank/web".into(),
            read_only,
            serial: "0123456789abcdef0123".into(),
            shows: format!("windlass:{}:{}:-:tank/web", HostId(1), windlass_base::VolumeId(2))
                .parse()
                .unwrap(),
        }
    }

    #[test]
    fn a_socket_of_this_host_comes_first() {
        let listening = ["[::1]:10809".to_owned(), "unix:/run/w/nbd.sock".to_owned()];
        assert_eq!(choose(&listening, None).unwrap().to_string(), "unix:/run/w/nbd.sock");
        let tcp = "[::1]:10809".parse().unwrap();
        assert_eq!(choose(&listening, Some(&tcp)).unwrap(), tcp);
        assert_eq!(choose(&listening[..1], None).unwrap(), tcp);
        let by_tls = choose(&["tls:0.0.0.0:1".to_owned()], None).unwrap();
        assert!(matches!(&by_tls, Address::Tls(named) if !named.starts_with("0.0.0.0")), "{by_tls}");
        let Address::Tcp(named) = choose(&["0.0.0.0:10809".to_owned()], None).unwrap() else { panic!() };
        assert!(named.ends_with(":10809") && !named.starts_with("0.0.0.0"), "{named}");
        let other = "10.0.0.1:1".parse().unwrap();
        assert!(choose(&listening, Some(&other)).unwrap_err().to_string().contains("unix:/run/w/nbd.sock"));
        assert!(choose(&[], None).unwrap_err().is(Kind::Closed));
        assert!(choose(&[], Some(&other)).unwrap_err().is(Kind::Closed));
    }

    #[test]
    fn words_are_quoted_for_whom_they_are() {
        assert_eq!(unit_word("/a b/50%$x"), "\"/a b/50%%$$x\"");
        assert_eq!(xml("<a & 'b'>"), "&lt;a &amp; &apos;b&apos;&gt;");
        assert_eq!(host_and_port("[::1]:10809").unwrap(), ("::1".into(), "10809".into()));
    }

    #[test]
    fn each_client_gets_what_it_can_read() {
        let local = disk("unix:/run/o'w/nbd.sock", false);
        let qemu = local.qemu().unwrap();
        let json = qemu.split_once(r"'\''").map(|_| qemu.replace(r"'\''", "\u{1}")).unwrap();
        let json = json.split('\'').nth(1).unwrap().replace('\u{1}', "'");
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["server"], json!({ "type": "unix", "path": "/run/o'w/nbd.sock" }));
        assert_eq!((&json["reconnect-delay"], &json["discard"]), (&json!(300), &json!("unmap")));
        assert!(
            qemu.ends_with("drive=w0123456789abcdef0123,serial=0123456789abcdef0123,werror=stop,rerror=stop")
        );
        assert!(local.libvirt("vdb").unwrap().contains("socket='/run/o&apos;w/nbd.sock'"));
        let far = disk("[::1]:10809", true);
        assert!(far.qemu().unwrap().contains(r#""read-only":true"#));
        assert!(!far.qemu().unwrap().contains("discard"));
        let xml = far.libvirt("vda").unwrap();
        assert!(xml.contains("<host name='::1' port='10809'/>") && xml.contains("<readonly/>"), "{xml}");
        assert!(far.unit("/dev/nbd3").unwrap().contains(
            "ExecStart=/usr/sbin/nbd-client ::1 10809 /dev/nbd3 -name tank/web -connections 4 -persist -readonly\n"
        ));
        let tls = disk("tls:[::1]:10809", false);
        assert!(tls.qemu().unwrap().starts_with(
            "-object tls-creds-x509,id=windlass-tls,endpoint=client,dir=/etc/pki/w \\\n-blockdev "
        ));
        assert!(tls.qemu().unwrap().contains(r#""tls-creds":"windlass-tls""#));
        assert!(tls.libvirt("vda").unwrap().contains("<source protocol='nbd' name='tank/web' tls='yes'>"));
        assert!(tls.nbd_client("/dev/nbd0").unwrap().ends_with(
            "-persist -enable-tls -cacertfile /etc/pki/w/ca-cert.pem -certfile /etc/pki/w/client-cert.pem \
             -keyfile /etc/pki/w/client-key.pem"
        ));
        assert_eq!(tls.uri(), "nbds://[::1]:10809/tank/web?tls-certificates=/etc/pki/w");
        assert!(kernel_device(Some("/dev/nbd12")).is_ok() && kernel_device(None).is_ok());
        for bad in ["/dev/sda", "/dev/nbd", "/dev/nbd0p1", "nbd0"] {
            assert!(kernel_device(Some(bad)).unwrap_err().is(Kind::Usage), "{bad}");
        }
    }
}
