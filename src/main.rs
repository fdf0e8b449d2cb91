//! The thin edge: everything is in the library.

/// The system's allocator keeps several times what the memory budget allows (docs/decisions.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    windlass::cli::main()
}
