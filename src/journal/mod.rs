//! Local durability: segments, group commit, replay. Needs neither log nor map.
