//! What a mount is told: names by the kernel, keys and attributes by the bucket, options by the user, notes by an earlier run.

use super::object::{
    Meta, MountOptions, NAME_MAX, Naming, Ns, Shown, UploadToken, VersionName, Wanted, belongs, last, show,
    show_beside, want,
};
use super::staging::fuzz as staging;
use windlass_fuzz::{Target, text, texts};
use windlass_store::Attrs;

pub const TARGETS: &[Target] = &[
    Target { name: "fuse_names", run: names, seeds: some_names, memory: 64 << 10 },
    Target { name: "object_keys", run: keys, seeds: some_keys, memory: 64 << 10 },
    Target { name: "object_metadata", run: metadata, seeds: some_metadata, memory: 128 << 10 },
    Target { name: "mount_options", run: options, seeds: some_options, memory: 64 << 10 },
    Target { name: "staging_folder", run: staging::folder, seeds: staging::some_folders, memory: 2 << 20 },
];

fn some_names() -> Vec<Vec<u8>> {
    texts(&[
        "a",
        "%~%2E",
        "%~a%!",
        "%~%25~x",
        "%~abc%+",
        ".versions",
        "%~%2Eversions",
        "2026-11-20T09:15:00.009Z-null-deleted",
        "%~2026-11-20T09:15:00.009Z-a%2Fb",
    ])
}

/// Bytes of a name: it stands for one key, which is shown under that name alone.
fn names(data: &[u8]) {
    for versions in [false, true] {
        let naming = Naming { versions };
        match naming.want(data) {
            // The kernel gives no slash and no zero byte, and never nothing.
            Some(Wanted::Any(component))
                if !matches!(data, b"" | b"." | b"..") && !data.contains(&b'/') && !data.contains(&0) =>
            {
                assert_eq!(naming.show(&component), Shown::Name(data.to_vec()), "{component:?}");
            }
            Some(Wanted::Object(component)) => assert_eq!(show_beside(&component).as_deref(), Some(data)),
            Some(Wanted::Piece(component)) => assert!(!component.contains('/')),
            _ => {}
        }
    }
    if let Some(version) = VersionName::read(data) {
        assert_eq!(version.show().as_deref(), Some(data));
    }
}

fn some_keys() -> Vec<Vec<u8>> {
    let long = "ä".repeat(200);
    texts(&["a/b", "a//", "./../x", "%~x", "a\0b", &long, ".versions/a", "100%"])
}

/// A key: each component has a name that leads back to it.
fn keys(data: &[u8]) {
    text(data, |key| {
        let _ = last(key);
        for component in key.split('/') {
            for versions in [false, true] {
                let naming = Naming { versions };
                match naming.show(component) {
                    Shown::Name(name) => {
                        assert!(
                            !name.is_empty()
                                && name.len() <= NAME_MAX
                                && !name.contains(&b'/')
                                && !name.contains(&0)
                        );
                        assert!(!matches!(&name[..], b"." | b".."));
                        assert_eq!(naming.want(&name), Some(Wanted::Any(component.to_owned())));
                    }
                    Shown::Piece { name, len } => {
                        assert!(name.len() <= NAME_MAX && 0 < len && len < component.len());
                        assert_eq!(want(&name), Some(Wanted::Piece(component[..len].to_owned())));
                        assert!(belongs(&component[..len], &component[len..]));
                    }
                }
            }
            if let Some(beside) = show_beside(component) {
                assert_eq!(want(&beside), Some(Wanted::Object(component.to_owned())));
            }
            if let Shown::Name(name) = show(component) {
                assert!(!name.is_empty());
            }
        }
    });
}

fn some_metadata() -> Vec<Vec<u8>> {
    texts(&[
        "mode=33188\nuid=1000\ngid=0\nmtime=1700000000.000000001\natime=-5.5\nctime=9223372036.9",
        "mode=0100600\nxattr=%7B%22user.a%22%3A%22aGk%3D%22%7D\nwindlass-upload=00",
    ])
}

/// Lines NAME=VALUE, as they stand behind `x-amz-meta-`.
fn metadata(data: &[u8]) {
    text(data, |text| {
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut attrs = Attrs { user: text.lines().filter_map(pair).collect(), ..Attrs::default() };
        let _ = (UploadToken::of(&attrs, 5), attrs.mode(), attrs.id("uid"), attrs.id("gid"));
        for which in ["mtime", "ctime", "atime"] {
            if let Some(at) = attrs.time(which) {
                attrs.set_time(which, at);
                assert_eq!(attrs.time(which), Some(at));
            }
        }
        let all = attrs.xattrs();
        attrs.set_xattrs(&all);
        assert_eq!(attrs.xattrs(), all);
        let _ = Ns::from_ms(data.len() as u64);
    });
}

fn some_options() -> Vec<Vec<u8>> {
    texts(&[
        "ro,flush=local,uid=5,umask=022,file_mode=640,allow_other,endpoint=http://h:1,region=r",
        r"cache=/c\,d:10G,dir-mode=0755,x-systemd.automount,noatime,profile=p",
        "versions,metadata_ttl=5s,part_size=16M,max_write=1M,stat_cache_expire=9",
    ])
}

fn options(data: &[u8]) {
    text(data, |text| drop(MountOptions::parse(text)));
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
