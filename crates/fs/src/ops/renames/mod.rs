//! Renaming: a file's, a directory's, and what ends a directory's rename that was cut off or failed.

mod rename;
mod rename_dir;
mod rename_end;
