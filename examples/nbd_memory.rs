//! The NBD face alone, over memory: `cargo run --release --example nbd_memory -- ADDR SIZE [NAME]...`.
//! What it costs without any storage is measured against `nbdkit memory`.

use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::units::parse_size;
use windlass_nbd::{Address, Description, MemoryDisk, MemoryExports, serve};

#[tokio::main]
async fn main() -> windlass_base::Result<()> {
    let mut args = std::env::args().skip(1);
    let address: Address = args.next().unwrap_or_else(|| "127.0.0.1:10809".into()).parse()?;
    let size = parse_size(&args.next().unwrap_or_else(|| "1G".into()))?;
    let rt = Rt::new(RealRuntime::current());
    let mut names: Vec<String> = args.collect();
    if names.is_empty() {
        names.push("memory".into());
    }
    let disk = |name: String| {
        let text = "gone when the server is".into();
        MemoryDisk::new(Description { name, text, size, read_only: false, multi_conn: true, fast_zero: true })
    };
    let exports = MemoryExports::new(names.into_iter().map(disk).collect());
    let stop = tokio_util::sync::CancellationToken::new();
    let server = serve(&rt, &address, exports, windlass_base::Budget::new(256 << 20), stop.clone()).await?;
    println!("nbd {}", server.address());
    let _ = tokio::signal::ctrl_c().await;
    stop.cancel();
    server.ended().await
}
