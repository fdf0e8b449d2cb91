//! Erasure coding over stores: layout, codec, membership, register, scrub, repair.
