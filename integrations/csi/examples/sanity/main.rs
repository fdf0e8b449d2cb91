//! Tries a running driver: `sanity FOLDER mount|block SOCKET [SOCKET_OF_ANOTHER_HOST]`.
//!
//! The cases of `csi-sanity` (kubernetes-csi/csi-test 5.5), each under its name there, written anew; then what that program does
//! not ask: contents, two hosts, what must not be lost. A line a case, at the end how many passed. Everything that a case makes is
//! removed after it. `SANITY_ONLY=use,growth` runs these groups only, of identity, controller, snapshots, changes, arguments, use,
//! contents, refusals, hosts, growth, anew. The last two are run when they are named: one is for devices that see their volumes
//! grow, one for a pool with a trash.

mod beyond;
mod cases;
mod context;

use std::path::PathBuf;
use std::process::ExitCode;

use context::Context;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, access, socket, rest @ ..] = &args[..] else {
        println!("usage: sanity FOLDER mount|block SOCKET [SOCKET_OF_ANOTHER_HOST]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let other = rest.first().map(PathBuf::from);
        let context =
            Context::new(PathBuf::from(folder), access == "block", &PathBuf::from(socket), other).await;
        let mut context = match context {
            Ok(context) => context,
            Err(why) => {
                println!("not ok: {why}");
                return ExitCode::FAILURE;
            }
        };
        let only = std::env::var("SANITY_ONLY").ok();
        let wanted = |group: &str| match &only {
            Some(only) => only.split(',').any(|one| one == group),
            None => !["growth", "anew"].contains(&group),
        };
        macro_rules! groups {
            ($($name:literal => $group:path),+ $(,)?) => {
                $(if wanted($name) { $group(&mut context).await; })+
            };
        }
        groups!(
            "identity" => cases::identity,
            "controller" => cases::controller,
            "snapshots" => cases::snapshots,
            "changes" => cases::expand_and_modify,
            "arguments" => cases::node_arguments,
            "use" => cases::node_use,
            "contents" => beyond::contents,
            "refusals" => beyond::refusals,
            "hosts" => beyond::two_hosts,
            "growth" => beyond::growth,
            "anew" => beyond::anew,
        );
        println!("{} passed, {} failed", context.passed, context.failed);
        ExitCode::from(u8::from(context.failed > 0))
    })
}
