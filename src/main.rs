//! The thin edge: everything is in the library.

fn main() {}
