//! Writes the man pages and the shells' completions, made from the command line itself: `cargo run --example manual DIR`.
//! An example, so that the program does not carry what makes them.

// A tool: what it writes is nobody's data.
#![allow(clippy::disallowed_types)]

use std::io;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;
use windlass::fs::MOUNT_OPTIONS;

/// `mount.windlass`, which reads its arguments by hand, as mount(8) gives them.
fn mount_helper(version: &'static str) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).short(name.chars().next()).action(ArgAction::SetTrue).help(help)
    };
    Command::new("mount.windlass")
        .version(version)
        .about("mount a bucket, as mount(8) and /etc/fstab ask for it")
        .long_about(
            "Mounts the bucket or folder URL at DIR. mount(8) calls this program for the filesystem type `windlass`, as in\n\
             /etc/fstab:\n\n\
             s3://bucket/prefix  /mnt  windlass  _netdev,x-systemd.automount  0  0\n\n\
             A mount is served by the process that serves the mounts before it, else by a daemon of the same user outside\n\
             of a sandbox, else by a process of its own. Files that could not be sent are kept in the state folder, and sent\n\
             by the next mount of the bucket.",
        )
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(Arg::new("URL").required(true).help("s3://BUCKET/PREFIX?… or file:///DIR, or the name of a store in windlass.toml"))
        .arg(Arg::new("DIR").required(true).help("An existing folder"))
        .arg(Arg::new("o").short('o').value_name("OPTIONS").help("Options, separated by commas"))
        .arg(flag("r", "Mount read-only"))
        .arg(flag("f", "Do nothing, and say that it would be done"))
        .arg(flag("s", "Taken and ignored, as are -n, -v and -w"))
        .after_help(MOUNT_OPTIONS)
}

/// What clap prints behind the options has lines of its own, which roff is to leave as they are.
fn page(command: Command, section: &str, name: &str, dir: &Path) -> io::Result<()> {
    let page = clap_mangen::Man::new(command).section(section).manual("Windlass").date("");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\n", ".SH NOTES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n");
    let mut file = std::fs::File::create(dir.join(format!("{name}.{section}")))?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// One page for the command and one for each below it.
fn pages(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    page(command.clone(), "1", name, dir)
}

fn main() -> io::Result<()> {
    let Some(out) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("name the folder to write to"));
    };
    let man = Path::new(&out).join("man");
    std::fs::create_dir_all(&man)?;
    let mut command = windlass::cli::command();
    command.build();
    let version = env!("CARGO_PKG_VERSION");
    pages(&command, "windlass", &man)?;
    page(mount_helper(version), "8", "mount.windlass", &man)?;
    for (shell, folder) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let to = Path::new(&out).join(folder);
        std::fs::create_dir_all(&to)?;
        clap_complete::generate_to(shell, &mut windlass::cli::command(), "windlass", &to)?;
    }
    Ok(())
}
