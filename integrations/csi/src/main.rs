//! `windlass-csi`: the CSI driver of one host. `windlass-csi relay` lets the driver of another host ask this one's daemon.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use windlass_csi::attach::Attacher;
use windlass_csi::daemon::Daemon;
use windlass_csi::driver::{Driver, router};
use windlass_csi::{grpc, host};

/// CSI driver: volumes of Windlass for Kubernetes and other container orchestrators
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The socket to serve, a path or `unix:PATH`
    #[arg(long, env = "CSI_ENDPOINT", default_value = "/var/lib/kubelet/plugins/csi.windlass/csi.sock")]
    endpoint: String,
    /// State folder of the Windlass daemon of this host
    #[arg(long, env = "WINDLASS_HOME", default_value = "/var/lib/windlass", global = true)]
    home: PathBuf,
    /// By which the orchestrator knows this host (default: its host name)
    #[arg(long, env = "NODE_ID")]
    node_id: Option<String>,
    /// By which the orchestrator knows the driver
    #[arg(long, default_value = "csi.windlass")]
    driver_name: String,
    /// The program that attaches devices
    #[arg(long, value_name = "PROGRAM", default_value = "windlass")]
    windlass: PathBuf,
    /// Another program that makes devices of volumes, for kernels without NBD: see the README
    #[arg(long, value_name = "PROGRAM")]
    attacher: Option<PathBuf>,
    /// Shell command that connects its stdin and stdout with the daemon on host $WINDLASS_OWNER, for snapshots and settings of
    /// volumes that are in use there: `ssh -T root@"$WINDLASS_OWNER" windlass-csi relay`
    #[arg(long, value_name = "COMMAND", env = "WINDLASS_CSI_REACH")]
    reach: Option<String>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Connects stdin and stdout with the control socket of this host's daemon
    Relay,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Some(Command::Relay) => relay(&args.home),
        None => serve(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "windlass-csi: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> Result<(), String> {
    let filter = EnvFilter::try_from_env("WINDLASS_CSI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_target(false).with_ansi(colours).init();
    let socket = PathBuf::from(args.endpoint.strip_prefix("unix:").unwrap_or(&args.endpoint));
    let here = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attacher = match args.attacher {
        Some(program) => Attacher::Program { program, home: args.home.clone() },
        None => Attacher::Kernel { windlass: args.windlass, home: args.home.clone() },
    };
    let driver = Driver {
        name: args.driver_name,
        node: args.node_id.unwrap_or_else(here),
        daemon: Daemon { home: args.home, reach: args.reach },
        attacher,
        busy: host::Busy::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| format!("starting: {e}"))?;
    runtime.block_on(async {
        let stop = ended().map_err(|e| format!("signals: {e}"))?;
        let served = grpc::serve(&socket, router(driver), stop).await;
        served.map_err(|e| format!("serving {}: {e}", socket.display()))
    })
}

/// Makes a future that ends when SIGTERM or SIGINT comes.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        futures::future::select(std::pin::pin!(term.recv()), std::pin::pin!(int.recv())).await;
    })
}

/// Copies between the standard streams and the daemon until the daemon has answered, or the caller hangs up.
#[allow(clippy::disallowed_methods, reason = "two copies that block; nothing here runs in the simulation")]
fn relay(home: &std::path::Path) -> Result<(), String> {
    let socket = home.join("control.sock");
    let failed = |e: std::io::Error| format!("{}: {e}", socket.display());
    let mut from = UnixStream::connect(&socket).map_err(failed)?;
    let mut to = from.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut to);
        // A caller that is gone gives its verb up.
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    std::io::copy(&mut from, &mut std::io::stdout()).map(drop).map_err(failed)
}
