//! The engine of one state folder: config, control socket, memory budget, lifecycle; owns everything that runs.
