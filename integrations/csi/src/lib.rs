//! The CSI driver: the services Identity, Controller and Node of the Container Storage Interface, for volumes of Windlass.
//!
//! It keeps nothing of its own: what there is, is asked of the daemon by its HTTP API (`daemon`), of the kernel by its table
//! of mounts and by sysfs (`host`). So every call can be repeated, and a driver that was killed goes on where it was.
//!
//! Modules, each of which uses only those above it: `csi` (the messages), `status` (what a call fails with), `authority` (what
//! clients send in vain), `grpc` (unary gRPC, both ends), `names` (names and ids), `request` (capabilities, sizes, parameters), `daemon`, `host` (programs, mounts,
//! devices), `attach` (how a volume becomes a device), then the services.

pub mod attach;
mod authority;
pub mod controller;
pub mod csi;
pub mod daemon;
pub mod driver;
pub mod grpc;
pub mod host;
pub mod identity;
pub mod names;
pub mod node;
pub mod request;
pub mod snapshots;
pub mod status;
