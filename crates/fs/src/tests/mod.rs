//! The filesystem without a kernel: against a reference model, by two mounts, under faults and crashes; and how many
//! requests each operation costs.

mod acts;
mod caching;
mod doubts;
mod edits;
mod faults;
mod freed;
mod identity;
mod kept;
mod keys;
mod large;
mod late;
mod listing;
mod memory;
mod model;
mod moves;
mod odd;
mod overtaken;
mod power;
mod races;
mod removals;
mod renames;
mod requests;
mod rewrites;
mod rules;
mod samples;
mod taken_up;
mod user;
mod versions;
