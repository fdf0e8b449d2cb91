//! `windlass man DIR`: the man pages, made from the command line itself, and the shells' completions.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};

use super::completion::{Shell, script};
use windlass_base::{Result, ResultExt as _};
use windlass_fs::MOUNT_OPTIONS;

#[derive(clap::Args, Debug)]
pub struct Man {
    /// The folder, made if there is none: pages go to `man` in it, completions to `bash`, `zsh` and `fish`
    dir: PathBuf,
}

/// Returns the command line of `mount.windlass`, which reads its arguments by hand, as mount(8) gives them.
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

/// Writes a man page. The text that clap prints behind the options has lines of its own, which roff is to
/// leave as they are.
fn page(command: Command, section: &str, name: &str, dir: &Path) -> Result<()> {
    let page = clap_mangen::Man::new(command).section(section).manual("Windlass").date("");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\n", ".SH NOTES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n");
    write(&dir.join(format!("{name}.{section}")), &text)
}

/// Writes one page for the command and one for each below it.
fn pages(command: &Command, name: &str, dir: &Path) -> Result<()> {
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    page(command.clone(), "1", name, dir)
}

// What is written is nobody's data.
#[allow(clippy::disallowed_methods)]
fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).context(|| format!("writing {}", file.display()))
}

fn make_folder(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).context(|| format!("making {}", dir.display()))
}

/// Runs `windlass man`.
pub fn run(args: &Man) -> Result<ExitCode> {
    let man = args.dir.join("man");
    make_folder(&man)?;
    let mut command = super::command();
    command.build();
    pages(&command, "windlass", &man)?;
    page(mount_helper(env!("CARGO_PKG_VERSION")), "8", "mount.windlass", &man)?;
    let shells = [
        (Shell::Bash, "bash", "windlass.bash"),
        (Shell::Zsh, "zsh", "_windlass"),
        (Shell::Fish, "fish", "windlass.fish"),
    ];
    for (shell, folder, file) in shells {
        let folder = args.dir.join(folder);
        make_folder(&folder)?;
        write(&folder.join(file), &script(shell)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
