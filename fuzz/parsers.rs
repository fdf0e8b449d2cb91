//! All targets in one program, so that the library is linked once: `WINDLASS_FUZZ_TARGET` names the one that is run.

#![no_main]

use std::sync::OnceLock;

use windlass_fuzz::Target;

/// Returns all targets, in the order of the layers.
fn targets() -> Vec<Target> {
    let layers: [&[Target]; 14] = [
        windlass_base::fuzz::TARGETS,
        windlass_store::fuzz::TARGETS,
        windlass_keys::fuzz::TARGETS,
        windlass_frame::fuzz::TARGETS,
        windlass_pool::fuzz::TARGETS,
        windlass_cache::fuzz::TARGETS,
        windlass_journal::fuzz::TARGETS,
        windlass_log::fuzz::TARGETS,
        windlass_map::fuzz::TARGETS,
        windlass_volume::fuzz::TARGETS,
        windlass_image::fuzz::TARGETS,
        windlass_fs::fuzz::TARGETS,
        windlass_nbd::fuzz::TARGETS,
        windlass::daemon::fuzz::TARGETS,
    ];
    layers.concat()
}

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("WINDLASS_FUZZ_TARGET").unwrap_or_default();
    targets().into_iter().find(|target| target.name == name).unwrap_or_else(|| {
        targets().iter().for_each(|target| eprintln!("{}", target.name));
        eprintln!("WINDLASS_FUZZ_TARGET={name:?} is none of these");
        std::process::exit(2)
    })
}

/// The target's own seeds, for a corpus that begins.
fn write_seeds(target: &Target) {
    let Some(dir) = std::env::var_os("WINDLASS_FUZZ_SEEDS") else { return };
    for (n, input) in (target.seeds)().iter().enumerate() {
        std::fs::write(std::path::Path::new(&dir).join(format!("seed-{n}")), input).expect("a folder of ours");
    }
}

libfuzzer_sys::fuzz_target!(
    init: {
        write_seeds(TARGET.get_or_init(chosen));
    },
    |data: &[u8]| {
        (TARGET.get_or_init(chosen).run)(data);
    }
);
