//! The virtual disk: head, takeover, view and tip, checkpoint, states, snapshots, clones.
